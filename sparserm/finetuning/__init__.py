"""Reward models fine-tuned with TRL, as baselines."""

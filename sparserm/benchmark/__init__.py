"""Benchmark of reward models trained on the same preference pairs."""

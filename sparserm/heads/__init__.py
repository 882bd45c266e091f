"""Reward heads: feature selection, fitting, saving, and the library of saved heads."""

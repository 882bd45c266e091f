"""The benchmark of reward models trained on the same pairs."""

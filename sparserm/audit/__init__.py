"""Checks of preference data: duplicates, conflicting labels, surface shortcuts."""

"""Audit of preference data: duplicates, conflicting labels, leakage and surface features."""

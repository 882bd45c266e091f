"""The Edit head page."""

"""Explanations: what a reward or a margin is made of, and whether steering confirms it."""

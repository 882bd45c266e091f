"""Scoring many responses: best-of-N and whole files."""

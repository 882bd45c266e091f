"""Helpers that know nothing of reward models: defaults, files, progress, quiet imports, threads."""

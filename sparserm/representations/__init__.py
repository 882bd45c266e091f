"""Pooled representations of responses, and the store that keeps them on disk."""

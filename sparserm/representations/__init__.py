"""Pooled representations of responses, and the store that caches them on disk."""

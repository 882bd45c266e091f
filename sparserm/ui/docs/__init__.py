"""The Docs page: the guides of docs/."""

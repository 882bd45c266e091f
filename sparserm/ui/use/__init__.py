"""The Use it page."""

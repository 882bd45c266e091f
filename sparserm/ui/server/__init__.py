"""The app's server: who may reach it, and its start."""

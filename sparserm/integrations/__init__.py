"""Integrations: transformers and the Hugging Face hub, TRL, Ray Data, and an HTTP server.

Optional dependencies are installed with the extras ``trl``, ``ray`` and ``serve``.
"""

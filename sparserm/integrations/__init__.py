"""Integrations: transformers and the Hugging Face Hub, TRL, Ray Data, and an HTTP server.

Optional dependencies are installed with the extras ``trl``, ``ray`` and ``serve``.
"""

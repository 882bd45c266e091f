"""Heads behind HTTP: the reward interfaces of OpenRLHF, vLLM and Text Embeddings Inference, and one of our own.

Needs the extra ``serve`` (``pip install "sparserm[serve]"``). Requests become work (``app``), work becomes batches for the one
language model (``batching``), and what policies have templated becomes conversations again (``dialogue``).
"""

"""HTTP server for heads, with the reward APIs of OpenRLHF, vLLM and Text Embeddings Inference (TEI), and its own.

Needs the extra ``serve`` (``pip install "sparserm[serve]"``). ``app`` has the endpoints, ``service`` computes rewards,
``batching`` collects requests into batches for the language model, and ``dialogue`` parses chat-templated text into
conversations.
"""

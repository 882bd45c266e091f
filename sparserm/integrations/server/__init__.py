"""HTTP server for heads, with the reward APIs of OpenRLHF, vLLM and Text Embeddings Inference (TEI), and its own.

Needs the extra ``serve`` (``pip install "sparserm[serve]"``). ``gate`` decides which requests pass, ``clients`` how many of one
client, and ``logs`` writes them down. ``app`` has our own, OpenRLHF's and TEI's paths and ``vllm`` those of vLLM, which share
``scorer``. ``service`` computes rewards, and ``batching`` collects requests into batches for the language model.
"""

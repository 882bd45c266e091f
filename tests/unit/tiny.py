"""Tiny random language models with a tiny tokenizer, saved as ``save_pretrained`` saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, Site

FAMILIES = ("llama", "qwen2", "gemma", "gemma2", "gpt2", "gpt_neox")
HIDDEN, LAYERS, CONTEXT, D_SAE = 32, 4, 512, 48
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Wide, so that attention tells contexts apart, and states that mix them up differ by far more than a tolerance.
INITIALIZER_RANGE = 0.2


def tiny_tokenizer(chat_template: str | None = CHATML):
    """Byte-level BPE: 256 bytes, a few merges, ``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("e", "r"), ("o", "n"), ("a", "n"), ("l", "l")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(family: str = "llama", *, seed: int = 0, context: int = CONTEXT, **settings):
    """A random causal language model of a family of transformers; ``settings`` go to its configuration.

    Of families that read images, too, it is the model without its head.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    sizes = {
        "vocab_size": 300,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context,
    }
    if family == "gpt2":
        sizes = {"vocab_size": 300, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": context}
    elif family in ("gpt_neox", "qwen2"):
        sizes = {name: value for name, value in sizes.items() if name != "head_dim"}
    if family == "gemma2":
        sizes["sliding_window"] = 16
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(family, **{**sizes, "initializer_range": INITIALIZER_RANGE, **tokens, **settings})
    torch.manual_seed(seed)
    auto = AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModel
    model = auto.from_config(config)
    with torch.no_grad():  # norms and biases start as ones and zeros, which would hide a norm that was left out
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_tiny(
    folder: str | Path, family: str = "llama", *, seed: int = 0, chat_template: str | None = CHATML, **settings
) -> Path:
    """Save a tiny model and tokenizer in ``folder``, as :meth:`sparserm.backbone.model.Backbone.load` reads them."""
    tiny_model(family, seed=seed, **settings).save_pretrained(folder)
    tiny_tokenizer(chat_template).save_pretrained(folder)
    return Path(folder)


def firing_sae(hook, seed: int = 0) -> SparseAutoencoder:
    """Random weights; some latents fire at some tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (HIDDEN, D_SAE), "W_dec": (D_SAE, HIDDEN), "b_enc": (D_SAE,), "b_dec": (HIDDEN,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["b_enc"] -= 15
    return SparseAutoencoder("tiny", "standard", hook, "tiny", weights)


HOOK = HookPoint(2)


def save_tiny_sae(
    folder: Path,
    *,
    layer: int = HOOK.layer,
    site: Site = "resid_post",
    d_in: int = HIDDEN,
    d_sae: int = 64,
    k: int = 8,
    threshold: float | None = None,
) -> Path:
    """A random SAE in SAELens's folder format: TopK, or JumpReLU with this threshold for every latent.

    At 15, a fifth of the latents fires at a token of the tiny model.
    """
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(d_sae, d_in, generator=generator)
    weights = {"W_enc": decoder.T.contiguous(), "b_enc": torch.zeros(d_sae), "W_dec": decoder, "b_dec": torch.zeros(d_in)}
    metadata = {"model_name": "tiny", "hook_name": HookPoint(layer, site).name}
    config = {"architecture": "topk", "d_in": d_in, "d_sae": d_sae, "k": k, "metadata": metadata}
    if threshold is not None:
        weights["threshold"] = torch.full((d_sae,), threshold)
        config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "metadata": metadata}
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder

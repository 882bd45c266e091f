"""Responses sampled from a language model: what a policy would say, for heads to score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparserm.backbone import context_length, load_language_model, resolve
from sparserm.defaults import DEFAULT_BACKBONE
from sparserm.tokenization import ChatTokenizer
from sparserm.types import Progress, Prompt, SparseRMError

#: Responses that are generated together.
BATCH = 16


def sample_responses(
    prompts: Sequence[Prompt],
    *,
    model: str | Path = DEFAULT_BACKBONE,
    n: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[tuple[str, ...]]:
    """``n`` responses to each prompt, in the order of the prompts; the same seed gives the same ones on the same machine.

    A response ends with its turn or at ``max_new_tokens``; one that says nothing at all is an empty string.

    Raises:
        SparseRMError: there is no such model, or a prompt leaves no room in its context.
    """
    from transformers import AutoTokenizer

    policy = load_language_model(model)
    folder, _ = resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = ChatTokenizer(tokenizer, context_length(policy.config))
    asked = [(chat.prompt_ids(prompt), i) for i, prompt in enumerate(prompts) for _ in range(n)]
    longest = max((len(ids) for ids, _ in asked), default=0)
    if longest + max_new_tokens > chat.max_length:
        raise SparseRMError(
            f"a prompt of {longest} tokens leaves no room for {max_new_tokens} new ones in a context of {chat.max_length}; "
            "shorten the prompt or ask for fewer new tokens"
        )
    found: list[list[str]] = [[] for _ in prompts]
    torch.manual_seed(seed)
    asked.sort(key=lambda one: (len(one[0]), one[1]))
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        texts = _generate(policy, tokenizer, [ids for ids, _ in batch], max_new_tokens, temperature)
        for (_, i), text in zip(batch, texts, strict=True):
            found[i].append(text)
        if progress:
            progress(min(start + BATCH, len(asked)), len(asked), "Sampling (responses)")
    return [tuple(texts) for texts in found]


def _generate(
    policy: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], max_new_tokens: int, temperature: float
) -> list[str]:
    """One response to each prompt of token ids, padded on the left."""
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        out = policy.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
            max_new_tokens=max_new_tokens, pad_token_id=pad,
        )  # fmt: skip
    return [tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in out]

"""Attention within rows that stand one after another in a single row of the tensors, each apart from the others.

So nothing is padded, and no response computes attention to another one. Transformers' attention is called once for each prompt
and response: fast on a CPU, while a GPU is faster with few large calls. Outside :func:`within` it is transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparserm.backbone.packing import Row
from sparserm.types import SparseRMError

#: The name under which transformers finds it, and a mask that stops transformers from making one; nothing reads it.
IN_ROWS, NO_MASK = "sparserm_rows", torch.zeros(1, 1, 1, 1)


@dataclass(frozen=True)
class _Part:
    """Tokens whose queries are attended together.

    Attributes:
        own: their positions.
        prompt: positions that all of them see before their own; None if there are none but their own.
        mask: ``[1, 1, own, prompt + own]``, 0 where a query sees a key and else minus infinity; None for a causal one.
    """

    own: slice
    prompt: slice | None = None
    mask: Tensor | None = None


_PARTS: ContextVar[Sequence[_Part]] = ContextVar("parts", default=())


@contextmanager
def within(rows: Sequence[Row], dtype: torch.dtype) -> Iterator[None]:
    """Set the rows of the passes in this context."""
    token = _PARTS.set(list(_parts(rows, dtype)))
    try:
        yield
    finally:
        _PARTS.reset(token)


def _parts(rows: Sequence[Row], dtype: torch.dtype) -> Iterator[_Part]:
    """A prompt with its first response, and each further response to it."""
    start = 0
    for row in rows:
        (_, _, end), *others = row.spans
        yield _Part(slice(start, start + end))
        for _, first, last in others:
            n = last - first
            mask = torch.full((n, row.prefix + n), float("-inf"), dtype=dtype).triu(row.prefix + 1)
            yield _Part(slice(start + first, start + last), slice(start, start + row.prefix), mask[None, None])
        start += len(row.ids)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Transformers' attention for each part: ``[1, heads, N, d]`` to ``[1, N, heads, d]``."""
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if not (parts := _PARTS.get()):
        return attention(module, query, key, value, attention_mask, **settings)
    if attention_mask is None or attention_mask.shape != NO_MASK.shape:
        raise SparseRMError(
            f"layers of type {type(module).__name__} mask their attention themselves (as in Doge), and responses cannot be "
            "kept apart in them; expected attention that transformers masks; choose another language model"
        )
    found = []
    for part in parts:
        k, v = key[:, :, part.own], value[:, :, part.own]
        if part.prompt is not None:
            k, v = torch.cat((key[:, :, part.prompt], k), 2), torch.cat((value[:, :, part.prompt], v), 2)
        found.append(attention(module, query[:, :, part.own], k, v, part.mask, **settings)[0])
    return torch.cat(found, 1), None


AttentionInterface.register(IN_ROWS, _attend)
AttentionMaskInterface.register(IN_ROWS, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])

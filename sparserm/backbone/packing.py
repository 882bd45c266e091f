"""Packing texts into rows and batches for the backbone.

Responses to the same prompt are packed into one row after a single copy of the prompt: each response attends to the prompt and
itself, at the positions that it would have alone. The rows of a batch are padded on the right to the same length, or joined
into one (see :mod:`sparserm.backbone.attention`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from sparserm.backbone.device import to_device
from sparserm.types import TokenizedText

#: Maximum length of a row with several responses: the cost of attention grows with its square.
ROW_TOKENS = 1024


@dataclass(frozen=True)
class Row:
    """A prompt and one or more responses to it.

    Attributes:
        ids: token ids of the prompt, then of each response.
        prefix: tokens of the prompt.
        spans: ``(text, start, end)``: the text's index, and the span of its response and the tokens that close its turn.
    """

    ids: tuple[int, ...]
    prefix: int
    spans: tuple[tuple[int, int, int], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest text: of the prompt and one response."""
        return self.prefix + max(end - start for _, start, end in self.spans)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors.

    Attributes:
        rows: the rows.
        input_ids: ``[B, T]``, padded with 0 on the right.
        position_ids: ``[B, T]``; every response continues the prompt's positions.
        segments: ``[B, T]``, 0 in the prompt and 1, 2, ... in the row's responses, padding in the last one's; None if every
            row holds one response, or the rows are joined.
        starts: where each row starts in ``[B * T]``.
        joined: whether the rows stand one after another in one row of the tensors, without padding.
    """

    rows: tuple[Row, ...]
    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor | None
    starts: tuple[int, ...]
    joined: bool = False

    @property
    def mask(self) -> Tensor | None:
        """``[B, 1, T, T]`` bool, True where a query (row) attends to a key (column): in the prompt and in its own response.

        None if every row holds one response, since causal attention never sees padding on the right, and for joined rows.
        """
        if self.segments is None:
            return None
        queries, keys = self.segments[:, :, None], self.segments[:, None, :]
        width = self.segments.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.segments.device).tril()
        return (causal & ((keys == 0) | (keys == queries)))[:, None]

    def to(self, device: torch.device) -> Batch:
        """Copy the inputs of a forward pass to a device: positions and segments only if there are segments."""
        moved = replace(self, input_ids=to_device(self.input_ids, device))
        if self.segments is None:  # joined rows are on the CPU
            return moved
        return replace(moved, position_ids=to_device(self.position_ids, device), segments=to_device(self.segments, device))

    def positions(self) -> Tensor:
        """``[N]`` indices into ``[B * T]`` of the tokens of the spans, text after text."""
        both = zip(self.starts, self.rows, strict=True)
        return torch.from_numpy(
            np.concatenate([np.arange(at + start, at + end) for at, row in both for _, start, end in row.spans])
        )


def pack(texts: Sequence[TokenizedText], *, share_up_to: float, row_tokens: int = ROW_TOKENS) -> list[Row]:
    """Pack the texts into rows, shortest row first; a text of more than ``share_up_to`` tokens has a row of its own."""
    by_prompt: dict[tuple[int, ...] | int, list[int]] = {}
    for i, text in enumerate(texts):
        shares = len(text.ids) <= share_up_to and text.start
        by_prompt.setdefault(text.ids[: text.start] if shares else i, []).append(i)
    rows = []
    for members in by_prompt.values():
        row: list[int] = []
        length = 0
        for i in members:
            own = len(texts[i].ids) - texts[i].start
            if row and length + own > row_tokens:
                rows.append(_row(texts, row))
                row, length = [], 0
            length += own if row else len(texts[i].ids)
            row.append(i)
        rows.append(_row(texts, row))
    return sorted(rows, key=lambda row: len(row.ids))


def similar(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Group rows, given by ascending length, so that each group has at most ``batch_tokens`` padded tokens or is one row."""
    group: list[Row] = []
    for row in rows:
        if group and (len(group) + 1) * len(row.ids) > batch_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def even(rows: Sequence[Row], batch_tokens: int, multiple: int) -> list[list[Row]]:
    """Group rows, given by ascending length, so that the groups have about the same number of tokens.

    Each has about ``batch_tokens`` at most, and their number is a multiple of ``multiple`` if there are as many rows.
    """
    total = sum(len(row.ids) for row in rows)
    groups: list[list[Row]] = [[] for _ in range(multiple * math.ceil(total / (multiple * batch_tokens)))]
    smallest = [(0, i) for i in range(len(groups))]
    for row in reversed(rows):  # the longest first, each into the group that is the smallest so far
        tokens, i = smallest[0]
        groups[i].append(row)
        heapq.heapreplace(smallest, (tokens + len(row.ids), i))
    return [group for group in groups if group]


def _row(texts: Sequence[TokenizedText], members: Sequence[int]) -> Row:
    first = texts[members[0]]
    ids = list(first.ids[: first.start])
    spans = []
    for i in members:
        text = texts[i]
        spans.append((i, len(ids), len(ids) + len(text.ids) - text.start))
        ids += text.ids[text.start :]
    return Row(tuple(ids), first.start, tuple(spans))


def padded(rows: Sequence[Row]) -> Batch:
    """A batch of rows, the longest last or first, padded on the right."""
    lengths = np.array([len(row.ids) for row in rows])
    width = int(lengths.max())
    columns = np.arange(width)
    input_ids = np.zeros((len(rows), width), np.int64)
    # All at once: on a GPU, for which a batch has a hundred rows, the host's time counts.
    input_ids[columns < lengths[:, None]] = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int64, lengths.sum())
    position_ids = np.tile(columns, (len(rows), 1))
    # Segment 0 is the prompt, which all responses of the row attend to; padding is in the last response's segment.
    segments = np.zeros((len(rows), width), np.int64)
    for r, row in enumerate(rows):
        for segment, (_, start, _end) in enumerate(row.spans, 1):
            position_ids[r, start:] = columns[row.prefix : row.prefix + width - start]
            segments[r, start:] = segment
    shared = any(len(row.spans) > 1 for row in rows)
    starts = tuple(range(0, len(rows) * width, width))
    ids, positions, own = (torch.from_numpy(array) for array in (input_ids, position_ids, segments))
    return Batch(tuple(rows), ids, positions, own if shared else None, starts)


def joined(rows: Sequence[Row]) -> Batch:
    """A batch of rows, one after another."""
    ids = [token for row in rows for token in row.ids]
    positions: list[int] = []
    for row in rows:
        positions += range(row.prefix)
        for _, start, end in row.spans:
            positions += range(row.prefix, row.prefix + end - start)
    starts = np.cumsum([0, *(len(row.ids) for row in rows[:-1])]).tolist()
    return Batch(tuple(rows), torch.tensor([ids]), torch.tensor([positions]), None, tuple(starts), joined=True)

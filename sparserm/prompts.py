"""Prompts without responses: what a policy is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sparserm.best_of_n import read_prompt
from sparserm.pairs import parse_rows, prompt_key, read_source
from sparserm.pairs_messages import RowError
from sparserm.types import Prompt, SparseRMError


class PromptSplit(NamedTuple):
    """Prompts to train on, and others to measure on."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The distinct prompts of a source, in its order.

    Args:
        source: what :func:`~sparserm.pairs.load_pairs` takes: preference pairs, or rows with a ``prompt`` and whatever else.

    Raises:
        SparseRMError: the source cannot be read, or a row has no prompt that can be used.
    """
    name, rows = read_source(source)
    there = {column for row in rows for column in row.values or ()}
    if {"chosen", "rejected"} <= there and "prompt" not in there:  # the prompt is what both responses begin with
        prompts = [pair.prompt for pair in parse_rows(rows, name, columns=None, skip_bad=False).pairs]
    else:
        prompts = []
        for row in rows:
            try:
                if row.issue is not None:
                    raise SparseRMError(f"{name}: {row.issue}; mend the row or leave it out")
                prompts.append(read_prompt(row.values or {}))
            except RowError as problem:
                raise SparseRMError(
                    f"{name}: row {row.row}, column {problem.column}: {problem.problem}; mend the row or leave it out"
                ) from problem
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        distinct.setdefault(prompt_key(prompt), prompt)
    return tuple(distinct.values())


def split_prompts(prompts: Sequence[Prompt], held_out: int, seed: int) -> PromptSplit:
    """Some prompts drawn at random to measure on, at most a third of all, and the others in random order to train on.

    Raises:
        SparseRMError: there are fewer than six.
    """
    if len(prompts) < 6:
        raise SparseRMError(
            f"there are {len(prompts)} different prompts; expected six at least, since a third is held out to measure on"
        )
    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    size = min(held_out, len(shuffled) // 3)
    return PromptSplit(tuple(shuffled[size:]), tuple(shuffled[:size]))

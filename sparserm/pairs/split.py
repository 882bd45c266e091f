"""Prompt keys, train/test splits by prompt, and checks for prompts shared by two data sets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sparserm.types import PairIssue, PreferenceData, PreferencePair, Prompt, SparseRMError


class Split(NamedTuple):
    """Two parts of one source that share no prompt."""

    train: PreferenceData
    test: PreferenceData


def preference_data(name: str, pairs: Sequence[PreferencePair], issues: Sequence[PairIssue], n_rows: int) -> PreferenceData:
    """Build a :class:`PreferenceData` with its content hash."""
    return PreferenceData(name, tuple(pairs), tuple(issues), n_rows, content_hash(pairs))


def content_hash(pairs: Iterable[PreferencePair]) -> str:
    """SHA-256 (64 hex digits) of the prompts, chosen and rejected responses in order; independent of the file format."""
    digest = hashlib.sha256()
    for pair in pairs:
        turns = [[turn.role, turn.content] for turn in pair.prompt]
        digest.update(json.dumps([turns, pair.chosen, pair.rejected]).encode() + b"\n")
    return digest.hexdigest()


def prompt_key(prompt: str | Prompt) -> str:
    """Hash of a prompt (32 hex digits) that ignores differences in white space; stable across processes."""
    turns = [("user", prompt)] if isinstance(prompt, str) else [(turn.role, turn.content) for turn in prompt]
    normal = [[role, " ".join(content.split())] for role, content in turns]
    return hashlib.sha256(json.dumps(normal).encode()).hexdigest()[:32]


def prompt_groups(pairs: Sequence[PreferencePair]) -> np.ndarray:
    """``[n]`` int64 group of each pair: pairs with the same prompt share a number; numbered by first occurrence."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(prompt_key(pair.prompt), len(numbers)) for pair in pairs], np.int64)


def text_groups(pairs: Sequence[PreferencePair]) -> np.ndarray:
    """``[2, n]`` int64: responses with the same text share a number; chosen ones above rejected ones."""
    numbers: dict[str, int] = {}
    sides = ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    return np.array([[numbers.setdefault(text, len(numbers)) for text in side] for side in sides], np.int64)


def short_key(prompt: str | Prompt) -> int:
    """The first 60 bits of :func:`prompt_key`, which a saved head stores instead of the prompt."""
    return int(prompt_key(prompt)[:15], 16)


def check_leakage(train: PreferenceData, test: PreferenceData) -> tuple[PairIssue, ...]:
    """A warning for each row of ``test`` whose prompt is also in ``train``: a head must not be evaluated on it."""
    seen: dict[str, int] = {}
    for pair in train.pairs:
        seen.setdefault(prompt_key(pair.prompt), pair.row)
    shared = ((pair.row, seen.get(prompt_key(pair.prompt))) for pair in test.pairs)
    return tuple(
        PairIssue(row, "prompt", f"is also the prompt of row {in_train} of the training pairs ({train.name})", "warning")
        for row, in_train in shared
        if in_train is not None
    )


def split_by_prompt(pairs: PreferenceData, *, test_fraction: float, seed: int) -> Split:
    """Split pairs by prompt, so that no prompt is in both parts.

    The split depends only on the prompts and the seed, not on the row order. Each part keeps the row numbers and issues of its
    rows; ``test_fraction`` is a fraction of the prompts.

    Raises:
        SparseRMError: ``test_fraction`` is not between 0 and 1, or there are fewer than two prompts.
    """
    if not 0 < test_fraction < 1:
        raise SparseRMError(f"test_fraction is {test_fraction}: expected a fraction between 0 and 1, e.g. 0.2")
    keys = [prompt_key(pair.prompt) for pair in pairs.pairs]
    order = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    if len(order) < 2:
        raise SparseRMError(f"{pairs.name} has {len(order)} distinct prompt(s): a split needs at least 2")
    n_test = min(max(round(test_fraction * len(order)), 1), len(order) - 1)
    held_out = set(order[:n_test])

    def part(what: str, in_test: bool) -> PreferenceData:
        kept = [pair for pair, key in zip(pairs.pairs, keys, strict=True) if (key in held_out) == in_test]
        rows = {pair.row for pair in kept}
        return preference_data(
            f"{pairs.name} ({what})", kept, [issue for issue in pairs.issues if issue.row in rows], len(rows)
        )

    return Split(part("train", False), part("test", True))

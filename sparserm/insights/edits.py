"""Pairs that are left out or turned around, to see what changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparserm.pairs.messages import trl_row
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferenceData, PreferencePair


@dataclass(frozen=True)
class PairEdits:
    """Pairs of a source, by 0-based index, that are dropped, and others whose responses change sides."""

    dropped: frozenset[int] = frozenset()
    flipped: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.dropped or self.flipped)

    def drop(self, rows: frozenset[int]) -> PairEdits:
        """With these pairs dropped too."""
        return PairEdits(self.dropped | rows, self.flipped - rows)

    def flip(self, rows: frozenset[int]) -> PairEdits:
        """With these pairs flipped; those that were are as they came."""
        return PairEdits(self.dropped, self.flipped ^ rows)

    def kept(self, n: int) -> np.ndarray:
        """Ascending indices of the pairs that are not dropped, of ``n``."""
        return np.array(sorted(set(range(n)) - self.dropped), np.int64)

    def apply(self, data: PreferenceData, pairs: PairRepresentations) -> tuple[PreferenceData, PairRepresentations]:
        """The edited pairs and their representations, with a content hash of their own."""
        kept = self.kept(len(data.pairs))
        turned = np.isin(np.arange(len(data.pairs)), list(self.flipped))
        what = f"{data.content_hash} without {sorted(self.dropped)} turned {sorted(self.flipped)}"
        own = tuple(_turned(data.pairs[i]) if turned[i] else data.pairs[i] for i in kept.tolist())
        edited = replace(data, pairs=own, content_hash=hashlib.sha256(what.encode()).hexdigest())
        return edited, pairs.swap(turned).take(kept)


def pair_rows(pairs: tuple[PreferencePair, ...]) -> list[dict[str, Any]]:
    """Pairs as rows of a file, in TRL's format, with their categories and ids if they have any."""
    return [
        {
            **trl_row(pair.prompt, pair.chosen, pair.rejected),
            **{name: value for name, value in (("category", pair.category), ("id", pair.id)) if value},
        }
        for pair in pairs
    ]


def _turned(pair: PreferencePair) -> PreferencePair:
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)

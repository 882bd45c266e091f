"""Pairs that are left out or turned around, to see what changes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparserm.pairs.messages import trl_row
from sparserm.representations.values import PairRepresentations
from sparserm.support.parsing import whole_number
from sparserm.types import PreferenceData, PreferencePair

#: Characters of the content hash that a link has.
_OF = 8


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

    def to_text(self, content_hash: str) -> str:
        """For a link, with the pairs that it is of: ``1f2e3d4c d3.17 f5`` drops indices 3 and 17 and flips 5."""
        parts = [kind + ".".join(map(str, sorted(rows))) for kind, rows in (("d", self.dropped), ("f", self.flipped)) if rows]
        return " ".join([content_hash[:_OF], *parts])

    @classmethod
    def from_text(cls, text: str, content_hash: str, n: int) -> PairEdits:
        """What :meth:`to_text` wrote; none for other pairs than these ``n``, or for anything else."""
        of, *parts = text.split(" ")
        found = {part[:1]: [whole_number(one) for one in part[1:].split(".")] for part in parts}
        rows = {kind: frozenset(one for one in found.get(kind, ()) if one is not None and one < n) for kind in "df"}
        if of != content_hash[:_OF] or sum(map(len, rows.values())) != sum(map(len, found.values())):
            return cls()
        return cls(rows["d"], rows["f"] - rows["d"])

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

"""Shortcuts beside the latents: length, lists, refusals and the like, and first words, tested as features like any other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from sparserm.audit.surface import MARKS, Mark, count_mark, count_marks
from sparserm.heads.screening import GatedScores
from sparserm.representations.shards import beside
from sparserm.types import PreferencePair

#: First words that are tested: the most frequent ones.
FIRST_WORDS = 12

#: The shortcut that is length itself.
LONGER = "is longer, in words"

_FIRST_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def first_words(pairs: Iterable[PreferencePair]) -> list[str]:
    """The most frequent first words of responses."""
    firsts = Counter(_first_word(text) for pair in pairs for text in (pair.chosen, pair.rejected))
    return [word for word, _ in firsts.most_common(FIRST_WORDS + 1) if word][:FIRST_WORDS]


def with_shortcuts(
    features: GatedScores, pairs: Sequence[PreferencePair], common: Sequence[str]
) -> tuple[GatedScores, list[str]]:
    """The features with the shortcuts as further columns, and the names of these.

    A response has a shortcut that is counted if it has more of it than the other response of its pair.

    Args:
        features: of ``pairs``, in the same order.
        common: the first words that are tested, see :func:`first_words`.
    """
    texts = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    chosen, rejected = (count_marks(side) for side in texts)
    firsts = [[_first_word(text) for text in side] for side in texts]
    begins = [
        np.array([[first == word for word in common] for first in side]).reshape(len(side), len(common)) for side in firsts
    ]
    names = [LONGER, *(f"has more {mark.name}" for mark in MARKS[1:]), *(f"begins with “{word}”" for word in common)]
    columns = np.hstack([chosen > rejected, begins[0]]), np.hstack([rejected > chosen, begins[1]])
    sides = (
        beside(own, csr_matrix(more, dtype=float))
        for own, more in zip((features.chosen, features.rejected), columns, strict=True)
    )
    both = dict(zip(("chosen", "rejected"), sides, strict=True))
    return replace(features, **both), names


def has_shortcut(shortcut: str, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """``[n]`` int8: +1 where the chosen response alone has a shortcut, or more of it, -1 where the rejected one has, else 0."""
    chosen, rejected = (_amounts(shortcut, side) for side in ([p.chosen for p in pairs], [p.rejected for p in pairs]))
    return np.sign(chosen - rejected).astype(np.int8)


def _amounts(shortcut: str, texts: Sequence[str]) -> np.ndarray:
    """``[n]`` how often each text has what a shortcut counts; whether it begins with the word of a shortcut."""
    if (mark := _mark_of(shortcut)) is not None:
        return count_mark(mark, texts)
    return np.array([shortcut == f"begins with “{_first_word(text)}”" for text in texts], float)


def _mark_of(shortcut: str) -> Mark | None:
    """The surface feature of which a shortcut counts more; None of one that is a first word."""
    return MARKS[0] if shortcut == LONGER else next((one for one in MARKS if shortcut == f"has more {one.name}"), None)


def places_of(shortcut: str, text: str) -> list[tuple[int, int]]:
    """Start and end of what a shortcut counts in a text; length has no places."""
    if shortcut == LONGER:
        return []
    if (mark := _mark_of(shortcut)) is not None:
        return [found.span() for found in mark.pattern.finditer(text.replace("’", "'"))]
    first = _FIRST_WORD.search(text)
    return [first.span()] if first and shortcut == f"begins with “{_first_word(text)}”" else []


def _first_word(text: str) -> str:
    """The first word of a text in lower case; empty if there is none."""
    found = _FIRST_WORD.match(text.lstrip(" \t\n\"'“*"))
    return found[0].lower().replace("’", "'") if found else ""

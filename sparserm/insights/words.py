"""The words at which a feature fires in the pairs at hand, and whether its name fits them.

A label was made and tested on other texts. In these the latent may fire on something else, and then the name would be false.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.features.firing import describe_firings
from sparserm.insights.snippets import Lit

#: Share of the firings that must be at words that the name was made of.
LEAST = 0.1

_QUOTED = re.compile(r"'([^']+(?:'[a-z]+)?)'(?!\w)")


@dataclass(frozen=True)
class WordsHere:
    """Where a feature fires in some responses of the pairs.

    Attributes:
        words: the words and their shares of the firings, weighted by activation, largest first.
        shown: those that make up most of the firings, e.g. ``doctor · ambulance``.
    """

    words: tuple[tuple[str, float], ...]
    shown: str

    @classmethod
    def of(cls, read: Sequence[Lit]) -> WordsHere:
        """The words at which a latent fires in responses that were read."""
        found = describe_firings([(i, one.pieces, np.array(one.values)) for i, one in enumerate(read) if any(one.values)])
        return cls(found.words, found.evidence.removeprefix("fires on: "))

    def fit(self, name: str, evidence: str) -> bool | None:
        """Whether enough firings are at the words of a label's evidence, or at words that its text quotes; None without any."""
        known = set(evidence.removeprefix("fires on: ").split(" · ")) if evidence else set()
        known |= {word for quoted in _QUOTED.findall(name.lower()) for word in quoted.split()}
        if not evidence or not self.words:
            return None
        return sum(share for word, share in self.words if word in known) >= LEAST

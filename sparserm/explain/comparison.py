"""Comparison of two to eight responses to one prompt: win probabilities, differences by feature, and word diffs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import expit

from sparserm.explain.contributions import Explanation, FeatureDifference, explain_difference
from sparserm.types import SparseRMError

#: Maximum number of responses compared side by side; for more see :mod:`sparserm.scoring.best_of_n`.
MOST = 8

# A word with the white space before it; each ASCII punctuation mark and each CJK character counts as one word.
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_MARKS = r"!-/:-@\[-`{-~"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[{_MARKS}]|[^\s{_MARKS}{_CJK}]+(?:'[^\s{_MARKS}{_CJK}]+)*)|\s+")


@dataclass(frozen=True)
class SideBySide:
    """Explanations of ``n`` responses to one prompt, with all pairwise margins.

    Attributes:
        explanations: one per response, in the order given.
    """

    explanations: tuple[Explanation, ...]

    @cached_property
    def rewards(self) -> np.ndarray:
        """``[n]`` float64 rewards."""
        return np.array([one.reward for one in self.explanations])

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """Indices of the responses from best to worst; ties keep their order."""
        return tuple(int(i) for i in np.argsort(-self.rewards, kind="stable"))

    @cached_property
    def scores(self) -> np.ndarray:
        """``[n, K]`` alignment scores in the head's feature order."""
        return self._by_feature("score")

    @cached_property
    def contributions(self) -> np.ndarray:
        """``[n, K]`` contributions; each row plus the bias sums to the response's reward."""
        return self._by_feature("contribution")

    @cached_property
    def win_probability(self) -> np.ndarray:
        """``[n, n]`` win probabilities ``sigmoid(r_i - r_j)`` of response ``i`` (row) over ``j`` (column).

        Source: Bradley and Terry (1952).
        """
        return expit(self.rewards[:, None] - self.rewards[None, :])

    def margin(self, a: int, b: int) -> float:
        """``r(a) - r(b)``."""
        return float(self.rewards[a] - self.rewards[b])

    def differences(self, a: int, b: int) -> tuple[FeatureDifference, ...]:
        """Contributions of the features to the margin of response ``a`` over ``b``, largest first; they sum to the margin."""
        return explain_difference(self.explanations[a], self.explanations[b])

    def _by_feature(self, value: str) -> np.ndarray:
        """``[n, K]`` values of one field of the contributions, in the head's feature order."""
        rows = [{part.feature: getattr(part, value) for part in one.contributions} for one in self.explanations]
        return np.array([[row[int(feature)] for feature in self.explanations[0].features] for row in rows])


@dataclass(frozen=True)
class DiffSpan:
    """A span of text that both responses share, or that only one of them has."""

    side: Literal["both", "a", "b"]
    text: str


def check_number(n: int) -> None:
    """Check that ``n`` responses can be compared side by side.

    Raises:
        SparseRMError: fewer than 2, or more than :data:`MOST`.
    """
    if not 2 <= n <= MOST:
        raise SparseRMError(
            f"got {n} responses; expected two to {MOST} to compare side by side; rank larger sets with `sparserm best-of-n`"
        )


def word_diff(a: str, b: str) -> tuple[DiffSpan, ...]:
    """Word diff of two texts: the shared spans and those of ``a``, joined, give ``a``; likewise for ``b``."""
    words_a, words_b = _WORD.findall(a), _WORD.findall(b)
    # difflib's junk heuristic ignores frequent words such as "the" in texts of 200 words or more. It is only switched on where
    # it is needed to keep the time short: very long texts, or endlessly repeated words, as in a response stuck in a loop.
    count_a, count_b = Counter(words_a), Counter(words_b)
    matches = sum(count * count_b[word] for word, count in count_a.items())
    matcher = SequenceMatcher(None, words_a, words_b, autojunk=matches > 30_000)
    spans: list[DiffSpan] = []
    for kind, a1, a2, b1, b2 in matcher.get_opcodes():
        if kind == "equal":
            spans.append(DiffSpan("both", "".join(words_a[a1:a2])))
            continue
        for side, words in (("a", words_a[a1:a2]), ("b", words_b[b1:b2])):
            if words:
                spans.append(DiffSpan(side, "".join(words)))  # type: ignore[arg-type]
    return tuple(spans)

"""Two to eight responses to one prompt, side by side: who wins how likely, and why, feature by feature and word by word."""

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

#: As many as stand side by side on a screen; more belong to :mod:`sparserm.scoring.best_of_n`.
MOST = 8


@dataclass(frozen=True)
class SideBySide:
    """``n`` responses to one prompt, each taken apart, and every margin between them.

    Attributes:
        explanations: one for each response, in the order given.
    """

    explanations: tuple[Explanation, ...]

    @cached_property
    def rewards(self) -> np.ndarray:
        """``[n]`` float64."""
        return np.array([one.reward for one in self.explanations])

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """Responses from the best to the worst; equal ones keep their order."""
        return tuple(int(i) for i in np.argsort(-self.rewards, kind="stable"))

    @cached_property
    def scores(self) -> np.ndarray:
        """``[n, K]`` alignment scores in the head's feature order."""
        return self._by_feature("score")

    @cached_property
    def contributions(self) -> np.ndarray:
        """``[n, K]``: each row sums, with the bias, to the response's reward."""
        return self._by_feature("contribution")

    @cached_property
    def win_probability(self) -> np.ndarray:
        """``[n, n]``: row ``i``, column ``j`` the chance that response ``i`` is preferred over ``j``, ``sigmoid(r_i - r_j)``
        (Bradley and Terry, 1952)."""
        return expit(self.rewards[:, None] - self.rewards[None, :])

    def margin(self, a: int, b: int) -> float:
        """``r(a) - r(b)``."""
        return float(self.rewards[a] - self.rewards[b])

    def differences(self, a: int, b: int) -> tuple[FeatureDifference, ...]:
        """The margin of response ``a`` over ``b``, taken apart: the parts sum to it; the largest first."""
        return explain_difference(self.explanations[a], self.explanations[b])

    def _by_feature(self, value: str) -> np.ndarray:
        """``[n, K]`` of a field of the contributions, in the head's feature order."""
        rows = [{part.feature: getattr(part, value) for part in one.contributions} for one in self.explanations]
        return np.array([[row[int(feature)] for feature in self.explanations[0].features] for row in rows])


def check_number(n: int) -> None:
    """Raise a `SparseRMError` unless ``n`` responses can stand side by side."""
    if not 2 <= n <= MOST:
        raise SparseRMError(
            f"got {n} responses; expected two to {MOST} to stand side by side; rank more of them with `sparserm best-of-n`"
        )


@dataclass(frozen=True)
class DiffSpan:
    """A stretch of text that both responses share, or that only one of them has."""

    side: Literal["both", "a", "b"]
    text: str


# A word with the white space before it; ASCII punctuation and CJK characters, which no spaces part, stand for themselves.
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_MARKS = r"!-/:-@\[-`{-~"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[{_MARKS}]|[^\s{_MARKS}{_CJK}]+(?:'[^\s{_MARKS}{_CJK}]+)*)|\s+")


def word_diff(a: str, b: str) -> tuple[DiffSpan, ...]:
    """What ``a`` and ``b`` share word by word: the shared spans with those of ``a`` join to ``a``, and so with ``b``."""
    words_a, words_b = _WORD.findall(a), _WORD.findall(b)
    # difflib's junk heuristic makes "the" count for nothing in texts of 200 words and more. It is what keeps the time short
    # where words repeat without end, as in a response that got stuck, or in very long texts; there it is wanted.
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

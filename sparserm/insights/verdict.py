"""Insights in a few sentences, each of which says what was tested."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import norm

from sparserm.insights.effects import FALSE_DISCOVERIES
from sparserm.insights.values import Finding, RepeatedText

#: Findings that are told of those that are rewarded, and of those that are punished.
TOLD = 2
#: Win rate that is to be seen, and probability of seeing it, where nothing is sure.
_EFFECT, _POWER = 0.6, 0.8


def verdict(
    findings: Sequence[Finding], repeated: Sequence[RepeatedText], n_pairs: int, n_tested: int, longer_wins: float
) -> str:
    """What the pairs reward and punish, and what length alone does, a sentence in each line."""
    told = [
        _sentence("Rewarded", [one for one in findings if one.rewarded]),
        _sentence("Punished", [one for one in findings if not one.rewarded]),
    ]
    if not findings:
        told = [
            f"Nothing is sure in these {n_pairs:,} pairs: of {n_tested:,} features tested none is chosen more or less often "
            f"than by chance. One that wins {_EFFECT:.0%} would be seen if about {pairs_needed(n_tested):,} pairs differed in "
            "it."
        ]
    told += [
        f"Repeated: “{one.text}” is the chosen response of {one.chosen:,} pairs and the rejected one of {one.rejected:,}."
        for one in repeated
    ]
    length = f"Length: the response with more tokens is chosen in {longer_wins:.0%} of all pairs."
    return "\n".join([*filter(None, told), length])


def pairs_needed(n_tested: int) -> int:
    """Pairs that must differ in a feature for a win rate of 60 % to count as sure, with a probability of 80 %.

    This is for the surest of ``n_tested`` features; where others are sure too, fewer are enough.
    """
    tests = max(n_tested, 1)
    harmonic = sum(1 / i for i in range(1, tests + 1))
    needed = norm.isf(FALSE_DISCOVERIES / tests / harmonic / 2) * 0.5 + norm.isf(1 - _POWER) * (_EFFECT * (1 - _EFFECT)) ** 0.5
    return round(float(needed / (_EFFECT - 0.5)) ** 2)


def _sentence(how: str, findings: Sequence[Finding]) -> str:
    """The surest of the findings that have a name and are no matter of length."""
    telling = [one for one in findings if one.named and one.beside_length][:TOLD]
    parts = [f"a response that {one.name} ({one.win_rate:.0%} of the {one.n:,} pairs that differ in it)" for one in telling]
    return f"{how}: {'; '.join(parts)}." if parts else ""

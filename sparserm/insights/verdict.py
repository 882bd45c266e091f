"""Insights in a few sentences, each of which says what was tested."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import norm

from sparserm.insights.effects import FALSE_DISCOVERIES, LEAST_PAIRS
from sparserm.insights.shortcuts import LONGER
from sparserm.insights.values import Difference, Finding, Insights

#: Findings that are told of those that are rewarded, and of those that are punished.
TOLD = 2
#: Win rate that is to be seen, and probability of seeing it, where nothing is sure.
_EFFECT, _POWER = 0.6, 0.8


def verdict(found: Insights) -> str:
    """What the pairs reward and punish, and what length alone does, a sentence in each line."""
    findings, n_pairs, n_tested = found.findings, found.n_pairs, found.n_tested
    told = [
        _sentence("Rewarded", [one for one in findings if one.rewarded]),
        _sentence("Punished", [one for one in findings if not one.rewarded]),
    ]
    if not n_tested:
        told = [f"Nothing can be tested in {n_pairs:,} pairs: a feature must differ in {LEAST_PAIRS} pairs or more."]
    elif not findings:
        told = [
            f"Nothing is sure in these {n_pairs:,} pairs: for none of the {n_tested:,} features tested is it sure that it is "
            f"chosen more or less often than by chance. One that wins {_EFFECT:.0%} is found, with a probability of "
            f"{_POWER:.0%}, if about {pairs_needed(n_tested):,} pairs of different prompts and texts differ in it."
        ]
    elif not any(told):
        told = [
            f"{len(findings):,} findings are sure, but none of them both has a name that fits these pairs and is sure with "
            "length held fixed."
        ]
    told += [
        f"Repeated: “{one.text}” is the chosen response of {one.chosen:,} pairs and the rejected one of {one.rejected:,}."
        for one in found.repeated
    ]
    if found.longer_wins is not None:
        told.append(
            f"Length: the response with more tokens is chosen in {found.longer_wins:.0%} of the {found.n_unequal:,} pairs of "
            "unequal length."
        )
    return "\n".join(filter(None, told))


def verdict_against(other: str, differences: Sequence[Difference], n_tested: int) -> str:
    """How another set of pairs differs, a sentence in each line."""
    if not n_tested:
        return f"Against {other}: no feature differs in {LEAST_PAIRS} pairs or more of both."
    telling = [one for one in differences if one.named and one.beside_length][: 2 * TOLD]
    if not differences:
        return f"Against {other}: of the {n_tested:,} features that both can measure, none surely has another effect there."
    if not telling:
        return (
            f"Against {other}: {len(differences):,} effects surely differ; none of them has a name and is sure beside length."
        )
    return "\n".join(
        f"Against {other}: a response that {one.name} is chosen in {one.here.win_rate:.0%} of {one.here.n:,} pairs here and in "
        f"{one.there.win_rate:.0%} of {one.there.n:,} there ({one.how})."
        for one in telling
    )


def pairs_needed(n_tested: int) -> int:
    """Pairs that must differ in a feature for a win rate of 60 % to count as sure, with a probability of 80 %.

    This is for the surest of ``n_tested`` features; where others are sure too, fewer are enough.
    """
    tests = max(n_tested, 1)
    harmonic = sum(1 / i for i in range(1, tests + 1))
    needed = norm.isf(FALSE_DISCOVERIES / tests / harmonic / 2) * 0.5 + norm.isf(1 - _POWER) * (_EFFECT * (1 - _EFFECT)) ** 0.5
    return round(float(needed / (_EFFECT - 0.5)) ** 2)


def _sentence(how: str, findings: Sequence[Finding]) -> str:
    """The surest of the findings that have a name and are no matter of length, which has a sentence of its own."""
    telling = [one for one in findings if one.told and one.beside_length and one.name != LONGER][:TOLD]
    parts = [f"a response that {one.name} ({one.win_rate:.0%} of the {one.n:,} pairs that differ in it)" for one in telling]
    return f"{how}: {'; '.join(parts)}." if parts else ""

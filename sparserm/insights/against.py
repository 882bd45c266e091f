"""Two sets of pairs side by side: features that one rewards and the other does not, or punishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.sparse import vstack

from sparserm.heads.families import group_differences
from sparserm.heads.screening import GatedScores
from sparserm.insights.effects import (
    FALSE_DISCOVERIES,
    Effects,
    enough_in_both,
    false_discoveries,
    gaps_between,
    hold_length,
    measure_effects,
)
from sparserm.insights.names import Name
from sparserm.insights.shortcuts import LONGER
from sparserm.insights.values import MOST, SURE_BESIDE_LENGTH, Against, Difference, Member, Side
from sparserm.insights.verdict import verdict_against


def compare(here: GatedScores, there: GatedScores, names: Sequence[Name], other: str) -> Against:
    """Features whose effects surely differ between two sets of pairs, those that length does not explain first.

    A feature is tested if exactly one response has it in enough pairs of both sets; one that only one set can measure says
    nothing about a difference.

    Args:
        here, there: the two sets, with the same features as columns.
        names: of the columns.
        other: name of the second set.
    """
    tested = enough_in_both(here, there, np.arange(here.chosen.shape[1]))
    effects = measure_effects(here, tested), measure_effects(there, tested)
    gaps = gaps_between(*effects)
    q = false_discoveries(gaps.z)
    sure = np.flatnonzero(q <= FALSE_DISCOVERIES)
    order = sure[np.argsort(-np.abs(gaps.z[sure]), kind="stable")][:MOST]
    held = hold_length(here, tested[order]).z, hold_length(there, tested[order]).z
    found = []
    for members in _families(here, there, tested[order], gaps.z[order]):
        own = [names[tested[order[place]]] for place in members]
        leader = next((place for place, name in zip(members, own, strict=True) if name.named), members[0])
        i = int(order[leader])
        name = names[tested[i]]
        found.append(
            Difference(
                feature=name.feature,
                name=name.text,
                named=name.named,
                evidence=name.evidence,
                here=_side(effects[0], i, held[0][leader], name),
                there=_side(effects[1], i, held[1][leader], name),
                gap=float(gaps.rate[i]),
                ci95=(float(gaps.low[i]), float(gaps.high[i])),
                z=float(gaps.z[i]),
                q=float(q[i]),
                family=tuple(Member(one.feature, one.text) for one in own if one is not name),
            )
        )
    differences = tuple(sorted(found, key=lambda one: (not one.beside_length, -abs(one.z))))
    return Against(
        data=other,
        n_pairs=len(there.groups),
        n_tested=len(tested),
        n_sure=len(sure),
        differences=differences,
        verdict=verdict_against(other, differences, len(tested)),
    )


def _side(effects: Effects, i: int, held: float, name: Name) -> Side:
    """One side's effect.

    Args:
        held: its z with length held fixed; nothing is left of length itself.
    """
    low, high = effects.interval
    beside = (name.feature is None and name.text == LONGER) or (held * effects.z[i] > 0 and abs(held) > SURE_BESIDE_LENGTH)
    effect: Literal["rewarded", "punished", "not sure"] = "not sure"
    if effects.sure[i]:
        effect = "rewarded" if effects.z[i] > 0 else "punished"
    return Side(int(effects.n[i]), int(effects.wins[i]), (float(low[i]), float(high[i])), effect, bool(beside))


def _families(here: GatedScores, there: GatedScores, columns: np.ndarray, z: np.ndarray) -> list[list[int]]:
    """The places of the members of each family, over the pairs of both sets; the surest first, as the columns are."""
    if not len(columns):
        return []
    both = vstack([one.chosen[:, columns] - one.rejected[:, columns] for one in (here, there)]).tocsr()
    leaders = group_differences(np.arange(len(columns)), both, z)
    return [np.flatnonzero(leaders == leader).tolist() for leader in np.unique(leaders)]

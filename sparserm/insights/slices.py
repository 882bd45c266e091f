"""Slices of the pairs, by category and by length, in which a feature's effect differs from that in all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparserm.heads.screening import GatedScores
from sparserm.insights.effects import (
    FALSE_DISCOVERIES,
    LEAST_PAIRS,
    Effects,
    enough_in_both,
    false_discoveries,
    gaps_between,
    measure_effects,
)
from sparserm.insights.values import Slice
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferencePair

#: Categories that are looked at: the most frequent ones, if there are several.
CATEGORIES = 24


def slices_of(pairs: Sequence[PreferencePair], represented: PairRepresentations) -> dict[str, np.ndarray]:
    """``[n]`` bool for each slice: the frequent categories, the third of the shortest pairs and that of the longest."""
    labels = np.array([pair.category for pair in pairs])
    frequent = [name for name, n in Counter(labels.tolist()).most_common() if name and n >= LEAST_PAIRS][:CATEGORIES]
    kinds = set(labels.tolist())
    if len(kinds) == 2:
        frequent = frequent[1:]  # the other one is the rest of the pairs
    found = {f"category {name}": labels == name for name in frequent} if len(kinds) > 1 else {}
    tokens = represented.chosen.n_tokens + represented.rejected.n_tokens
    low, high = np.quantile(tokens, [1 / 3, 2 / 3])
    if low < high:
        found |= {"the shortest third": tokens <= low, "the longest third": tokens >= high}
    return found


def effects_by_slice(features: GatedScores, columns: np.ndarray, slices: dict[str, np.ndarray]) -> dict[int, tuple[Slice, ...]]:
    """For some features, the slices in which the effect surely differs from that in all other pairs, the surest first.

    The false discovery rate is taken over all features and slices that have enough pairs.
    """
    tested: list[tuple[str, np.ndarray, Effects, Effects, np.ndarray]] = []
    own_features = replace(features, chosen=features.chosen[:, columns], rejected=features.rejected[:, columns])
    places = np.arange(len(columns))
    for name, inside in slices.items():
        parts = _rows(own_features, inside), _rows(own_features, ~inside)
        own = enough_in_both(*parts, places)
        if len(own):
            here, elsewhere = (measure_effects(part, own) for part in parts)
            tested.append((name, own, here, elsewhere, gaps_between(here, elsewhere).z))
    q = false_discoveries(np.concatenate([np.zeros(0), *(z for *_, z in tested)]))
    rewarded = measure_effects(own_features, places).z > 0
    found: dict[int, list[tuple[float, Slice]]] = {}
    start = 0
    for name, own, here, elsewhere, z in tested:
        low, high = here.interval
        for i in np.flatnonzero(q[start : start + len(own)] <= FALSE_DISCOVERIES).tolist():
            one = Slice(
                name=name,
                n=int(here.n[i]),
                wins=int(here.wins[i]),
                ci95=(float(low[i]), float(high[i])),
                elsewhere=float(elsewhere.win_rate[i]),
                q=float(q[start + i]),
                turns=bool(high[i] < 0.5 if rewarded[own[i]] else low[i] > 0.5),
            )
            found.setdefault(int(columns[own[i]]), []).append((-abs(float(z[i])), one))
        start += len(own)
    return {column: tuple(one for _, one in sorted(own, key=lambda each: each[0])) for column, own in found.items()}


def _rows(features: GatedScores, wanted: np.ndarray) -> GatedScores:
    """The scores of the pairs where ``[n]`` bool is true."""
    rows = np.flatnonzero(wanted)
    return replace(
        features,
        chosen=features.chosen[rows],
        rejected=features.rejected[rows],
        groups=features.groups[rows],
        length_gaps=features.length_gaps[rows],
        texts=None if features.texts is None else features.texts[:, rows],
    )

"""Two texts linked with their features: a feature highlights its tokens in both texts, a token lists its features."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.comparison import SideBySide
from sparserm.explain.contributions import Contribution, FeatureDifference
from sparserm.explain.families import FamilyContribution, by_family, takes_part
from sparserm.ui.shared.firing import family_line, silent_in_both_line
from sparserm.ui.shared.frontend import component
from sparserm.ui.shared.style import DOWN, UP

_LINKED = component("linked", '<div class="linked"></div>', Path(__file__).parent)


def linked_texts(
    found: SideBySide,
    a: int,
    b: int,
    *,
    shares: bool,
    card: str,
    locked: int | None,
    on_lock: Callable[[int | None], None],
    key: str,
) -> None:
    """Show responses ``a`` and ``b`` above the table of their features; hovering over one highlights the other.

    Args:
        shares: whether the contributions of the tokens add up to the reward, as with mean pooling.
        card: URL of a feature card, without the feature number at its end.
        locked: the feature that is locked initially.
        on_lock: called with the feature that the user locks, or None, before the page runs again.
    """

    def changed() -> None:
        event = st.session_state[key].lock
        if event:
            on_lock(event["feature"])

    data = linked_data(found, a, b, shares=shares)
    _LINKED(data={**data, "card": card, "locked": locked}, key=key, on_lock_change=changed)


def linked_data(found: SideBySide, a: int, b: int, *, shares: bool) -> dict[str, Any]:
    """Input of the component. Token contributions are base64 of float32 ``[T, rows]``, columns in the order of the table.

    The rows are families, largest difference first; below one of several features are those features, marked as ``part``.
    Features that are silent in both responses and contribute nothing are counted and left out.
    """
    sides = [found.explanations[i] for i in (a, b)]
    own = [{part.feature: part for part in side.contributions} for side in sides]
    every = found.differences(a, b)
    features: list[list[Any]] = []
    columns: list[list[int]] = []
    place = {feature: i for i, feature in enumerate(sides[0].features.tolist())}
    for family in by_family(every):
        several = len(family.members) > 1
        if several:
            features.append(_family_row(family, own))
            columns.append([place[feature] for feature in family.features])
        for part in family.members:
            features.append(_feature_row(part, own, is_part=several))
            columns.append([place[part.feature]])
    texts = [
        {
            "letter": letter,
            "title": f"{letter} · response {i + 1}",
            "reward": side.reward,
            "tokens": list(side.tokens),
            "values": _packed(side.token_contributions, columns),
        }
        for letter, i, side in zip("AB", (a, b), sides, strict=True)
    ]
    data: dict[str, Any] = {"texts": texts, "features": features, "shares": shares, "up": UP, "down": DOWN}
    data["quiet"] = silent_in_both_line(every) if not all(map(takes_part, every)) else ""
    return {**data, "id": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]}


def _feature_row(part: FeatureDifference, own: Sequence[Mapping[int, Contribution]], *, is_part: bool) -> list[Any]:
    return [
        part.feature,
        _label(part),
        part.score_a,
        part.score_b,
        part.weight,
        {
            "sigma": part.sigma,
            "fires": [part.fires_a, part.fires_b],
            "activation": [part.activation_a, part.activation_b],
            **({"part": True} if is_part else {}),
        },
        part.contribution,
        *(one[part.feature].contribution for one in own),
    ]


def _family_row(family: FamilyContribution[FeatureDifference], own: Sequence[Mapping[int, Contribution]]) -> list[Any]:
    """A row of several features: sums, without score and weight."""
    return [
        family.first.feature,
        _label(family.first),
        None,
        None,
        None,
        {"family": family_line(family)},
        family.contribution,
        *(sum(one[feature].contribution for feature in family.features) for one in own),
    ]


def _label(part: FeatureDifference) -> str:
    return "" if part.label == f"feature {part.feature}" else part.label


def _packed(values: np.ndarray, columns: Sequence[Sequence[int]]) -> str:
    """Base64 of float32 ``[T, rows]``: for each row the sum of its columns of ``values [T, K]``."""
    sums = np.zeros((len(values), len(columns)), np.float32)
    for i, own in enumerate(columns):
        sums[:, i] = values[:, own].sum(1)
    return base64.b64encode(sums.tobytes()).decode()

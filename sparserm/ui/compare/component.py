"""Two texts linked with their features: a feature highlights its tokens in both texts, a token lists its features."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from sparserm.explain.comparison import DiffSpan, SideBySide
from sparserm.ui.shared.firing import silent_in_both_line, takes_part
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
    """Input of the component. Token contributions are base64 of float32 ``[T, K]``, columns in the order of the table.

    Features that are silent in both responses and contribute nothing are counted and left out.
    """
    sides = [found.explanations[i] for i in (a, b)]
    own = [{part.feature: part for part in side.contributions} for side in sides]
    every = found.differences(a, b)
    differences = [part for part in every if takes_part(part)]
    columns = [sides[0].features.tolist().index(part.feature) for part in differences]
    texts = [
        {
            "letter": letter,
            "title": f"{letter} · response {i + 1}",
            "reward": side.reward,
            "tokens": list(side.tokens),
            "values": base64.b64encode(side.token_contributions[:, columns].astype(np.float32).tobytes()).decode(),
        }
        for letter, i, side in zip("AB", (a, b), sides, strict=True)
    ]
    features = [
        [
            part.feature,
            "" if part.label == f"feature {part.feature}" else part.label,
            part.score_a,
            part.score_b,
            part.weight,
            {"sigma": part.sigma, "fires": [part.fires_a, part.fires_b], "activation": [part.activation_a, part.activation_b]},
            part.contribution,
            *(one[part.feature].contribution for one in own),
        ]
        for part in differences
    ]
    data: dict[str, Any] = {"texts": texts, "features": features, "shares": shares, "up": UP, "down": DOWN}
    data["quiet"] = silent_in_both_line(every) if len(every) > len(differences) else ""
    return {**data, "id": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]}


_DIFF = component("diff", '<div class="diff" dir="auto"></div>', Path(__file__).parent)


def diff_text(spans: tuple[DiffSpan, ...], *, key: str) -> None:
    """Show both texts as one: words only in A are struck through, words only in B are underlined."""
    _DIFF(data={"spans": [[span.side, span.text] for span in spans]}, key=key)

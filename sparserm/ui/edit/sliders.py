"""Component: a head's features as rows with one weight slider each. A change redraws the figures but not the sliders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from sparserm.ui.shared.frontend import component
from sparserm.ui.shared.style import DOWN, UP

#: Range and step of the factor.
LOWEST, HIGHEST, STEP = -1.0, 2.0, 0.05

_SLIDERS = component("weight_sliders", '<div class="box"></div>', Path(__file__).parent)


def weight_sliders(
    rows: Sequence[Mapping[str, Any]], *, card: str, key: str, on_edit: Callable[[int, float], None], asked: int | None = None
) -> None:
    """Draw rows of features, each with a slider and buttons to switch off, flip and reset.

    Args:
        rows: with ``feature``, ``label``, ``weight`` (before edits), ``factor``, ``chosen``, ``rejected`` (firing rates),
            ``length`` (a correlation or None), ``without`` (change of accuracy when ablated, or None) and, if any features fire
            together, ``family`` (their ids, or empty).
        card: URL of a feature card, up to the feature's number.
        on_edit: called with a feature and its new factor before the page is run again.
        asked: the feature whose row is marked and shown first.
    """

    def edited() -> None:
        event = st.session_state[key].edit
        if event:
            on_edit(int(event["feature"]), float(event["factor"]))

    full = max((abs(row["weight"]) * max(1.0, abs(row["factor"])) for row in rows), default=1.0) or 1.0
    data = {
        "rows": list(rows),
        "card": card,
        "asked": asked,
        "full": full,
        "low": LOWEST,
        "high": HIGHEST,
        "step": STEP,
        "up": UP,
        "down": DOWN,
    }
    _SLIDERS(data=data, key=key, on_edit_change=edited)

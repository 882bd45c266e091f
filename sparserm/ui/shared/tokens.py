"""Shows the tokens of a text, each coloured by a signed value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from sparserm.ui.shared.frontend import component
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

_TOKENS = component("tokens", '<div class="tokens" role="list" dir="auto"></div>', Path(__file__).parent)


def coloured_tokens(
    tokens: Sequence[str], values: Sequence[float], notes: Sequence[str], *, full: float, key: str, pale: Sequence[bool] = ()
) -> None:
    """Show tokens as running text.

    Args:
        values: one for each token; positive values in the colour of chosen, negative ones in that of rejected.
        notes: tooltip of each token.
        full: absolute value at which the colour is full; use the same for all texts that are compared.
        pale: tokens to fade.
    """
    shares = [round(70 * max(-1.0, min(1.0, value / max(full, 1e-9)))) for value in values]
    faint = list(pale) or [False] * len(tokens)
    rows = [list(row) for row in zip(tokens, shares, notes, faint, strict=True)]
    _TOKENS(data={"tokens": rows, "up": UP, "down": DOWN, "neutral": NEUTRAL}, key=key)


def colour_scale(full: float, unit: str) -> None:
    """Caption with the colour scale."""
    end = f"{full:.2f}" if full >= 0.1 or not full else f"{full:.2g}"
    st.caption(f":orange[■] −{end} … 0 … +{end} :green[■] {unit}")

"""Shows the tokens of a text, each coloured by a signed value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from sparserm.ui.shared.frontend import component
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

_TOKENS = component("tokens", '<div class="tokens" role="list" dir="auto"></div>', Path(__file__).parent)


def coloured_tokens(
    tokens: Sequence[str],
    values: Sequence[float],
    notes: Sequence[str],
    *,
    full: float,
    key: str,
    pale: Sequence[bool] = (),
    on_pick: Callable[[int], None] | None = None,
    picked: int | None = None,
) -> None:
    """Show tokens as running text.

    Args:
        values: one for each token; positive values in the colour of chosen, negative ones in that of rejected.
        notes: tooltip of each token.
        full: absolute value at which the colour is full; use the same for all texts that are compared.
        pale: tokens to fade.
        on_pick: called with the index of a token that was clicked, or on which Enter or space was pressed, before the page is
            run again. Tokens cannot be clicked without it.
        picked: index of the token that is marked as the one picked.
    """

    def pick() -> None:
        token = st.session_state[key].pick
        if on_pick and token is not None and 0 <= int(token) < len(tokens):
            on_pick(int(token))

    shares = [round(70 * max(-1.0, min(1.0, value / max(full, 1e-9)))) for value in values]
    faint = list(pale) or [False] * len(tokens)
    rows = [list(row) for row in zip(tokens, shares, notes, faint, strict=True)]
    data = {"tokens": rows, "up": UP, "down": DOWN, "neutral": NEUTRAL, "clickable": on_pick is not None, "picked": picked}
    _TOKENS(data=data, key=key, on_pick_change=pick)


def colour_scale(full: float, unit: str) -> None:
    """Caption with the colour scale."""
    end = f"{full:.2f}" if full >= 0.1 or not full else f"{full:.2g}"
    st.caption(f":orange[■] −{end} … 0 … +{end} :green[■] {unit}")

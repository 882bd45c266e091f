"""Tokens of a text, each coloured by a signed value: one component for every page that shows text."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

# User text reaches the page as data and is set with textContent: it is never markup.
_TOKENS = st.components.v2.component(
    "sparserm.tokens",
    html='<div class="tokens" role="list" dir="auto"></div>',
    css="""
    .tokens { font-family: var(--st-font); font-size: 1rem; line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere;
              color: var(--st-text-color); max-height: 26rem; overflow-y: auto; unicode-bidi: plaintext; }
    .tokens span { border-radius: 3px; padding: 2px 0; cursor: default; }
    .tokens span.pale { opacity: 0.45; }
    .tokens span:hover { outline: 2px solid var(--st-text-color); }
    """,
    js="""
    export default function ({ parentElement, data }) {
      const box = parentElement.querySelector('.tokens');
      box.replaceChildren(...data.tokens.map(([text, share, note, pale]) => {
        const span = document.createElement('span');
        span.textContent = text;
        span.title = note;
        span.setAttribute('role', 'listitem');
        if (pale) span.className = 'pale';
        const colour = share > 0 ? data.up : data.down;
        span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
        return span;
      }));
    }
    """,
)


def coloured_tokens(
    tokens: Sequence[str], values: Sequence[float], notes: Sequence[str], *, full: float, key: str, pale: Sequence[bool] = ()
) -> None:
    """The tokens as running text.

    Args:
        values: one for each token; above zero in the chosen-leaning hue, below in the other.
        notes: what hovering a token says.
        full: the absolute value at which the colour is full; the same for all that is compared.
        pale: tokens to be shown faintly.
    """
    shares = [round(70 * max(-1.0, min(1.0, value / max(full, 1e-9)))) for value in values]
    faint = list(pale) or [False] * len(tokens)
    rows = [list(row) for row in zip(tokens, shares, notes, faint, strict=True)]
    _TOKENS(data={"tokens": rows, "up": UP, "down": DOWN, "neutral": NEUTRAL}, key=key)


def colour_scale(full: float, unit: str) -> None:
    """A line that says what the colours mean."""
    st.caption(f":orange[■] −{full:.2f} … 0 … +{full:.2f} :green[■] {unit}")

"""Colours and layout shared by all charts."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

#: Readable on light and dark backgrounds and with colour blindness. Teal: chosen, or raises the reward. Orange: rejected, or
#: lowers it. Every signed chart is centred on zero.
UP, DOWN, NEUTRAL = "#0d9488", "#ea580c", "#7c8594"
#: The same for signed numbers, by theme: a contrast of 4.5 on its background, and on a selected row of a table.
TEXT = {"light": ("#0b655e", "#b03c08"), "dark": ("#2dd4bf", "#fb923c")}
#: Lines behind text.
FAINT = "rgba(124,133,148,0.25)"

#: Plotly configuration of every chart: no toolbar, which would cover the chart.
CONFIG: dict[str, Any] = {"displayModeBar": False}

#: For heat maps of signed values, centred on zero with ``zmid=0``.
DIVERGING = [[0.0, DOWN], [0.5, "rgba(124,133,148,0.08)"], [1.0, UP]]


def sign_colour(value: float) -> str:
    """The colour of a signed value."""
    return UP if value > 0 else DOWN if value < 0 else NEUTRAL


def text_colour(value: float, theme: str) -> str:
    """The colour of a signed number in the ``light`` or ``dark`` theme."""
    up, down = TEXT[theme]
    return up if value > 0 else down if value < 0 else "inherit"


def compact(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Set the height and narrow margins of a chart between text."""
    figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 8, "b": 0}, **layout)
    return figure

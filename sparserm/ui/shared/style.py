"""What every figure shares: the two hues, and how a chart sits on the page."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

#: Readable on white and on black, and to the colour-blind: teal leans to chosen and raises a reward, orange leans to
#: rejected and lowers it. Every signed figure is centred on zero.
UP, DOWN, NEUTRAL = "#0d9488", "#ea580c", "#7c8594"

#: Of every chart: no toolbar, which only lies over the figure.
CONFIG: dict[str, Any] = {"displayModeBar": False}

#: For heat maps of signed values, centred on zero with ``zmid=0``.
DIVERGING = [[0.0, DOWN], [0.5, "rgba(124,133,148,0.08)"], [1.0, UP]]


def sign_colour(value: float) -> str:
    """The hue of a signed value."""
    return UP if value > 0 else DOWN if value < 0 else NEUTRAL


def compact(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The margins and height of a chart that stands in a column of text."""
    figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 8, "b": 0}, **layout)
    return figure

"""Histogram of one feature: alignment scores or peak activations of chosen and rejected responses."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from sparserm.ui.shared.style import DOWN, NEUTRAL, UP, compact

#: Maximum; fewer for few responses, about twice their square root.
BINS = 40


def density_figure(chosen: np.ndarray, rejected: np.ndarray, unit: str, mark: tuple[float, str] | None = None) -> go.Figure:
    """Histograms of chosen and rejected responses over the same bins.

    Args:
        chosen, rejected: ``[n]`` values.
        unit: title of the x axis.
        mark: value and name of another response, drawn as a line.
    """
    values = np.concatenate([chosen, rejected, [mark[0]] if mark else []])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    bins = int(np.clip(2 * np.sqrt(len(chosen)), 5, BINS))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    figure = go.Figure()
    for name, side, colour in (("rejected", rejected, DOWN), ("chosen", chosen, UP)):
        share = np.histogram(side, edges)[0] / max(len(side), 1)
        figure.add_scatter(
            x=np.repeat(edges, 2),
            y=np.concatenate([[0], np.repeat(share, 2), [0]]),
            mode="lines",
            fill="tozeroy",
            name=f"{name} ({len(side):,})",
            line={"color": colour, "width": 1.5},
            opacity=0.8,
            hovertemplate=f"{name}: %{{y:.1%}} of responses near %{{x:.2f}}<extra></extra>",
        )
    if mark:
        where, text = mark
        inward = (where - low) / max(high - low, 1e-9)
        figure.add_vline(x=where, line={"color": NEUTRAL, "width": 2})
        figure.add_annotation(
            x=where,
            y=1.0,
            yref="paper",
            yanchor="bottom",
            text=f"{escape(text)} {where:+.2f}",
            showarrow=False,
            xanchor="left" if inward < 0.15 else "right" if inward > 0.85 else "center",
        )
    compact(
        figure,
        400,
        xaxis={"title": {"text": unit, "standoff": 6}},
        yaxis={"tickformat": ".0%", "title": "share of responses", "rangemode": "tozero"},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2, "yanchor": "top", "traceorder": "normal"},
    )
    figure.update_layout(margin={"t": 26})
    return figure

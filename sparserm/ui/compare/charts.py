"""Charts of the Compare page: rewards among the reference rewards, and reward spreads of candidate sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from sparserm.ui.shared.style import DOWN, NEUTRAL, UP, compact


def rewards_figure(names: Sequence[str], rewards: Sequence[float], typical_chosen: float, typical_rejected: float) -> go.Figure:
    """One row for each response, best first, with its reward as a dot; typical rewards as vertical lines."""
    low, high = min(*rewards, typical_rejected, typical_chosen), max(*rewards, typical_rejected, typical_chosen)
    room = max(high - low, 1e-6)
    figure = go.Figure(
        go.Scatter(
            x=list(rewards),
            y=list(names),
            mode="markers+text",
            marker={"color": NEUTRAL, "size": 13},
            text=[f"{reward:+.2f}" for reward in rewards],
            textposition="middle right",
            cliponaxis=False,
            hovertemplate="%{y}: reward %{text}<extra></extra>",
        )
    )
    for name, value, colour, up in (("chosen", typical_chosen, UP, 15), ("rejected", typical_rejected, DOWN, 0)):
        figure.add_vline(x=value, line={"color": colour, "width": 1.5, "dash": "dash"})
        figure.add_annotation(  # stacked, and anchored inwards: they never overlap and are never cut off
            x=value,
            y=1,
            yref="paper",
            yanchor="bottom",
            yshift=up,
            showarrow=False,
            font={"color": colour},
            xanchor="left" if value < (low + high) / 2 else "right",
            text=f"typical {name} {value:+.2f}",
        )
    figure.update_layout(
        height=32 * len(names) + 90,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        showlegend=False,
        xaxis={"title": {"text": "reward", "standoff": 10}, "range": [low - 0.12 * room, high + 0.2 * room], "zeroline": False},
        yaxis={"autorange": "reversed", "type": "category"},
    )
    return figure


def spreads_figure(spreads: Sequence[float], least: float) -> go.Figure:
    """Histogram of the spread between best and worst candidate of each prompt, with the minimum margin of a pair."""
    counts, edges = np.histogram(spreads, bins=30)
    figure = go.Figure(
        go.Bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts,
            width=np.diff(edges),
            marker={"color": NEUTRAL},
            customdata=np.stack([edges[:-1], edges[1:]], axis=1),
            hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y} prompts<extra></extra>",
        )
    )
    figure.add_vline(x=least, line={"color": UP, "width": 2, "dash": "dash"})
    axis = {"title": {"text": "reward of the best minus the worst candidate", "standoff": 8}, "rangemode": "tozero"}
    count = {"title": {"text": "prompts"}, "dtick": max(1, int(np.ceil(counts.max() / 4)))}
    return compact(figure, 200, xaxis=axis, yaxis=count, bargap=0.05, showlegend=False)

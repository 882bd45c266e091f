"""Chart of the Score page: a reward among the rewards of the training responses."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

_TITLE = (
    f'reward of <span style="color:{DOWN}">■ rejected</span> and <span style="color:{UP}">■ chosen</span> training responses'
)


def reference_figure(chosen: np.ndarray, rejected: np.ndarray, reward: float) -> go.Figure:
    """Densities of the training rewards, from ``[101]`` percentiles each, and a line at ``reward``."""
    low, high = min(chosen[1], rejected[1], reward), max(chosen[-2], rejected[-2], reward)
    room = 0.05 * (high - low) or 1.0  # an axis even if all rewards are equal
    grid = np.linspace(low - room, high + room, 120)
    figure = go.Figure()
    for name, percentiles, colour in (("rejected", rejected, DOWN), ("chosen", chosen, UP)):
        figure.add_scatter(
            x=grid,
            y=_density(percentiles, grid),
            name=f"{name} in training",
            mode="lines",
            fill="tozeroy",
            line={"color": colour, "width": 1.5},
            opacity=0.6,
            hovertemplate=f"{name}, reward %{{x:.2f}}<extra></extra>",
        )
    figure.add_vline(x=reward, line={"color": NEUTRAL, "width": 2})
    # Near an end of the axis the text is anchored inwards, so that it is not cut off.
    where = (reward - grid[0]) / (grid[-1] - grid[0])
    figure.add_annotation(
        x=reward,
        y=1.02,
        yref="paper",
        yanchor="bottom",
        text=f"this response {reward:+.2f}",
        showarrow=False,
        xanchor="left" if where < 0.15 else "right" if where > 0.85 else "center",
    )
    figure.update_layout(
        height=160,
        margin={"l": 0, "r": 0, "t": 22, "b": 44},
        yaxis={"visible": False},
        xaxis={"title": {"text": _TITLE, "standoff": 8}, "automargin": False},
        showlegend=False,  # the axis title names both in their colours and is faster to draw
    )
    return figure


def _density(percentiles: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A Gaussian kernel estimate from percentiles, Silverman's bandwidth for 100 points."""
    spread = max(float(percentiles[75] - percentiles[25]) / 1.34, 1e-6)
    width = 0.9 * spread * 100**-0.2
    return np.exp(-0.5 * ((grid[:, None] - percentiles[None, 1:-1]) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))

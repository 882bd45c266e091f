"""Figures of one scored response: the waterfall of its contributions, and where its reward stands in training."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from sparserm.explain.contributions import Contribution, Explanation, FeatureDifference
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

#: Characters of a name beside its bar, so that the bars keep their room; the pointer shows all of it.
LONGEST = 38


@dataclass(frozen=True)
class Bar:
    """One step of the sum; ``feature`` where it is a single one's."""

    label: str
    value: float
    note: str
    feature: int | None = None


def contribution_bars(explanation: Explanation, top: int) -> list[Bar]:
    """The ``top`` largest contributions, the rest as one bar, and the bias where there is one: they sum to the reward."""
    shown, rest = explanation.contributions[:top], explanation.contributions[top:]
    bars = [Bar(_name(part), part.contribution, _note(part), part.feature) for part in shown]
    if rest:
        bars.append(Bar(f"{len(rest)} smaller features", sum(part.contribution for part in rest), "together"))
    if explanation.bias:
        bars.append(Bar("bias", explanation.bias, "added to every reward"))
    return bars


def difference_figure(parts: Sequence[FeatureDifference], margin: float, top: int = 10) -> go.Figure:
    """A waterfall from zero to a margin: the ``top`` largest differences and the rest as one bar."""
    bars = [
        Bar(_name(part), part.contribution, f"score {part.score_a:+.2f} against {part.score_b:+.2f}") for part in parts[:top]
    ]
    if rest := parts[top:]:
        bars.append(Bar(f"{len(rest)} smaller features", sum(part.contribution for part in rest), "together"))
    return contributions_figure(bars, margin, total="margin")


def contributions_figure(bars: Sequence[Bar], reward: float, total: str = "reward") -> go.Figure:
    """A waterfall from zero to the total, read from the top down."""
    names = [*(bar.label for bar in bars), total]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=names,
            x=[bar.value for bar in bars] + [reward],
            measure=["relative"] * len(bars) + ["total"],
            text=[f"{bar.value:+.2f}" for bar in bars] + [f"{reward:+.2f}"],
            customdata=[bar.note for bar in bars] + ["the sum of all bars"],
            hovertemplate="%{y}: %{text}<br>%{customdata}<extra></extra>",
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": UP}},
            decreasing={"marker": {"color": DOWN}},
            totals={"marker": {"color": NEUTRAL}},
            connector={"line": {"color": NEUTRAL, "width": 1, "dash": "dot"}},
        )
    )
    ends = np.cumsum([0.0, *(bar.value for bar in bars)])
    low, high = float(ends.min()), float(ends.max())
    room = 0.14 * max(high - low, 1e-6)
    figure.update_layout(
        height=26 * (len(bars) + 1) + 70,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        xaxis={"title": f"{total}, summed from the top down", "zeroline": True, "range": [low - room, high + room]},
        yaxis={"autorange": "reversed", "type": "category", "tickvals": names, "ticktext": [_tick(name) for name in names]},
        showlegend=False,
        bargap=0.35,
    )
    return figure


_TITLE = (
    f'reward of <span style="color:{DOWN}">■ rejected</span> and <span style="color:{UP}">■ chosen</span> training responses'
)


def reference_figure(chosen: np.ndarray, rejected: np.ndarray, reward: float) -> go.Figure:
    """Where a reward stands among the training responses: densities from ``[101]`` percentiles, and a line at the reward."""
    low, high = min(chosen[1], rejected[1], reward), max(chosen[-2], rejected[-2], reward)
    room = 0.05 * (high - low) or 1.0  # rewards that are all the same still have an axis
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
    # Its anchor leans inwards near an end, so that the text is never cut off.
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
        showlegend=False,  # the title names both in their hues; a legend would take longer to draw than the curves
    )
    return figure


def _density(percentiles: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A Gaussian kernel estimate from percentiles, Silverman's bandwidth for 100 points."""
    spread = max(float(percentiles[75] - percentiles[25]) / 1.34, 1e-6)
    width = 0.9 * spread * 100**-0.2
    return np.exp(-0.5 * ((grid[:, None] - percentiles[None, 1:-1]) / width) ** 2).mean(1) / (width * np.sqrt(2 * np.pi))


def _name(part: Contribution | FeatureDifference) -> str:
    """The label with the feature's number, since two features may have the same label; Plotly would read markup in it."""
    name = part.label if part.label == f"feature {part.feature}" else f"{part.label} ({part.feature})"
    return html.escape(name, quote=False)  # Plotly would show &quot; as it is


def _tick(name: str) -> str:
    """A long name cut in its middle: its end may say that it is automatic, and has the feature's number."""
    text = html.unescape(name)
    return name if len(text) <= LONGEST else html.escape(f"{text[: LONGEST - 19].rstrip()}…{text[-18:]}", quote=False)


def _note(part: Contribution) -> str:
    return f"alignment score {part.score:+.2f}, weight {part.weight:+.3f}"

"""Contributions by feature as a waterfall: of one reward, or of the margin between two responses."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from sparserm.explain.contributions import Contribution, Explanation, FeatureDifference
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP

#: Characters of a label on the axis; the tooltip shows the full label.
LONGEST = 38


@dataclass(frozen=True)
class Bar:
    """One bar of a waterfall; ``feature`` is set if it belongs to a single feature."""

    label: str
    value: float
    note: str
    feature: int | None = None


def contribution_bars(explanation: Explanation, top: int) -> list[Bar]:
    """The ``top`` largest contributions, the others as one bar, and the bias if it is not zero; they sum to the reward."""
    shown, rest = explanation.contributions[:top], explanation.contributions[top:]
    bars = [Bar(_name(part), part.contribution, _note(part), part.feature) for part in shown]
    if rest:
        bars.append(Bar(f"{len(rest)} smaller features", sum(part.contribution for part in rest), "sum of the smaller ones"))
    if explanation.bias:
        bars.append(Bar("bias", explanation.bias, "added to every reward"))
    return bars


def difference_figure(parts: Sequence[FeatureDifference], margin: float, top: int = 10) -> go.Figure:
    """A waterfall from zero to a margin: the ``top`` largest differences, and the others as one bar."""
    bars = [
        Bar(_name(part), part.contribution, f"alignment score {part.score_a:+.2f} vs. {part.score_b:+.2f}")
        for part in parts[:top]
    ]
    if rest := parts[top:]:
        bars.append(Bar(f"{len(rest)} smaller features", sum(part.contribution for part in rest), "sum of the smaller ones"))
    return contributions_figure(bars, margin, total="margin")


def contributions_figure(bars: Sequence[Bar], reward: float, total: str = "reward") -> go.Figure:
    """A waterfall from zero to the total, from top to bottom."""
    names = [*(bar.label for bar in bars), total]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=names,
            x=[bar.value for bar in bars] + [reward],
            measure=["relative"] * len(bars) + ["total"],
            text=[f"{bar.value:+.2f}" for bar in bars] + [f"{reward:+.2f}"],
            customdata=[bar.note for bar in bars] + ["sum of all bars"],
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
        xaxis={"title": f"cumulative {total}", "zeroline": True, "range": [low - room, high + room]},
        yaxis={"autorange": "reversed", "type": "category", "tickvals": names, "ticktext": [_tick(name) for name in names]},
        showlegend=False,
        bargap=0.35,
    )
    return figure


def _name(part: Contribution | FeatureDifference) -> str:
    """The label, escaped for Plotly, with the feature number, since two features may have the same label."""
    name = part.label if part.label == f"feature {part.feature}" else f"{part.label} ({part.feature})"
    return html.escape(name, quote=False)  # Plotly would show &quot; as it is


def _tick(name: str) -> str:
    """Shorten a long name in the middle: its end has the feature number and may mark an automatic label."""
    text = html.unescape(name)
    return name if len(text) <= LONGEST else html.escape(f"{text[: LONGEST - 19].rstrip()}…{text[-18:]}", quote=False)


def _note(part: Contribution) -> str:
    return f"alignment score {part.score:+.2f}, weight {part.weight:+.3f}"

"""Charts of a head on a dataset: margins, calibration, accuracy by slice, benchmark sections and styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from sparserm.evaluation.report import Calibration, Slice
from sparserm.evaluation.reward_benchmarks import STYLES
from sparserm.ui.shared.style import DIVERGING, DOWN, NEUTRAL, UP, compact

#: Score from which a bar has room for its figure; below, the figure stands beside the bar.
_ROOM = 0.2
#: Slices drawn; the CSV has all of them.
MOST = 20


def margins_figure(margins: np.ndarray) -> go.Figure:
    """Histogram of margins; pairs ranked against their label have the colour of rejected responses."""
    size = max(float(np.ptp(margins)) / 40, 1e-3)
    # Bins end at zero, so that no bar mixes right and wrong pairs; a tie counts as wrong, as in the accuracy.
    places = np.ceil(margins / size) - 1
    figure = go.Figure()
    for name, rows, colour in (("ranked against the label", margins <= 0, DOWN), ("ranked as labelled", margins > 0, UP)):
        at, counts = np.unique(places[rows], return_counts=True)
        figure.add_bar(
            x=(at + 0.5) * size,
            y=counts,
            width=size,
            name=f"{name} ({int(rows.sum()):,})",
            marker_color=colour,
            marker_line_width=0,
            hovertemplate="margin about %{x:.2f}: %{y} pairs<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    return compact(
        figure,
        300,
        barmode="overlay",
        bargap=0.04,
        xaxis={"title": "margin: reward of chosen minus rejected"},
        yaxis={"title": "pairs"},
        legend=_ABOVE,
    )


def reliability_figure(calibration: Calibration) -> go.Figure:
    """Reliability diagram: confidence of the head against the share of pairs ranked as labelled."""
    bins = calibration.bins
    most = max(one.n for one in bins)
    figure = go.Figure()
    figure.add_scatter(
        x=[0.5, 1],
        y=[0.5, 1],
        mode="lines",
        name="perfect calibration",
        hoverinfo="skip",
        line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
    )
    figure.add_scatter(
        x=[one.confidence for one in bins],
        y=[one.correct for one in bins],
        mode="markers",
        name="pairs in this bin",
        marker={"color": UP, "size": [8 + 14 * (one.n / most) ** 0.5 for one in bins], "opacity": 1, "line": {"width": 0}},
        error_y=_whiskers([one.correct for one in bins], [one.ci95 for one in bins]),
        customdata=[[one.n, *one.ci95] for one in bins],
        hovertemplate="confidence %{x:.1%}: %{y:.1%} as labelled<br>95% interval %{customdata[1]:.1%} to %{customdata[2]:.1%}"
        "<br>%{customdata[0]} pairs<extra></extra>",
    )
    low = min(0.45, *(one.ci95[0] for one in bins))
    return compact(
        figure,
        300,
        legend=_ABOVE,
        xaxis={"title": "confidence of the head", "range": [0.48, 1.02], "tickformat": ".0%"},
        yaxis={"title": "share ranked as labelled", "range": [low - 0.03, 1.04], "tickformat": ".0%"},
    )


def slices_figure(slices: Sequence[Slice], accuracy: float) -> go.Figure:
    """Accuracy of each slice with its interval, coloured if the interval excludes the accuracy on all pairs."""
    shown = slices[:MOST]
    colours = [UP if one.ci95[0] > accuracy else DOWN if one.ci95[1] < accuracy else NEUTRAL for one in shown]
    names = [f"{escape(one.name)}  ({one.n:,})" for one in shown]
    figure = go.Figure()
    for name, one, colour in zip(names, shown, colours, strict=True):
        figure.add_scatter(
            x=list(one.ci95),
            y=[name, name],
            mode="lines",
            line={"color": colour, "width": 3},
            opacity=0.45,
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=[one.length_baseline for one in shown],
        y=names,
        mode="markers",
        name="longer-response baseline",
        marker={"color": NEUTRAL, "size": 8, "symbol": "diamond-open"},
        hovertemplate="longer-response baseline: %{x:.1%}<extra></extra>",
    )
    figure.add_scatter(
        x=[one.accuracy for one in shown],
        y=names,
        mode="markers",
        showlegend=False,
        marker={"color": colours, "size": 11, "opacity": 1},
        customdata=[[*one.ci95, one.n_prompts] for one in shown],
        hovertemplate="%{y}: %{x:.1%}<br>95% interval %{customdata[0]:.1%} to %{customdata[1]:.1%}"
        "<br>%{customdata[2]} prompts<extra></extra>",
    )
    figure.add_scatter(  # legend entry only: otherwise it would take the colour of the first slice
        x=[None],
        y=[None],
        mode="lines+markers",
        name="accuracy, 95% interval",
        line={"color": NEUTRAL, "width": 3},
        marker={"color": NEUTRAL, "size": 11},
    )
    figure.add_vline(x=accuracy, line={"color": NEUTRAL, "width": 1.5, "dash": "dash"})
    return compact(
        figure,
        27 * len(shown) + 90,
        legend=_ABOVE,
        xaxis={"range": [-0.02, 1.02], "tickformat": ".0%"},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def sections_figure(sections: Mapping[str, float], overall: float) -> go.Figure:
    """Scores of a benchmark's sections, with the overall score as a line."""
    names, scores = list(sections), list(sections.values())
    bars = {"y": names, "orientation": "h", "width": 0.55}
    figure = go.Figure(go.Bar(x=[1.0] * len(names), **bars, marker_color=NEUTRAL, opacity=0.15, hoverinfo="skip"))
    figure.add_bar(
        x=scores,
        **bars,
        marker_color=UP,
        text=[f"{score:.1%}" for score in scores],
        textposition=["inside" if score > _ROOM else "outside" for score in scores],
        insidetextanchor="end",
        textangle=0,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure.add_vline(x=overall, line={"color": NEUTRAL, "width": 1.5, "dash": "dash"})
    return compact(
        figure,
        36 * len(sections) + 40,
        barmode="overlay",
        showlegend=False,
        xaxis={"range": [0, 1.02], "tickformat": ".0%"},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def styles_figure(matrix: Sequence[Sequence[float]]) -> go.Figure:
    """RM-Bench: accuracy by style of the chosen and of the rejected response; colours are centred on 50%."""
    figure = go.Figure(
        go.Heatmap(
            z=matrix,
            x=STYLES,
            y=STYLES,
            zmin=0,
            zmid=0.5,
            zmax=1,
            colorscale=DIVERGING,
            showscale=False,
            xgap=3,
            ygap=3,
            texttemplate="%{z:.1%}",
            hovertemplate="chosen (%{y}) beats rejected (%{x}): %{z:.1%}<extra></extra>",
        )
    )
    return compact(
        figure,
        240,
        xaxis={"title": "style of the rejected response"},
        yaxis={"title": "style of the chosen", "autorange": "reversed"},
    )


_ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}


def _whiskers(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> dict[str, object]:
    """Error bars for intervals around values."""
    return {
        "type": "data",
        "symmetric": False,
        "color": UP,
        "thickness": 1.5,
        "width": 0,
        "array": [high - value for value, (_, high) in zip(values, intervals, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, intervals, strict=True)],
    }

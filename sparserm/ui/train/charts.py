"""Figures of a trained head's evidence: baselines, learning curve, layers and sizes, stability of selection."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sparserm.training.evidence import CurvePoint, Measured, Stability
from sparserm.training.sweep import DENSE, SweepCell
from sparserm.ui.shared.style import NEUTRAL, UP, compact, sign_colour

NAMES = {
    "head": "this head",
    "trained": "as trained",
    "dense": "dense probe",
    "random": "random features",
    "longer": "longer wins",
    "shuffled": "shuffled labels",
}
#: White text is readable on all of it, in both themes.
_SCALE = [[0, "#64748b"], [1, "#0f766e"]]
#: Seen on a bar of either hue, and beside it in both themes.
_INTERVAL = "#b6bcc6"


def baselines_figure(measured: Sequence[Measured]) -> go.Figure:
    """Test accuracies as bars with their 95 % intervals; the line at one half is chance."""
    rows = list(reversed(measured))
    figure = go.Figure(
        go.Bar(
            orientation="h",
            y=[NAMES[row.name] for row in rows],
            x=[row.accuracy for row in rows],
            marker={"color": [UP if row.name == "head" else NEUTRAL for row in rows]},
            error_x={
                "type": "data",
                "array": [row.ci95[1] - row.accuracy for row in rows],
                "arrayminus": [row.accuracy - row.ci95[0] for row in rows],
                "color": _INTERVAL,
                "thickness": 1.5,
                "width": 4,
            },
            customdata=[[*row.ci95] for row in rows],
            hovertemplate="%{y}: %{x:.1%} (95 % interval %{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
        )
    )
    # Beside the bars, where no interval crosses them.
    for row in rows:
        figure.add_annotation(
            x=1.02,
            xref="paper",
            xanchor="left",
            y=NAMES[row.name],
            text=f"{row.accuracy:.1%}",
            showarrow=False,
            font={"weight": 700 if row.name == "head" else 400},
        )
    figure.add_vline(x=0.5, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    compact(figure, 38 * len(rows) + 46, showlegend=False, bargap=0.4)
    figure.update_layout(margin={"r": 56})
    figure.update_xaxes(title="accuracy on the test pairs", range=[0, 1], tickformat=".0%", fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def curve_figure(curve: Sequence[CurvePoint], dense: float) -> go.Figure:
    """Test accuracy over the number of training pairs, with the dense probe on all of them as a mark."""
    pairs = [point.n_pairs for point in curve]
    figure = go.Figure()
    figure.add_scatter(
        x=[*pairs, *reversed(pairs)],
        y=[*(point.ci95[1] for point in curve), *(point.ci95[0] for point in reversed(curve))],
        mode="lines",
        fill="toself",
        fillcolor="rgba(13,148,136,0.15)",
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=pairs,
        y=[point.accuracy for point in curve],
        mode="lines+markers",
        line={"color": UP},
        customdata=[[point.n_prompts, *point.ci95, point.heads] for point in curve],
        hovertemplate="%{x:,} pairs of %{customdata[0]:,} prompts: %{y:.1%} (%{customdata[1]:.1%} to %{customdata[2]:.1%}), "
        "%{customdata[3]} heads<extra></extra>",
    )
    for level, text in ((dense, "dense probe, all pairs"), (0.5, "chance")):
        figure.add_hline(y=level, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=level, yanchor="bottom", text=text, showarrow=False, font={"size": 11}
        )
    compact(figure, 272, showlegend=False)
    low = min(0.47, *(point.ci95[0] - 0.02 for point in curve))
    high = min(1.0, max(dense, *(point.ci95[1] for point in curve)) + 0.05)
    figure.update_xaxes(title="training pairs", type="log", tickvals=pairs, ticktext=[f"{n:,}" for n in pairs], fixedrange=True)
    figure.update_yaxes(title="test accuracy", tickformat=".0%", range=[low, high], fixedrange=True)
    return figure


def cells_figure(cells: Sequence[SweepCell], method: str, chosen: tuple[str, str, int]) -> go.Figure:
    """One method's accuracy for every layer and size, and the dense probe's beside it on the same scale.

    A click on a cell selects its marker, whose customdata is ``[sae, method, k]``; ``chosen``, named so too, has a frame.
    """
    saes = {cell.sae: cell.layer for cell in sorted(cells, key=lambda cell: cell.layer)}
    shown = [cell for cell in cells if cell.method in (method, DENSE)]
    at: Mapping[tuple[str, str], SweepCell] = {(cell.sae, _column(cell)): cell for cell in shown}
    # The dense probe has no size, and stands last.
    columns = list(dict.fromkeys(map(_column, sorted(shown, key=lambda cell: (cell.method == DENSE, cell.k)))))
    accuracy = [[at[sae, name].accuracy if (sae, name) in at else None for name in columns] for sae in saes]
    best = max(cell.accuracy for cell in cells)
    worst = min(best - 0.05, *(cell.accuracy for cell in cells))  # a point or two is not to look like much
    figure = go.Figure(
        go.Heatmap(
            x=columns,
            y=[f"layer {layer}" for layer in saes.values()],
            z=accuracy,
            zmin=worst,
            zmax=best,
            colorscale=_SCALE,
            showscale=False,
            xgap=3,
            ygap=3,
            hoverinfo="skip",
            texttemplate="%{z:.1%}",
            textfont={"color": "white"},
        )
    )
    # Plotly selects points and not cells: an unseen marker lies over each.
    order = [at[sae, name] for sae in saes for name in columns if (sae, name) in at]
    figure.add_scatter(
        x=[_column(cell) for cell in order],
        y=[f"layer {cell.layer}" for cell in order],
        mode="markers",
        marker={"symbol": "square", "size": 44, "opacity": 0, "color": NEUTRAL},
        customdata=[[cell.sae, cell.method, cell.k, *cell.ci95] for cell in order],
        text=[f"{html.escape(cell.sae)}, {_column(cell)}: {cell.accuracy:.1%}" for cell in order],
        hovertemplate=[
            "%{text} (95 % interval %{customdata[3]:.1%} to %{customdata[4]:.1%})"
            + ("" if cell.method == DENSE else "<br>click to open")
            + "<extra></extra>"
            for cell in order
        ],
    )
    place = next((_place(cell, list(saes), columns) for cell in shown if (cell.sae, cell.method, cell.k) == chosen), None)
    if place is not None:
        i, j = place
        figure.add_shape(type="rect", x0=i - 0.44, x1=i + 0.44, y0=j - 0.4, y1=j + 0.4, line={"color": "white", "width": 2})
    compact(figure, 52 * len(saes) + 40, showlegend=False, clickmode="event+select", dragmode=False)
    figure.update_xaxes(side="top", fixedrange=True, showgrid=False)
    figure.update_yaxes(autorange="reversed", fixedrange=True, showgrid=False)
    return figure


def _column(cell: SweepCell) -> str:
    return "dense probe" if cell.method == DENSE else f"K = {cell.k}"


def _place(cell: SweepCell, saes: list[str], columns: list[str]) -> tuple[int, int]:
    return columns.index(_column(cell)), saes.index(cell.sae)


def stability_figure(stability: Stability, labels: Mapping[int, str]) -> go.Figure:
    """For each feature how often it is selected again, in the hue of its weight's sign, and how near the next best comes."""
    rows = stability.features
    features = [str(row.feature) for row in rows]
    names = [html.escape(labels.get(row.feature) or f"feature {row.feature}", quote=False) for row in rows]
    figure = go.Figure(
        go.Bar(
            x=features,
            y=[row.selected for row in rows],
            name="selected again, share of resamples",
            marker={"color": [sign_colour(row.weight) for row in rows]},
            customdata=[[name, row.weight, row.same_sign] for name, row in zip(names, rows, strict=True)],
            hovertemplate="%{customdata[0]} (%{x}), weight %{customdata[1]:+.3f}: selected again in %{y:.0%}, its sign "
            "the same in %{customdata[2]:.0%} of these<extra></extra>",
        )
    )
    figure.add_scatter(
        x=features,
        y=[row.nearest for row in rows],
        mode="markers",
        name="nearest selected direction, |cosine|",
        marker={"color": NEUTRAL, "symbol": "line-ew-open", "size": 9, "line": {"width": 2}},
        hovertemplate="%{x}: nearest selected direction, |cosine| %{y:.2f}<extra></extra>",
    )
    compact(figure, 300, bargap=0.25, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    figure.update_layout(margin={"t": 40})
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", fixedrange=True)
    figure.update_xaxes(type="category", fixedrange=True, tickfont={"size": 10}, tickangle=-90, dtick=1, title="feature")
    return figure

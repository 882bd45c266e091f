"""Charts of a trained head: baselines, learning curve, accuracy by layer and size, stability of feature selection."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from sparserm.training.evidence import CurvePoint, Measured, Stability
from sparserm.training.sweep import DENSE, SweepCell
from sparserm.ui.shared.style import NEUTRAL, UP, compact, sign_colour

NAMES = {
    "head": "this head",
    "trained": "trained head",
    "dense": "dense probe",
    "random": "random latents",
    "surface": "surface features",
    "longer": "longer response",
    "shuffled": "shuffled labels",
}
#: White text is readable on every colour of the scale.
_SCALE = [[0, "#64748b"], [1, "#0f766e"]]
#: Visible on both bar colours and on both backgrounds.
_INTERVAL = "#b6bcc6"


def baselines_figure(measured: Sequence[Measured]) -> go.Figure:
    """Test accuracies as bars with 95% intervals; the dotted line at 50% is chance."""
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
            hovertemplate="%{y}: %{x:.1%} (95% interval %{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
        )
    )
    # Values are to the right of the axes, where no interval crosses them.
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
    """Test accuracy by number of training pairs, with a line for the dense probe trained on all of them."""
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
    """Heat map of one method's accuracy by layer and size, with the dense probe in the last column.

    Clicking a cell selects its marker, whose customdata starts with ``sae, method, k``. The cell of ``chosen``, given in the
    same form, is framed.
    """
    saes = {cell.sae: cell.layer for cell in sorted(cells, key=lambda cell: cell.layer)}
    shown = [cell for cell in cells if cell.method in (method, DENSE)]
    at: Mapping[tuple[str, str], SweepCell] = {(cell.sae, _column(cell)): cell for cell in shown}
    # The dense probe has no size; it comes last.
    columns = list(dict.fromkeys(map(_column, sorted(shown, key=lambda cell: (cell.method == DENSE, cell.k)))))
    accuracy = [[at[sae, name].accuracy if (sae, name) in at else None for name in columns] for sae in saes]
    best = max(cell.accuracy for cell in cells)
    worst = min(best - 0.05, *(cell.accuracy for cell in cells))  # so that small differences do not look large
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
    # Plotly selects points, not cells: each cell has an invisible marker.
    order = [at[sae, name] for sae in saes for name in columns if (sae, name) in at]
    figure.add_scatter(
        x=[_column(cell) for cell in order],
        y=[f"layer {cell.layer}" for cell in order],
        mode="markers",
        marker={"symbol": "square", "size": 44, "opacity": 0, "color": NEUTRAL},
        customdata=[[cell.sae, cell.method, cell.k, *cell.ci95] for cell in order],
        text=[f"{html.escape(cell.sae)}, {_column(cell)}: {cell.accuracy:.1%}" for cell in order],
        hovertemplate=[
            "%{text} (95% interval %{customdata[3]:.1%} to %{customdata[4]:.1%})"
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
    """Share of resamples that select each feature, coloured by the sign of its weight, and its nearest selected direction."""
    rows = stability.features
    features = [str(row.feature) for row in rows]
    names = [html.escape(labels.get(row.feature) or f"feature {row.feature}", quote=False) for row in rows]
    figure = go.Figure(
        go.Bar(
            x=features,
            y=[row.selected for row in rows],
            name="share of resamples that select it",
            marker={"color": [sign_colour(row.weight) for row in rows]},
            customdata=[[name, row.weight, row.same_sign] for name, row in zip(names, rows, strict=True)],
            hovertemplate="%{customdata[0]} (%{x}), weight %{customdata[1]:+.3f}: selected in %{y:.0%} of resamples, "
            "with the same sign in %{customdata[2]:.0%} of these<extra></extra>",
        )
    )
    figure.add_scatter(
        x=features,
        y=[row.nearest for row in rows],
        mode="markers",
        name="|cosine| to the nearest selected direction",
        marker={"color": NEUTRAL, "symbol": "line-ew-open", "size": 9, "line": {"width": 2}},
        hovertemplate="%{x}: |cosine| %{y:.2f} to the nearest selected direction<extra></extra>",
    )
    compact(figure, 300, bargap=0.25, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    figure.update_layout(margin={"t": 40})
    figure.update_yaxes(range=[0, 1.03], tickformat=".0%", fixedrange=True)
    figure.update_xaxes(type="category", fixedrange=True, tickfont={"size": 10}, tickangle=-90, dtick=1, title="feature")
    return figure

"""Chart of an audit: accuracy of each surface feature used as a rule."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from sparserm.audit.surface import SurfaceRule
from sparserm.ui.shared.style import NEUTRAL, compact, sign_colour


def surface_figure(rules: Sequence[SurfaceRule], n: int) -> go.Figure:
    """Accuracy of "prefer the response with more of it": right of 50% chosen responses have more, left rejected ones.

    Args:
        n: total number of pairs.
    """
    names = [f"{rule.name}  ({rule.n_differ / n:.0%})" for rule in rules]
    figure = go.Figure()
    for name, rule in zip(names, rules, strict=True):
        figure.add_scatter(
            x=list(rule.ci95),
            y=[name, name],
            mode="lines",
            hoverinfo="skip",
            opacity=0.45,
            line={"color": _colour(rule), "width": 3},
        )
    figure.add_scatter(
        x=[rule.accuracy for rule in rules],
        y=names,
        mode="markers+text",
        marker={"color": [_colour(rule) for rule in rules], "size": 11, "opacity": 1},
        text=[f"{rule.accuracy:.0%}" for rule in rules],
        textposition="top center",
        textfont={"size": 11},
        customdata=[[rule.mean_chosen, rule.mean_rejected, rule.n_differ, *rule.ci95] for rule in rules],
        hovertemplate="%{y}<br>prefer more of it: %{x:.1%} of %{customdata[2]} pairs"
        "<br>95% interval %{customdata[3]:.1%} to %{customdata[4]:.1%}"
        "<br>mean count: chosen %{customdata[0]:.2f}, rejected %{customdata[1]:.2f}<extra></extra>",
    )
    figure.add_vline(x=0.5, line={"color": NEUTRAL, "width": 1.5})
    for x, text, anchor in ((0.49, "◂ rejected have more", "right"), (0.51, "chosen have more ▸", "left")):
        figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=text, xanchor=anchor, showarrow=False)
    figure = compact(
        figure,
        30 * len(rules) + 80,
        showlegend=False,
        xaxis={"range": [-0.02, 1.02], "tickformat": ".0%", "title": "accuracy of “prefer more of it”"},
        yaxis={"range": [len(rules) - 0.5, -0.9], "type": "category"},  # room for the first value, drawn above its point
    )
    return figure.update_layout(margin_t=26)


def _colour(rule: SurfaceRule) -> str:
    """Neutral where the interval includes 50%."""
    return NEUTRAL if rule.ci95[0] <= 0.5 <= rule.ci95[1] else sign_colour(rule.accuracy - 0.5)

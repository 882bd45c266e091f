"""Chart of held-out accuracy before and after an edit, with intervals."""

from __future__ import annotations

import plotly.graph_objects as go

from sparserm.evaluation.accuracy import Evaluation
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP, compact


def accuracy_figure(before: Evaluation, after: Evaluation) -> go.Figure:
    """Accuracy before and after with 95% intervals; the dotted line is the longer-response baseline."""
    worse, better = after.accuracy < before.accuracy, after.accuracy > before.accuracy
    colour = DOWN if worse else UP if better else NEUTRAL
    figure = go.Figure()
    for name, found, hue in (("before", before, NEUTRAL), ("after", after, colour)):
        low, high = found.ci95
        figure.add_scatter(
            x=[found.accuracy],
            y=[name],
            mode="markers+text",
            marker={"color": hue, "size": 11},
            text=[f"{found.accuracy:.1%}"],
            textposition="top center",
            cliponaxis=False,
            error_x={"type": "data", "array": [high - found.accuracy], "arrayminus": [found.accuracy - low], "color": hue},
            hovertemplate=f"{name}: %{{x:.1%}}, 95% interval {low:.1%} to {high:.1%}<extra></extra>",
        )
    figure.add_vline(x=before.length_baseline, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=before.length_baseline,
        y=1,
        yref="paper",
        yanchor="bottom",
        text="longer response",
        showarrow=False,
        font={"color": NEUTRAL},
    )
    ends = [before.length_baseline, *before.ci95, *after.ci95]
    room = 0.06 * max(max(ends) - min(ends), 0.05)
    compact(
        figure,
        136,
        showlegend=False,
        xaxis={"tickformat": ".0%", "range": [min(ends) - room, max(ends) + room]},
        yaxis={"categoryorder": "array", "categoryarray": ["after", "before"], "range": [-0.6, 1.9]},
    )
    figure.update_layout(margin_t=18)  # room for the label of the dotted line
    return figure

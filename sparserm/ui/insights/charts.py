"""Win rates of features, as bars that leave from one half."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from sparserm.insights.shortcuts import LONGER
from sparserm.insights.values import Difference, Finding, Insights
from sparserm.ui.shared.charts import THICK, LabelledRows, label_lines
from sparserm.ui.shared.style import FAINT, NEUTRAL, sign_colour

#: Smallest share of the axis on each side of one half.
_LEAST = 0.15


def win_rates(findings: Sequence[Finding], n_pairs: int, before: Insights | None = None) -> go.Figure:
    """A bar for each finding, from 50 % to its win rate with its interval, and a mark for two responses of equal length.

    Args:
        before: insights of the pairs before they were edited, to say what each win rate was.
    """
    was = {one.member: one for one in before.findings} if before else {}
    labels = [_label(one, n_pairs, "" if before is None else _was(was.get(one.member))) for one in findings]
    rows = LabelledRows.of(labels)
    rates = [one.win_rate for one in findings]
    figure = go.Figure()
    figure.add_bar(
        orientation="h",
        y=rows.places,
        width=THICK,
        base=0.5,
        x=[rate - 0.5 for rate in rates],
        marker_color=[sign_colour(one.z) for one in findings],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [one.ci95[1] - one.win_rate for one in findings],
            "arrayminus": [one.win_rate - one.ci95[0] for one in findings],
            "color": NEUTRAL,
            "thickness": 1.5,
            "width": 4,
        },
        customdata=[_note(one) for one in findings],
        hovertemplate="%{customdata}<extra></extra>",
        hoverlabel={"align": "left"},
    )
    figure.add_scatter(
        x=[None if one.name == LONGER else one.length_held for one in findings],
        y=rows.places,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 9, "color": NEUTRAL, "line": {"width": 2}},
        customdata=[_note(one) for one in findings],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.add_scatter(
        x=[one.ci95[1] if one.rewarded else one.ci95[0] for one in findings],
        y=rows.places,
        mode="text",
        text=[f"  {rate:.0%}  " for rate in rates],
        textposition=["middle right" if one.rewarded else "middle left" for one in findings],
        cliponaxis=False,
        hoverinfo="skip",
    )
    reach = max([_LEAST, *(abs(end - 0.5) for one in findings for end in (*one.ci95, one.length_held))]) * 1.2
    figure.update_layout(
        xaxis={
            "title": "chosen, of the pairs in which only one response has it",
            "tickformat": ".0%",
            "range": [0.5 - reach, 0.5 + reach],
            "zeroline": False,
        },
        showlegend=False,
    )
    figure.add_vline(x=0.5, line_color=FAINT, line_width=1)
    return rows.label(figure)


def two_sources(differences: Sequence[Difference]) -> go.Figure:
    """For each feature its win rate in both sources with their intervals, joined by a line."""
    labels = [
        label_lines(html.escape(one.name, quote=False), one.how, "" if one.named else one.evidence) for one in differences
    ]
    rows = LabelledRows.of(labels)
    figure = go.Figure()
    ends = [(one.here.win_rate, one.there.win_rate, None) for one in differences]
    figure.add_scatter(
        x=[x for pair in ends for x in pair],
        y=[y for place in rows.places for y in (place, place, None)],
        mode="lines",
        line={"color": NEUTRAL, "width": 3},
        opacity=0.4,
        hoverinfo="skip",
    )
    for which, symbol, shift in (("here", "circle", -5), ("there", "circle-open", 5)):
        sides = [getattr(one, which) for one in differences]
        figure.add_scatter(
            x=[one.win_rate for one in sides],
            y=rows.places + shift,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 11,
                "color": [sign_colour(one.win_rate - 0.5) for one in sides],
                "line": {"width": 2},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.ci95[1] - one.win_rate for one in sides],
                "arrayminus": [one.win_rate - one.ci95[0] for one in sides],
                "color": NEUTRAL,
                "thickness": 1.5,
                "width": 3,
            },
            customdata=[f"{which}: chosen in {one.win_rate:.0%} of {one.n:,} pairs ({one.effect})" for one in sides],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_layout(
        xaxis={
            "title": "chosen, of the pairs in which only one response has it",
            "tickformat": ".0%",
            "range": [0, 1],
            "zeroline": False,
        },
        showlegend=False,
    )
    figure.add_vline(x=0.5, line_color=FAINT, line_width=1)
    return rows.label(figure)


def _was(one: Finding | None) -> str:
    return "not sure before" if one is None else f"{one.win_rate:.0%} of {one.n:,} before"


def _label(one: Finding, n_pairs: int, was: str) -> str:
    facts = [f"{one.n:,} pairs differ in it ({one.n / n_pairs:.0%})"]
    if was:
        facts.append(was)
    if one.feature is not None and one.told:
        facts.append(f"feature {one.feature}")
    if not one.beside_length:
        facts.append("length may be the reason")
    if one.family:
        facts.append(f"+ {len(one.family)} like it")
    evidence = "" if one.told else one.fires_on
    return label_lines(html.escape(one.title, quote=False), " · ".join(facts), evidence)


def _note(one: Finding) -> str:
    low, high = one.ci95
    return (
        f"chosen in {one.win_rate:.1%} of {one.n:,} pairs ({low:.0%} to {high:.0%})<br>"
        f"equally long: {one.length_held:.0%}{'' if one.beside_length else ', not sure'}<br>"
        f"sure again in {one.returns:.0%} of the halves of the prompts<br>q = {one.q:.1g}"
    )

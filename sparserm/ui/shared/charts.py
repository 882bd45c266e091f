"""Contributions as a waterfall: of one reward, or of the margin between two responses. A bar is a family of features."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sparserm.explain.contributions import Contribution, Explanation, FeatureDifference
from sparserm.explain.families import FamilyContribution, by_family
from sparserm.ui.shared.firing import difference_firing, family_line, firing_of
from sparserm.ui.shared.style import DOWN, FAINT, NEUTRAL, UP

#: Characters of a line of a label above its bar and in the tooltip; longer labels go on in the next line. A line of the first
#: length fits on a phone.
LINE, NOTE_LINE = 44, 38
#: Pixels: letters of a label, height of its lines, of the space above and below a bar, and of a bar.
_LETTERS, _LINE_HEIGHT, _ABOVE, _BETWEEN, THICK = 13, 17, 4, 12, 15

#: A label, its detection score if it is automatic, and the number of its feature, see :func:`_name`.
_LABEL = re.compile(r"(.*?)(?: \(auto (\d\.\d\d)\))?(?: \((\d+)\))?", re.DOTALL)

_Family = FamilyContribution[Contribution] | FamilyContribution[FeatureDifference]


@dataclass(frozen=True)
class Bar:
    """One bar of a waterfall.

    Attributes:
        note: lines of the tooltip, below the label and the value.
        feature: set if the bar belongs to a feature, alone or with others of its family.
        where: where the features fire, in a few words; a line below the label.
        others: the other features of the bar.
        family: which features stand behind the bar, in a few words; a line below the label.
    """

    label: str
    value: float
    note: str
    feature: int | None = None
    where: str = ""
    others: tuple[int, ...] = ()
    family: str = ""


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a chart with a label above each bar, so that labels and bars both have the whole width.

    Attributes:
        labels: in lines separated by ``<br>``.
        tops: ``[n]`` upper edge of each row, in pixels from the top.
        places: ``[n]`` middle of each row's bar, which is :data:`THICK` pixels high.
        height: of all rows.
    """

    labels: Sequence[str]
    tops: np.ndarray
    places: np.ndarray
    height: int

    @classmethod
    def of(cls, labels: Sequence[str]) -> LabelledRows:
        """Rows for these labels, from top to bottom, each as high as its label needs."""
        heights = np.array([_LINE_HEIGHT * (label.count("<br>") + 1) + _ABOVE + THICK + _BETWEEN for label in labels])
        ends = heights.cumsum()
        return cls(labels, ends - heights, ends - _BETWEEN - THICK / 2, int(heights.sum()))

    def label(self, figure: go.Figure) -> go.Figure:
        """Write the labels into a figure whose y axis is in these pixels."""
        figure.update_layout(
            height=self.height + 60,
            margin={"l": 0, "r": 0, "t": 8, "b": 0},
            yaxis={"range": [self.height, 0], "visible": False},
        )
        at: dict[str, Any] = {"xref": "paper", "x": 0, "xanchor": "left", "yanchor": "top", "align": "left", "showarrow": False}
        for label, top in zip(self.labels, self.tops, strict=True):
            figure.add_annotation(text=label, y=top, yref="y", font_size=_LETTERS, **at)
        return figure


def label_lines(text: str, *facts: str) -> str:
    """An escaped label in lines that fit on a phone, and lines of facts in small letters below it, each cut to fit."""
    lines = _wrapped(text, LINE)
    for line in filter(None, facts):
        short = html.escape(textwrap.shorten(html.unescape(line), LINE + 12, placeholder=" …"), quote=False)
        lines.append(f'<span style="font-size:0.85em">{short}</span>')
    return "<br>".join(lines)


def contribution_bars(explanation: Explanation, top: int, pooling: str = "mean") -> list[Bar]:
    """The ``top`` largest contributions of families, the others as one bar, and the bias if not zero; they sum to the reward.

    Features that are silent and contribute nothing have no bar.
    """
    families = by_family(explanation.contributions)
    top += len(families) == top + 1  # a bar for the rest would take no less room
    bars = []
    for family in families[:top]:
        firing = firing_of(explanation, family.members, pooling)
        formula = "" if family.members[1:] else _formula(family.members[0])
        bars.append(_bar(family, firing.short, _lines(*_members(family), firing.sentence, formula)))
    bars += _rest(families[top:])
    if explanation.bias:
        bars.append(Bar("bias", explanation.bias, "added to every reward"))
    return bars


def difference_figure(parts: Sequence[FeatureDifference], margin: float, top: int = 10) -> go.Figure:
    """A waterfall from zero to a margin, of :func:`difference_bars`."""
    return contributions_figure(difference_bars(parts, top), margin, total="margin")


def difference_bars(parts: Sequence[FeatureDifference], top: int) -> list[Bar]:
    """The ``top`` largest differences of families, and the others as one bar.

    Features that are silent in both responses and contribute nothing have no bar.
    """
    families = by_family(parts)
    top += len(families) == top + 1
    bars = []
    for family in families[:top]:
        firing = difference_firing(family.members)
        formula = "" if family.members[1:] else _difference(family.members[0])
        bars.append(_bar(family, firing, _lines(*_members(family), firing, formula)))
    return [*bars, *_rest(families[top:])]


def contributions_figure(bars: Sequence[Bar], reward: float, total: str = "reward") -> go.Figure:
    """A waterfall from zero to the total, from top to bottom, with labels above the bars, so that both have the whole width."""
    names = [*(bar.label for bar in bars), total]
    rows = LabelledRows.of([_label(bar) for bar in bars] + [total])
    titles = ["<br>".join(_wrapped(name, NOTE_LINE)) for name in names]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=rows.places,
            width=[THICK] * len(names),
            x=[bar.value for bar in bars] + [reward],
            measure=["relative"] * len(bars) + ["total"],
            text=[f"{bar.value:+.2f}" for bar in bars] + [f"{reward:+.2f}"],
            customdata=list(zip(titles, [bar.note for bar in bars] + ["sum of all bars"], strict=True)),
            hovertemplate="<b>%{customdata[0]}</b>: %{text}<br>%{customdata[1]}<extra></extra>",
            hoverlabel={"align": "left"},
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": UP}},
            decreasing={"marker": {"color": DOWN}},
            totals={"marker": {"color": NEUTRAL}},
            connector={"line": {"color": FAINT, "width": 1}},
        )
    )
    ends = np.cumsum([0.0, *(bar.value for bar in bars)])
    low, high = float(ends.min()), float(ends.max())
    room = 0.22 * max(high - low, 1e-6)  # for the numbers beside the bars, on a phone too
    figure.update_layout(
        # No line at zero, which would run through the labels.
        xaxis={"title": f"cumulative {total}", "zeroline": False, "range": [low - room, high + room]},
        showlegend=False,
    )
    return rows.label(figure)


def _bar(family: _Family, where: str, note: str) -> Bar:
    first, *others = family.features
    label = html.escape(_name(family.first), quote=False)  # Plotly would show &quot; as it is
    return Bar(label, family.contribution, note, first, html.escape(where, quote=False), tuple(others), family_line(family))


def _rest(families: Sequence[_Family]) -> list[Bar]:
    """One bar for all of these; it counts features, as the lines around the chart do."""
    if not families:
        return []
    n = sum(len(family.members) for family in families)
    name = "1 smaller feature" if n == 1 else f"{n} smaller features"
    return [Bar(name, sum(family.contribution for family in families), "sum of the smaller ones")]


def _name(part: Contribution | FeatureDifference) -> str:
    """The label with the feature number, since two features may have the same label."""
    return part.label if part.label == f"feature {part.feature}" else f"{part.label} ({part.feature})"


def _members(family: _Family) -> list[str]:
    """The features of a bar with their contributions, for the tooltip; nothing for a feature on its own."""
    if len(family.members) == 1:
        return []
    parts = [f"{part.contribution:+.3g} {_name(part)}" for part in family.members]
    return [f"{len(parts)} features that fire together:", *parts]


def _label(bar: Bar) -> str:
    """The whole label in lines, and below it the features behind the bar, the label's detection score and where they fire."""
    parts = _LABEL.fullmatch(bar.label)
    assert parts is not None  # every label matches
    text, detection, feature = parts.groups()
    facts = [f"feature {feature}" if feature else "", f"detection {detection}" if detection else "", bar.family]
    return label_lines(text, " · ".join(filter(None, facts)), bar.where)


def _wrapped(name: str, width: int) -> list[str]:
    """Lines of an escaped text, none of them longer than ``width``."""
    return [html.escape(line, quote=False) for line in textwrap.wrap(html.unescape(name), width)] or [""]


def _lines(*sentences: str) -> str:
    """Sentences for a tooltip, each in lines of their own."""
    return "<br>".join(line for one in sentences if one for line in _wrapped(html.escape(one, quote=False), NOTE_LINE))


def _formula(part: Contribution) -> str:
    """How the contribution comes about, in numbers that reconcile."""
    score, mu = _number(part.score), _number(part.mu)
    return f"weight {part.weight:+.3g} × (score {score} − mu {mu}) / sigma {part.sigma:.3g} = {part.contribution:+.3g}"


def _difference(part: FeatureDifference) -> str:
    a, b = _number(part.score_a), _number(part.score_b)
    return f"weight {part.weight:+.3g} × (score in A {a} − in B {b}) / sigma {part.sigma:.3g} = {part.contribution:+.3g}"


def _number(value: float) -> str:
    return f"{value:+.3g}" if value else "0"

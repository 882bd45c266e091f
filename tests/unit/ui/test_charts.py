"""Charts: bars that add up to the reward, colours by sign, and finite figures for whatever a head can give."""

from __future__ import annotations

import html
import json
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from sparserm.explain.contributions import Contribution, Explanation, explain_difference
from sparserm.ui.score.charts import reference_figure
from sparserm.ui.shared.charts import LINE, NOTE_LINE, Bar, contribution_bars, contributions_figure, difference_figure
from sparserm.ui.shared.firing import silent_in_both_line, silent_line
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP
from tests.unit.ui.explanations import explanation


def _random(seed: int) -> Explanation:
    rng = np.random.default_rng(seed)
    return explanation(*rng.normal(size=rng.integers(1, 33)).tolist(), bias=float(rng.choice([0.0, rng.normal()])))


def _finite(figure: go.Figure) -> bool:
    """Whether all of a figure is valid JSON: NaN and infinity are not."""
    plain = figure.to_plotly_json()
    numbers = [plain["layout"]["xaxis"].get("range", ())]
    numbers += [trace.get(axis, ()) for trace in plain["data"] for axis in ("x", "y")]
    for values in numbers:
        array = np.asarray(values)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return False
    return "NaN" not in figure.to_json() and isinstance(json.loads(figure.to_json()), dict)


# ------------------------------------------------------------------------------------------------------- contributions


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("top", [0, 1, 3, 8, 100])
def test_bars_add_up_to_the_reward_however_many_are_shown(seed, top) -> None:
    given = _random(seed)
    bars = contribution_bars(given, top)
    assert sum(bar.value for bar in bars) == pytest.approx(given.reward, abs=1e-12)
    n = len(given.contributions)
    assert len(bars) == min(top + 1, n) + (given.bias != 0)


def test_bars_by_hand() -> None:
    bars = contribution_bars(explanation(0.5, -2.0, 0.25, -0.125, bias=1.0, labels={11: "politeness"}), top=2)
    assert bars == [
        Bar("politeness (11)", -2.0, "weight -0.5 × (score +4 − mu 0) /<br>sigma 1 = -2", feature=11),
        Bar("feature 10", 0.5, "weight -0.5 × (score -1 − mu 0) /<br>sigma 1 = +0.5", feature=10),
        Bar("2 smaller features", 0.125, "sum of the smaller ones"),
        Bar("bias", 1.0, "added to every reward"),
    ]


def test_there_is_no_bar_for_what_is_not_there() -> None:
    assert [bar.label for bar in contribution_bars(explanation(1.0, 2.0), top=2)] == ["feature 11", "feature 10"]
    assert contribution_bars(explanation(), top=8) == []


def test_two_features_of_one_label_have_bars_of_their_own() -> None:
    bars = contribution_bars(explanation(1.0, 2.0, labels={10: "kindness", 11: "kindness"}), top=8)
    assert [bar.label for bar in bars] == ["kindness (11)", "kindness (10)"]


def test_two_features_of_one_label_with_digits_have_bars_of_their_own() -> None:
    labels = dict.fromkeys((10, 11), "years 1110 to 1210")
    bars = contribution_bars(explanation(1.0, 2.0, labels=labels), top=8)
    assert len({bar.label for bar in bars}) == 2


def _labels(figure: go.Figure) -> list[str]:
    """The texts above the bars, from top to bottom."""
    return [one.text for one in sorted(figure.layout.annotations, key=lambda one: one.y)]


def test_the_figure_is_a_waterfall_of_the_bars_and_their_total() -> None:
    given = explanation(0.5, -2.0, bias=1.0)
    figure = contributions_figure(contribution_bars(given, 8), given.reward)
    (trace,) = figure.data
    assert isinstance(trace, go.Waterfall)
    assert [title for title, _ in trace.customdata] == ["feature 11", "feature 10", "bias", "reward"]
    assert _labels(figure) == ["feature 11", "feature 10", "bias", "reward"]
    rows = [figure.layout.yaxis.range[1], *trace.y]
    for label, above, bar in zip(figure.layout.annotations, rows, trace.y, strict=False):
        assert above <= label.y < bar - trace.width[0] / 2  # between the bar before and its own
    assert list(trace.x) == [-2.0, 0.5, 1.0, -0.5]
    assert list(trace.measure) == ["relative"] * 3 + ["total"]
    assert list(trace.text) == ["-2.00", "+0.50", "+1.00", "-0.50"]
    bottom, top = figure.layout.yaxis.range
    assert bottom > max(trace.y) and top == 0  # from top to bottom


def test_what_raises_and_what_lowers_a_reward_has_a_colour_of_its_own() -> None:
    (trace,) = contributions_figure(contribution_bars(explanation(1.0, -1.0), 8), 0.0).data
    colours = [trace.increasing.marker.color, trace.decreasing.marker.color, trace.totals.marker.color]
    assert colours == [UP, DOWN, NEUTRAL] and len(set(colours)) == 3


@pytest.mark.parametrize("seed", range(10))
def test_every_step_of_the_sum_lies_inside_the_axis(seed) -> None:
    given = _random(seed)
    bars = contribution_bars(given, 8)
    low, high = contributions_figure(bars, given.reward).layout.xaxis.range
    ends = np.cumsum([0.0, *(bar.value for bar in bars)])
    assert low < ends.min() <= 0 <= ends.max() < high
    assert low < given.reward < high


def test_more_bars_make_a_taller_figure() -> None:
    given = explanation(*np.linspace(1, 2, 30))
    heights = [contributions_figure(contribution_bars(given, top), given.reward).layout.height for top in (2, 8, 30)]
    assert all(a < b for a, b in pairwise(heights))


@pytest.mark.parametrize("values", [(), (0.0,), (0.0, 0.0), (1e-300,), (1e12, -1e12), (-3.0,)])
def test_figures_are_finite_also_of_nothing_and_of_zeros(values) -> None:
    given = explanation(*values)
    figure = contributions_figure(contribution_bars(given, 8), given.reward)
    assert _finite(figure)
    low, high = figure.layout.xaxis.range
    assert low < high


def test_labels_are_shown_as_they_are_and_not_as_markup() -> None:
    label = "ünïcode ☕ 'quotes' <b>&"
    figure = contributions_figure(contribution_bars(explanation(1.0, labels={10: label}), 8), 1.0)
    drawn, *_ = _labels(figure)[0].split("<br>")
    for one, whole in ((drawn, label), (figure.data[0].customdata[0][0], f"{label} (10)")):
        assert html.unescape(one.replace("<br>", " ")) == whole
        assert "<b>" not in one  # Plotly reads HTML
        assert "'quotes'" in one  # but does not know &quot; and the like


def test_a_long_label_is_drawn_whole_in_lines_that_fit_on_a_phone() -> None:
    label = ("a & b, " * 30).strip()
    figure = contributions_figure(contribution_bars(explanation(1.0, -1.0, labels={10: f"{label} (auto 0.83)"}), 8), 1.0)
    (first, *_), (top, second, *_) = _labels(figure), figure.data[0].y
    *lines, facts = [html.unescape(line) for line in first.split("<br>")]
    assert " ".join(lines) == label and max(map(len, lines)) <= LINE
    assert re.sub("<.*?>", "", facts) == "feature 10 · detection 0.83"
    title = [html.unescape(line) for line in figure.data[0].customdata[0][0].split("<br>")]
    assert " ".join(title) == f"{label} (auto 0.83) (10)" and max(map(len, title)) <= NOTE_LINE
    # Its row is as high as its lines, and that of the short label is not.
    one_line = figure.data[0].y[-1] - second
    assert top > 2 * one_line and second - top == one_line


def _gated(**other: Any) -> Explanation:
    """Feature 10 fires at "No" and "never", 11 is silent, 12 fires at the comma; nothing is centred."""
    rows = ((10, 0.5, 2.0, True, 4.0), (11, 0.25, 0.0, False, 0.0), (12, -0.3, 1.0, True, 1.5))
    parts = [
        Contribution(feature, f"feature {feature}", score, weight, weight * score / 0.5, 0.0, 0.5, fires, activation)
        for feature, weight, score, fires, activation in rows
    ]
    total = np.array([part.contribution for part in parts])
    activations = np.array([[4.0, 0, 0], [0, 0, 1.5], [2.0, 0, 0], [0, 0, 0]], np.float32)
    tokens = ("No", ",", " never", " mind")
    parts.sort(key=lambda part: -abs(part.contribution))
    given = Explanation(
        total.sum(), 0.0, tuple(parts), tokens, activations / 4, np.zeros(4), np.array([10, 11, 12]), 0, None, activations
    )
    return replace(given, **other)


def test_only_features_that_fire_have_bars_which_say_where_and_reconcile() -> None:
    given = _gated()
    bars = contribution_bars(given, 8)
    assert [(bar.feature, bar.where) for bar in bars] == [(10, "fires on: no · never"), (12, "fires on: “,”")]
    assert sum(bar.value for bar in bars) == pytest.approx(given.reward)
    assert bars[0].note == (
        "Fires at no · never; activation up to<br>4.<br>weight +0.5 × (score +2 − mu 0) /<br>sigma 0.5 = +2"
    )
    assert silent_line(given.contributions) == "1 more feature does not fire here and contributes nothing."
    drawn = _labels(contributions_figure(bars, given.reward))[0]
    assert drawn.startswith("feature 10<br>") and "fires on: no · never" in drawn


def test_a_head_that_reads_the_end_says_what_fires_there() -> None:
    assert [bar.where for bar in contribution_bars(_gated(), 8, "last")] == ["at the end", "at the end"]


def test_where_nothing_fires_there_are_no_bars_and_the_page_says_why() -> None:
    quiet = tuple(replace(part, score=0.0, contribution=0.0, fires=False) for part in _gated().contributions)
    given = _gated(contributions=quiet, reward=0.0)
    assert contribution_bars(given, 8) == []
    assert silent_line(given.contributions) == "3 features do not fire here and contribute nothing."
    assert _finite(contributions_figure([], 0.0))


def test_a_projection_that_is_silent_in_the_text_keeps_its_bar_and_is_marked() -> None:
    parts = tuple(
        replace(part, fires=part.feature != 12, contribution=part.contribution + 1) for part in _gated().contributions
    )
    given = _gated(contributions=parts)
    where = {bar.feature: (bar.where, bar.note) for bar in contribution_bars(given, 8)}
    assert len(where) == 3 and where[12][0] == "silent in this text"
    assert "the projection is<br>never zero" in where[12][1]
    assert silent_line(parts).startswith("1 of 3 features is silent in this text. This head counts the projection")


def test_without_an_sae_nothing_is_said_about_firing() -> None:
    given = explanation(1.0, -2.0)
    assert [bar.where for bar in contribution_bars(given, 8)] == ["", ""] and silent_line(given.contributions) == ""


def test_the_bars_of_a_margin_are_of_features_that_fire_in_either_response() -> None:
    a = _gated()
    first, *others = a.contributions
    quiet = (replace(part, score=0.0, contribution=0.0, fires=False, activation=0.0) for part in others)
    b = _gated(contributions=(replace(first, score=1.0, contribution=1.0), *quiet))
    parts = explain_difference(a, b)
    figure = difference_figure(parts, sum(part.contribution for part in parts))
    assert [tick.split("<br>")[0] for tick in _labels(figure)] == ["feature 10", "feature 12", "margin"]
    assert ["in both" in _labels(figure)[0], "in A" in _labels(figure)[1]] == [True, True]
    assert silent_in_both_line(parts) == "1 more feature fires in neither response and contributes nothing."
    for part in parts:
        assert part.weight * (part.score_a - part.score_b) / part.sigma == pytest.approx(part.contribution)


def _together() -> Explanation:
    """As :func:`_gated`, but all three fire, and 10 and 12 are one family, led by 12."""
    more = {
        10: {"family": 12},
        11: {"score": 1.5, "contribution": 0.75, "fires": True},
        12: {"family": 12, "label": "no & never"},
    }
    parts = tuple(replace(part, **more[part.feature]) for part in _gated().contributions)
    activations = np.array([[4.0, 0, 0], [0, 0, 1.5], [2.0, 0, 0], [0, 3.0, 0]], np.float32)
    return _gated(contributions=parts, reward=2.15, token_activations=activations)


def test_a_family_has_one_bar_named_after_its_leader_and_the_tooltip_takes_it_apart() -> None:
    given = _together()
    family, alone = contribution_bars(given, 8)
    assert (family.label, family.feature, family.others) == ("no &amp; never (12)", 12, (10,))
    assert (family.family, family.where) == ("+ 1 that fires with it", "fires on: “,” · no · never")
    assert family.value == pytest.approx(1.4) and (alone.feature, alone.others, alone.family) == (11, (), "")
    assert family.note.split("<br>") == [
        "2 features that fire together:",
        "-0.6 no &amp; never (12)",
        "+2 feature 10",
        "They fire at “,” · no · never.",
    ]
    assert "weight" in alone.note
    top = _labels(contributions_figure([family, alone], given.reward))[0]
    assert [re.sub("<.*?>", "", line) for line in top.split("<br>")] == [
        "no &amp; never",
        "feature 12 · + 1 that fires with it",
        "fires on: “,” · no · never",
    ]


@pytest.mark.parametrize("top", [0, 1, 2])
def test_bars_of_families_add_up_and_the_rest_counts_features(top) -> None:
    bars = contribution_bars(_together(), top)
    assert sum(bar.value for bar in bars) == pytest.approx(2.15, abs=1e-5)
    assert [bar.label for bar in bars[top:]] == [["3 smaller features"], ["feature 11"], []][top]


@pytest.mark.parametrize("label", ["(auto 0.83)", "it says (12)", "a\nb", "", "x (auto 0.8)", "(10)"])
def test_a_label_that_looks_like_facts_is_still_shown_whole(label: str) -> None:
    figure = contributions_figure(contribution_bars(explanation(1.0, labels={10: label}), 8), 1.0)
    first, *_, facts = _labels(figure)[0].split("<br>")
    assert " ".join(label.split()) == first or label == "(auto 0.83)"
    assert "feature 10" in facts


def test_a_leader_that_is_silent_gives_the_bar_no_name() -> None:
    parts = tuple(
        replace(part, score=0.0, contribution=0.0, fires=False) if part.feature == 12 else part
        for part in _together().contributions
    )
    first, second = contribution_bars(_gated(contributions=parts, reward=2.75), 8)
    assert (first.label, first.feature, first.others, first.family) == ("feature 10", 10, (), "")
    assert second.feature == 11


@pytest.mark.parametrize("top", [1, 8])
def test_the_bars_of_a_margin_are_of_families_too(top) -> None:
    a = _together()
    quiet = (replace(part, score=0.0, contribution=0.0, fires=False, activation=0.0) for part in a.contributions)
    parts = explain_difference(a, _gated(contributions=tuple(quiet), reward=0.0))
    figure = difference_figure(parts, a.reward, top)
    *bars, total = figure.data[0].x
    assert sum(bars) == pytest.approx(total, abs=1e-5) and len(bars) == 2
    assert "+ 1 that fires with it" in _labels(figure)[0] and "fires in A" in _labels(figure)[0]
    assert (
        figure.data[0]
        .customdata[0][1]
        .startswith("2 features that fire together:<br>-0.6 no &amp; never (12)<br>+2 feature 10")
    )


# ---------------------------------------------------------------------------------------------------- reference rewards


def _percentiles(mean: float, spread: float = 1.0) -> np.ndarray:
    return np.percentile(np.random.default_rng(0).normal(mean, spread, 2000), np.linspace(0, 100, 101))


@pytest.mark.parametrize("reward", [-50.0, -1.0, 0.0, 0.7, 50.0])
def test_the_reference_figure_shows_the_reward_among_both_kinds_of_responses(reward) -> None:
    figure = reference_figure(_percentiles(1), _percentiles(-1), reward)
    colours = {trace.name: trace.line.color for trace in figure.data}
    assert colours == {"rejected in training": DOWN, "chosen in training": UP}
    for trace in figure.data:
        assert trace.x[0] < reward < trace.x[-1]
        assert (np.asarray(trace.y) >= 0).all()
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == reward
    (note,) = figure.layout.annotations
    assert note.text == f"this response {reward:+.2f}" and note.x == reward
    assert _finite(figure)


def test_densities_peak_where_the_responses_are_and_cover_them() -> None:
    figure = reference_figure(_percentiles(3), _percentiles(-2), 0.0)
    for trace, mean in zip(figure.data, (-2, 3), strict=True):
        x, y = np.asarray(trace.x), np.asarray(trace.y)
        assert x[np.argmax(y)] == pytest.approx(mean, abs=0.4)
        assert y.sum() * (x[1] - x[0]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("reward", "anchor"), [(-50.0, "left"), (0.0, "center"), (50.0, "right")])
def test_the_note_leans_inwards_at_the_ends(reward, anchor) -> None:
    (note,) = reference_figure(_percentiles(1), _percentiles(-1), reward).layout.annotations
    assert note.xanchor == anchor


@pytest.mark.parametrize("reward", [0.0, 2.0])
def test_a_head_of_one_training_pair_has_a_finite_reference_figure(reward) -> None:
    assert _finite(reference_figure(np.full(101, 1.0), np.full(101, -1.0), reward))


def test_equal_rewards_have_a_reference_figure() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _finite(reference_figure(np.full(101, 1.0), np.full(101, 1.0), 1.0))

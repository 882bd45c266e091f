"""Charts: bars that add up to the reward, colours by sign, and finite figures for whatever a head can give."""

from __future__ import annotations

import html
import json
import warnings
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest

from sparserm.explain.contributions import Explanation
from sparserm.ui.score.charts import reference_figure
from sparserm.ui.shared.charts import LONGEST, Bar, contribution_bars, contributions_figure
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
    assert len(bars) == min(top, n) + (n > top) + (given.bias != 0)


def test_bars_by_hand() -> None:
    bars = contribution_bars(explanation(0.5, -2.0, 0.25, -0.125, bias=1.0, labels={11: "politeness"}), top=2)
    assert bars == [
        Bar("politeness (11)", -2.0, "alignment score -4.00, weight -0.500", feature=11),
        Bar("feature 10", 0.5, "alignment score +1.00, weight -0.500", feature=10),
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


def test_the_figure_is_a_waterfall_of_the_bars_and_their_total() -> None:
    given = explanation(0.5, -2.0, bias=1.0)
    figure = contributions_figure(contribution_bars(given, 8), given.reward)
    (trace,) = figure.data
    assert isinstance(trace, go.Waterfall)
    assert list(trace.y) == ["feature 11", "feature 10", "bias", "reward"]
    assert list(trace.x) == [-2.0, 0.5, 1.0, -0.5]
    assert list(trace.measure) == ["relative"] * 3 + ["total"]
    assert list(trace.text) == ["-2.00", "+0.50", "+1.00", "-0.50"]
    assert figure.layout.yaxis.autorange == "reversed"


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
    (trace,) = contributions_figure(contribution_bars(explanation(1.0, labels={10: label}), 8), 1.0).data
    assert html.unescape(trace.y[0]) == f"{label} (10)"
    assert "<b>" not in trace.y[0]  # Plotly reads HTML
    assert "'quotes'" in trace.y[0]  # but does not know &quot; and the like


def test_a_long_label_leaves_the_bars_their_room_and_keeps_its_end() -> None:
    label = f"{'a & b, ' * 10}(auto 0.83)"
    figure = contributions_figure(contribution_bars(explanation(1.0, labels={10: label}), 8), 1.0)
    drawn = html.unescape(figure.layout.yaxis.ticktext[0])
    assert len(drawn) <= LONGEST and drawn.startswith("a & b") and drawn.endswith("… b, (auto 0.83) (10)"[-17:])
    assert html.unescape(figure.layout.yaxis.tickvals[0]) == html.unescape(figure.data[0].y[0]) == f"{label} (10)"


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

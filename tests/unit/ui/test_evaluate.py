"""Figures and tables of the Evaluate and Audit pages: what is drawn is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.audit.surface import SurfaceRule
from sparserm.evaluation.report import Slice, calibration, evaluation_report
from sparserm.evaluation.reward_benchmarks import BenchmarkRow, BenchmarkScore
from sparserm.ui.audit import charts as audit_charts
from sparserm.ui.evaluate import charts, view
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP
from tests.unit.evaluation.margins import pairs_with_margins, preference_data, saved_head


def _slice(name: str, accuracy: float, ci95: tuple[float, float], n: int = 10) -> Slice:
    return Slice("category", name, n, n, accuracy, ci95, 0.5, 0.1)


def _rule(accuracy: float, ci95: tuple[float, float], n_differ: int = 5) -> SurfaceRule:
    return SurfaceRule("words", "how long it is", 2.0, 1.0, n_differ, accuracy, ci95, 0.1)


@pytest.mark.parametrize(
    "margins", [[0.0], [1.0, 1.0], [-2.0, -1.0, 0.0, 3.0], list(np.random.default_rng(0).normal(0, 2, 500))]
)
def test_every_margin_is_in_one_bar_and_right_and_wrong_are_not_mixed(margins) -> None:
    figure = charts.margins_figure(np.array(margins))
    wrong, right = figure.data
    assert (sum(wrong.y), sum(right.y)) == (sum(m <= 0 for m in margins), sum(m > 0 for m in margins))
    assert all(wrong.x < 0) and all(right.x > 0)
    assert (wrong.marker.color, right.marker.color) == (DOWN, UP)


def test_the_reliability_diagram_draws_every_bin_with_its_interval() -> None:
    found = calibration(np.random.default_rng(0).normal(1, 2, 300), np.arange(300))
    points = charts.reliability_figure(found).data[1]
    assert list(points.x) == [one.confidence for one in found.bins]
    for one, y, up, down in zip(found.bins, points.y, points.error_y.array, points.error_y.arrayminus, strict=True):
        assert (y - down, y + up) == pytest.approx(one.ci95)


def test_slices_are_in_colour_where_their_interval_leaves_out_the_accuracy_and_names_are_no_markup() -> None:
    slices = [_slice("<b>a</b>", 0.9, (0.85, 0.95)), _slice("b", 0.5, (0.4, 0.6)), _slice("c", 0.7, (0.6, 0.8))]
    figure = charts.slices_figure(slices, 0.75)
    points = figure.data[-2]
    assert list(points.marker.color) == [UP, DOWN, NEUTRAL]
    assert points.y[0] == "&lt;b&gt;a&lt;/b&gt;  (10)"


def test_many_slices_are_drawn_up_to_a_number_and_written_all() -> None:
    slices = [_slice(f"s{i}", 0.5, (0.4, 0.6)) for i in range(charts.MOST + 7)]
    assert len(charts.slices_figure(slices, 0.5).data[-2].x) == charts.MOST
    table = view.slices_table(slices)
    assert (len(table), list(table.loc[0, ["ci95_low", "ci95_high"]])) == (charts.MOST + 7, [0.4, 0.6])


def test_rules_lean_to_the_side_that_has_more_of_the_mark_and_are_grey_where_it_may_be_a_coin() -> None:
    rules = [_rule(0.8, (0.7, 0.9)), _rule(0.2, (0.1, 0.3)), _rule(0.55, (0.4, 0.7))]
    points = audit_charts.surface_figure(rules, 10).data[-1]
    assert list(points.marker.color) == [UP, DOWN, NEUTRAL]
    assert points.y[0] == "words  (50%)"


def test_a_benchmark_is_drawn_by_section_and_written_by_subset() -> None:
    row = BenchmarkRow("chat", "", 3, {"hard": 0.1, "normal": 0.2, "easy": 0.3})
    score = BenchmarkScore("RM-Bench", 0.2, {"chat": 0.2}, (row,), matrix=((0.5,) * 3,) * 3)
    assert list(charts.sections_figure(score.sections, score.overall).data[-1].x) == [0.2]
    assert view.benchmark_table(score).to_dict("records") == [
        {"name": "chat", "section": "", "n": 3, "hard": 0.1, "normal": 0.2, "easy": 0.3}
    ]
    assert charts.styles_figure(score.matrix).data[0].zmid == 0.5


def test_a_section_without_a_right_answer_has_a_bar_and_its_figure() -> None:
    track, scores = charts.sections_figure({"refusals": 0.0, "chat": 0.9}, 0.45).data
    assert list(track.x) == [1, 1] and track.marker.color == NEUTRAL
    assert list(scores.text) == ["0.0%", "90.0%"] and list(scores.textposition) == ["outside", "inside"]


def test_a_report_of_one_pair_can_be_drawn() -> None:
    report = evaluation_report(saved_head(), preference_data(1), pairs_with_margins(-1))
    charts.margins_figure(report.margins)
    charts.reliability_figure(report.calibration)
    charts.slices_figure([one for one in report.slices if one.by == "length"], report.evaluation.accuracy)

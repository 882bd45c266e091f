"""Figures and tables of evidence: what they show is what was measured, and no text in them is markup."""

from __future__ import annotations

import pandas as pd
import pytest

from sparserm.heads.saved import load_head
from sparserm.training.evidence import CurvePoint, FeatureStability, HeadEvidence, Measured, Stability
from sparserm.training.sweep import SweepCell
from sparserm.ui.shared.style import DOWN, NEUTRAL, UP
from sparserm.ui.train import charts
from sparserm.ui.train import tables as train_tables

MEASURED = tuple(
    Measured(name, accuracy, (accuracy - 0.1, accuracy + 0.05), heads, accuracy - 0.02, accuracy + 0.02)
    for name, accuracy, heads in (("head", 0.8, 1), ("dense", 0.85, 1), ("random", 0.7, 5), ("longer", 0.55, 1))
)
CURVE = (CurvePoint(5, 12, 0.6, (0.5, 0.7), 3), CurvePoint(50, 120, 0.8, (0.7, 0.85), 1))
CELLS = (
    SweepCell("a<b>/layer_20", 20, 8, 0.7, (0.6, 0.8), "sparse"),
    SweepCell("x/layer_3", 3, 8, 0.6, (0.5, 0.7), "sparse"),
    SweepCell("x/layer_3", 3, 32, 0.75, (0.7, 0.8), "sparse"),
    SweepCell("x/layer_3", 3, 0, 0.8, (0.75, 0.85), "dense"),
    SweepCell("x/layer_3", 3, 8, 0.5, (0.4, 0.6), "random"),
)
STABILITY = Stability((FeatureStability(7, 0.5, 0.9, 1.0, 0.95), FeatureStability(3, -0.2, 0.1, 0.5, 0.4)), 0.4, 0.01, 20)


def test_a_bar_is_as_long_as_its_accuracy_and_its_interval_as_wide() -> None:
    (bars,) = charts.baselines_figure(MEASURED).data
    assert list(bars.y) == ["longer response", "random latents", "dense probe", "this head"]  # from the bottom up
    assert list(bars.x) == [0.55, 0.7, 0.85, 0.8]
    assert bars.error_x.array == pytest.approx([0.05] * 4)
    assert bars.error_x.arrayminus == pytest.approx([0.1] * 4)
    assert list(bars.marker.color) == [NEUTRAL, NEUTRAL, NEUTRAL, UP]


def test_the_curve_goes_through_its_points_inside_its_band() -> None:
    band, line = charts.curve_figure(CURVE, 0.85).data
    assert list(line.x) == [12, 120] and list(line.y) == [0.6, 0.8]
    assert list(band.y) == [0.7, 0.85, 0.7, 0.5]


def test_a_curve_of_one_point_is_drawn() -> None:
    assert list(charts.curve_figure(CURVE[-1:], 0.85).data[1].x) == [120]


def test_cells_of_a_method_stand_by_layer_and_size_the_dense_probe_last_and_a_missing_one_is_empty() -> None:
    figure = charts.cells_figure(CELLS, "sparse", ("x/layer_3", "sparse", 32))
    heat, markers = figure.data
    assert list(heat.y) == ["layer 3", "layer 20"] and list(heat.x) == ["K = 8", "K = 32", "dense probe"]
    assert [list(row) for row in heat.z] == [[0.6, 0.75, 0.8], [0.7, None, None]]
    assert (heat.zmin, heat.zmax) == (0.5, 0.8)  # of all methods, so that they can be compared
    assert [tuple(point[:3]) for point in markers.customdata] == [
        ("x/layer_3", "sparse", 8),
        ("x/layer_3", "sparse", 32),
        ("x/layer_3", "dense", 0),
        ("a<b>/layer_20", "sparse", 8),
    ]
    assert ["click" in text for text in markers.hovertemplate] == [True, True, False, True]
    assert "a&lt;b&gt;/layer_20" in markers.text[3]
    (frame,) = figure.layout.shapes
    assert (frame.x0 + frame.x1, frame.y0 + frame.y1) == (2, 0)


def test_no_cell_is_framed_where_the_head_in_view_has_none() -> None:
    assert not charts.cells_figure(CELLS, "sparse", ("x/layer_3", "sparse", 5)).layout.shapes
    assert not charts.cells_figure(CELLS, "random", ("x/layer_3", "sparse", 8)).layout.shapes


def test_stability_has_the_hue_of_the_weight_and_labels_are_no_markup() -> None:
    bars, nearest = charts.stability_figure(STABILITY, {7: "<b>polite</b>"}).data
    assert list(bars.y) == [0.9, 0.1] and list(bars.marker.color) == [UP, DOWN]
    assert bars.customdata[0][0] == "&lt;b&gt;polite&lt;/b&gt;"
    assert list(nearest.y) == [0.95, 0.4]


def test_tables_hold_every_figure() -> None:
    table = train_tables.baselines_table(MEASURED)
    assert table["accuracy"].tolist() == [0.8, 0.85, 0.7, 0.55]
    tables = train_tables.evidence_tables(HeadEvidence(MEASURED, CURVE, CELLS, STABILITY))
    assert {name: len(rows) for name, rows in tables.items()} == {"learning curve": 2, "sweep": 5, "stability": 2}
    assert tables["learning curve"][["ci95_low", "ci95_high"]].to_numpy().tolist() == [[0.5, 0.7], [0.7, 0.85]]
    assert tables["stability"]["feature"].tolist() == [7, 3]
    none = train_tables.evidence_tables(HeadEvidence(MEASURED, CURVE, (), STABILITY))["sweep"]
    assert isinstance(none, pd.DataFrame) and none.empty


def test_the_sentence_on_stability_counts_by_hand() -> None:
    sentence = train_tables.stability_sentence(STABILITY)
    assert "1 of 2 features" in sentence and "50% on average" in sentence and "0.40" in sentence


def test_the_sentence_on_a_gated_head_is_of_the_whole_head_only() -> None:
    sentence = train_tables.overlap_sentence(STABILITY)
    assert "20 resamples" in sentence and "0.40" in sentence and "0.010" in sentence and "%" not in sentence


def test_heads_are_listed_with_whose_they_are() -> None:
    table = train_tables.heads_table([("safety", load_head("safety"), False), ("mine", load_head("redteam"), True)])
    assert table["head"].tolist() == ["safety", "mine"]
    assert table[""].tolist() == ["shipped", "yours"]

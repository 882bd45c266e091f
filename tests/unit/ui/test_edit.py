"""What the Edit page shows and hands out: pairs that changed sides in order, all figures, and a chart of both accuracies."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.training.editing import HeadEdits, compare_edits, held_out_scores, measure_edits
from sparserm.ui.edit.charts import accuracy_figure
from sparserm.ui.edit.view import figures_table, flipped_table
from sparserm.ui.shared.style import DOWN, NEUTRAL
from tests.unit.training.test_editing import CHOSEN, LENGTHS, PARENT, _data, _pairs, _saved


@pytest.fixture
def edited():
    data = _data(4)
    evidence = held_out_scores(_saved([1.0, 1.0]), data, _pairs(CHOSEN, np.zeros((4, 2)), LENGTHS))
    before, after = measure_edits(evidence, PARENT), measure_edits(evidence, HeadEdits.of({11: 0}))
    return evidence, data, before, after, compare_edits(evidence, before, after)


def test_pairs_that_changed_sides_stand_with_their_rows_texts_and_margins(edited) -> None:
    table = flipped_table(*edited, None)
    assert table.to_dict("list") == {
        "row": [4, 1],
        "ranked": ["now wrong", "now right"],
        "margin before": [2.0, -1.0],
        "margin after": [-1.0, 1.0],
        "prompt": ["question 3", "question 0"],
        "chosen": ["a3", "a0"],
        "rejected": ["b3", "b0"],
    }
    assert flipped_table(*edited, 1)["row"].tolist() == [4]


def test_the_figures_stand_before_and_after(edited) -> None:
    table = figures_table(*edited[2:4]).set_index("figure")
    assert table.loc["accuracy"].tolist() == [0.75, 0.75]
    assert table.loc["mean margin"].tolist() == [1.25, 0.5]
    assert len(table) == 9 and table.notna().all(axis=None)


def test_the_chart_shows_both_accuracies_and_its_colour_which_way_they_went(edited) -> None:
    evidence, _, before, after, _ = edited
    figure = accuracy_figure(before.evaluation, after.evaluation)
    assert [trace.x[0] for trace in figure.data] == [0.75, 0.75] and figure.data[1].marker.color == NEUTRAL
    worse = measure_edits(evidence, HeadEdits.of({10: 0})).evaluation
    assert accuracy_figure(before.evaluation, worse).data[1].marker.color == DOWN

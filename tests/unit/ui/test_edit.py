"""What the Edit page shows and hands out: pairs that changed sides in order, all figures, and a chart of both accuracies."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.training.editing import HeadEdits, compare_edits, held_out_scores, measure_edits
from sparserm.ui.edit.charts import accuracy_figure
from sparserm.ui.edit.view import figures_table, flipped_table
from sparserm.ui.shared.style import DOWN, NEUTRAL
from tests.unit.training.axes_head import CHOSEN, LENGTHS, PARENT, preference_data, represented_pairs, saved_head


@pytest.fixture
def edited():
    data = preference_data(4)
    held_out = held_out_scores(saved_head([1.0, 1.0]), data, represented_pairs(CHOSEN, np.zeros((4, 2)), LENGTHS))
    before, after = measure_edits(held_out, PARENT), measure_edits(held_out, HeadEdits.of({11: 0}))
    return held_out, data, before, after, compare_edits(held_out, before, after)


def test_pairs_that_changed_sides_stand_with_their_rows_texts_and_margins(edited) -> None:
    table = flipped_table(*edited, None)
    assert table.to_dict("list") == {
        "row": [4, 1],
        "change": ["regressed", "fixed"],
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
    held_out, _, before, after, _ = edited
    figure = accuracy_figure(before.evaluation, after.evaluation)
    assert [trace.x[0] for trace in figure.data] == [0.75, 0.75] and figure.data[1].marker.color == NEUTRAL
    worse = measure_edits(held_out, HeadEdits.of({10: 0})).evaluation
    assert accuracy_figure(before.evaluation, worse).data[1].marker.color == DOWN

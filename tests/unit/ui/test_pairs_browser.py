"""The table of pairs: its figures are those of the head."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.ui.shared.pairs_browser import PairFigures, table_of
from tests.unit.evaluation.margins import preference_data


def test_every_pair_has_its_figures_in_the_order_asked_for() -> None:
    data = preference_data(3, ["a", "b", "a"])
    figures = PairFigures(np.array([[1.0, 0.5], [-2.0, 0.5], [0.0, 3.0]]), np.array([4, -1, 0]), np.array([0.2, 0.8, 0.05]))
    table = table_of([1, 2], data.pairs, figures, 0)
    assert table[["position", "row", "margin", "contribution", "gap", "doubt"]].to_dict("list") == {
        "position": [1, 2],
        "row": [2, 3],
        "margin": [-1.5, 3.0],
        "contribution": [-2.0, 0.0],
        "gap": [-1, 0],
        "doubt": [0.8, 0.05],
    }
    assert table["category"].tolist() == ["b", "a"] and table["chosen"].tolist() == ["yes", "yes"]
    assert table_of([0], data.pairs, figures, 1)["contribution"].tolist() == pytest.approx([0.5])


def test_without_heads_trained_on_other_prompts_no_label_is_doubted() -> None:
    figures = PairFigures(np.ones((1, 1)), np.zeros(1, int), None)
    assert "doubt" not in table_of([0], preference_data(1).pairs, figures, 0)

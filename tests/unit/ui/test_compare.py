"""The Compare page: tables that add up, charts, and the input of the linked component."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sparserm.explain.comparison import SideBySide
from sparserm.ui.compare import tables
from sparserm.ui.compare.charts import rewards_figure, spreads_figure
from sparserm.ui.compare.component import linked_data
from sparserm.ui.shared.tables import differences_table
from tests.unit.explain.random_heads import compared


@pytest.fixture(params=["mean", "last"])
def found(request) -> SideBySide:
    return compared(7, request.param)


def test_the_ranking_holds_everyone_against_the_best(found) -> None:
    table = tables.ranking_table(found, ["a", "b", "c", "<b>d</b>"])
    best = found.ranking[0]
    assert table["response"].tolist() == [i + 1 for i in found.ranking]
    assert table["rank"].tolist() == [1, 2, 3, 4] and table["text"].tolist() == [
        ["a", "b", "c", "<b>d</b>"][i] for i in found.ranking
    ]
    assert pd.isna(table["beats_best"][0]) and pd.isna(table["behind_best"][0])
    for row in table.iloc[1:].itertuples():
        assert row.behind_best == pytest.approx(found.rewards[row.response - 1] - found.rewards[best])
        assert row.beats_best == pytest.approx(1 / (1 + np.exp(-row.behind_best))) and row.beats_best <= 0.5
    shown = tables.shown_ranking(table)
    assert shown["beats_best"][0] == "–" and shown["beats_best"][1].endswith("%")


def test_every_pair_is_the_matrix_in_order_of_rank(found) -> None:
    matrix = tables.win_matrix(found)
    assert list(matrix.index) == [f"response {i + 1}" for i in found.ranking]
    assert np.isnan(np.diag(matrix)).all()
    assert matrix.iloc[0, 1] == found.win_probability[found.ranking[0], found.ranking[1]] >= 0.5


def test_tables_to_take_away_add_up(found) -> None:
    differences = differences_table(found.differences(1, 2))
    assert differences["contribution"].iloc[-1] == pytest.approx(found.margin(1, 2))
    scores = tables.scores_table(found)
    sums = scores.groupby("response")["contribution"].sum() + found.explanations[0].bias
    np.testing.assert_allclose(sums, found.rewards)
    tokens = tables.tokens_table(found, (1, 2))
    assert len(tokens) == sum(len(found.explanations[i].tokens) for i in (1, 2))
    features = [f"feature_{f}" for f in found.explanations[0].features]
    np.testing.assert_allclose(tokens[features].sum(axis=1), tokens["sum"])
    assert tokens["token"].tolist()[0] == 1 and set(tokens["response"]) == {2, 3}


def test_the_sentence_computes_the_margin_from_the_parts(found) -> None:
    said = tables.sum_check(found.differences(0, 3), found.margin(0, 3))
    assert f"{found.margin(0, 3):+.3f}, the margin of {found.margin(0, 3):+.3f}" in said


def test_the_component_is_given_every_token_of_both_texts_in_the_tables_order(found) -> None:
    data = linked_data(found, 3, 1, shares=True)
    assert json.loads(json.dumps(data)) == data
    ids = [feature[0] for feature in data["features"]]
    assert ids == [part.feature for part in found.differences(3, 1)]
    for text, i in zip(data["texts"], (3, 1), strict=True):
        explanation = found.explanations[i]
        values = np.frombuffer(base64.b64decode(text["values"]), np.float32).reshape(len(explanation.tokens), -1)
        columns = [explanation.features.tolist().index(feature) for feature in ids]
        np.testing.assert_allclose(values, explanation.token_contributions[:, columns], rtol=1e-6)
        assert text["tokens"] == list(explanation.tokens)
    for feature in data["features"]:
        *_, contribution, in_a, in_b = feature
        assert contribution == pytest.approx(in_a - in_b)
        assert feature[1] == ""  # a feature without a label goes by its number


def test_a_family_has_a_row_that_is_the_sum_of_those_below_it(found) -> None:
    first, second, *_ = found.explanations[0].features.tolist()
    sides = [
        replace(
            one, contributions=tuple(replace(part, family=_leader(part.feature, first, second)) for part in one.contributions)
        )
        for one in found.explanations
    ]
    together = SideBySide(tuple(sides))
    data = linked_data(together, 3, 1, shares=True)
    plain = linked_data(found, 3, 1, shares=True)
    rows = data["features"]
    assert json.loads(json.dumps(data)) == data and len(rows) == len(plain["features"]) + 1
    (at,) = [i for i, row in enumerate(rows) if "family" in row[5]]
    family, *parts = rows[at : at + 3]
    assert family[0] == first and family[5] == {"family": "+ 1 that fires with it"} and family[2:5] == [None] * 3
    assert [row[0] for row in parts] == [first, second] and [row[0] for row in rows if row[5].get("part")] == [first, second]
    for place in (6, 7, 8):
        assert family[place] == pytest.approx(sum(row[place] for row in parts))
    assert sum(row[6] for row in rows if not row[5].get("part")) == pytest.approx(together.margin(3, 1), abs=1e-5)
    for text, explanation in zip(data["texts"], (sides[3], sides[1]), strict=True):
        values = np.frombuffer(base64.b64decode(text["values"]), np.float32).reshape(len(explanation.tokens), -1)
        np.testing.assert_allclose(values[:, at], values[:, at + 1] + values[:, at + 2], rtol=1e-5, atol=1e-6)
        whole = [i for i, row in enumerate(rows) if not row[5].get("part")]
        np.testing.assert_allclose(values[:, whole].sum(1), explanation.token_contributions.sum(1), rtol=1e-4, atol=1e-5)
    table = tables.scores_table(together)
    assert set(table.loc[table["feature"].isin([first, second]), "family"]) == {first}
    assert "family" not in tables.scores_table(found)


def _leader(feature: int, first: int, second: int) -> int:
    return first if feature == second else feature


def test_the_component_is_redrawn_only_when_its_input_changes(found) -> None:
    one = linked_data(found, 0, 1, shares=True)
    assert one["id"] == linked_data(found, 0, 1, shares=True)["id"]
    assert len({one["id"], linked_data(found, 1, 0, shares=True)["id"], linked_data(found, 0, 1, shares=False)["id"]}) == 3


def test_figures_are_finite_and_show_the_typical_rewards() -> None:
    figure = rewards_figure(["response 2", "response 1"], [1.0, -2.0], 0.5, -0.5)
    assert list(figure.data[0].x) == [1.0, -2.0]
    low, high = figure.layout.xaxis.range
    assert low < -2.0 and high > 1.0
    assert {note.text for note in figure.layout.annotations} == {"typical chosen +0.50", "typical rejected -0.50"}
    assert rewards_figure(["response 1", "response 2"], [0.0, 0.0], 0.0, 0.0).layout.xaxis.range[0] < 0


def test_the_spread_of_every_prompt_is_in_the_figure() -> None:
    for spreads in ([0.0], [0.0, 1.5, 1.5]):
        assert sum(spreads_figure(spreads, 1.0).data[0].y) == len(spreads)

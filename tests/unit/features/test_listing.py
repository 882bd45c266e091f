"""The list of features: searched, filtered and sorted as said, and nothing hidden without being counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.features.listing import SORTS, FiringText, family_texts, filter_features, list_features, visible
from sparserm.features.logit_lens import LogitLens
from sparserm.features.table import feature_table
from sparserm.heads.reward import RewardHead
from sparserm.sae.seeds import SeedStability
from tests.unit.features.latents import D_SAE, pairs_where, tiny_sae

LABELS = {1: "Refuses [politely]", 4: "lists"}
RATES = np.array([0.5, 0.05, 0.02, 0.2, 0.01])
OPENING = np.array([0.0, 0.9, 0.1, 0.8, 0.0])


def _head() -> RewardHead:
    one = np.ones(2)
    return RewardHead(np.array([0, 3]), np.eye(2, 6), np.zeros(6), one, one, np.array([0.5, -2.0]), 0.0, "mean")


@pytest.fixture(scope="module")
def rows():
    fires = np.random.default_rng(0).random((2, 40, D_SAE)) < 0.5
    table = replace(feature_table(pairs_where(fires), tiny_sae(), opening=OPENING), rate=RATES)
    tokens = np.array([[f" tok{j}", "\n", "x", "y"] for j in range(D_SAE)])
    lens = LogitLens(tokens, np.zeros(tokens.shape), tokens, np.zeros(tokens.shape))
    return lambda head=None, **wanted: list_features(table, head or _head(), LABELS, lens=lens, **wanted)


def _features(rows, **settings) -> list[int]:
    return filter_features(rows, **settings).rows["feature"].tolist()


def test_how_often_the_heads_features_were_selected_stands_beside_their_weights(rows) -> None:
    listed = rows(selected=np.array([0.9, 0.4]))
    assert listed["selected"].tolist()[0] == 0.9 and listed["selected"].tolist()[3] == 0.4
    assert listed["selected"].notna().sum() == 2 and "selected" not in rows()


def test_seeds_stand_beside_every_latent_where_they_are_known(rows) -> None:
    found = SeedStability(2, np.array([0, 0.5, 1, 1, 0]), np.array([0.5, 0, 1, 1, 0]))
    listed = rows(seeds=found)
    assert listed["seeds_direction"].tolist() == [0, 0.5, 1, 1, 0] and listed["seeds_firing"].tolist() == [0.5, 0, 1, 1, 0]
    assert not {"seeds_direction", "seeds_firing"} & set(rows())


def test_features_of_the_head_that_fire_together_name_each_other() -> None:
    head = replace(_head(), weights=np.array([0.5, 2.0]))
    assert family_texts(head) == {} == family_texts(replace(head, families=head.features))
    assert family_texts(replace(head, families=np.array([3, 3]))) == {0: "3 · 0", 3: "3 · 0"}
    assert family_texts(replace(_head(), families=np.array([3, 3]))) == {}  # their weights have different signs


def test_families_stand_beside_the_weights(rows) -> None:
    head = replace(_head(), weights=np.array([0.5, 2.0]), families=np.array([3, 3]))
    listed = rows(head=head)
    assert listed["family"].tolist()[:4] == ["3 · 0", "", "", "3 · 0"] and not any(listed["family"][4:])
    assert listed.columns.get_loc("family") + 1 == listed.columns.get_loc("weight") and "family" not in rows()


def test_filters_are_on_and_say_what_they_hide(rows) -> None:
    shown = filter_features(rows())
    assert sorted(shown.rows["feature"]) == [2, 4]
    assert (shown.n_dense, shown.n_begin, shown.n_hidden) == (2, 2, 3)  # feature 3 is both
    everything = filter_features(rows(), hide_dense=False, hide_begin=False)
    assert len(everything.rows) == D_SAE
    assert (everything.n_dense, everything.n_begin, everything.n_hidden) == (2, 2, 0)


def test_what_automatic_labels_detect_stands_beside_them(rows) -> None:
    detects = rows(detected={4: 0.9})["detects"]
    assert detects[4] == 0.9 and detects.drop(4).isna().all() and rows()["detects"].isna().all()


def test_hidden_ones_are_counted_among_those_that_match_the_search(rows) -> None:
    shown = filter_features(rows(), query="politely]")
    assert len(shown.rows) == 0 and (shown.n_dense, shown.n_begin, shown.n_hidden) == (0, 1, 1)


@pytest.mark.parametrize(
    ("query", "found"),
    [("3", [3]), ("refuses [P", [1]), ("tok4", [4]), ("·tok", [*range(D_SAE)]), (" ", [*range(D_SAE)]), ("77", [])],
)
def test_search_finds_numbers_labels_and_promoted_tokens(rows, query, found) -> None:
    assert sorted(_features(rows(), query=query, hide_dense=False, hide_begin=False)) == found


def test_the_heads_features_alone_with_their_weights(rows) -> None:
    head = rows(only_head=True)
    assert dict(zip(head["feature"], head["weight"], strict=True)) == {0: 0.5, 3: -2.0}
    assert _features(head, hide_dense=False, hide_begin=False) == [3, 0]  # the heaviest first


def test_relevance_puts_the_heads_features_before_the_others_by_certainty(rows) -> None:
    table = rows()
    order = _features(table, hide_dense=False, hide_begin=False)
    assert order[:2] == [3, 0]
    q = table.set_index("feature")["q"][order[2:]]
    assert list(q) == sorted(q)


def test_on_a_text_its_latents_stand_strongest_first(rows) -> None:
    firing = FiringText(("a", "b"), np.array([4, 0]), np.array([[0.5, 3.0], [7.0, 0.0]]), np.zeros(6), 0)
    table = rows(firing=firing)
    assert dict(zip(table["feature"], table["on_text"], strict=True)) == {4: 7.0, 0: 3.0}
    assert _features(table, hide_dense=False) == [4, 0]
    assert _features(rows(firing=firing, only_head=True), hide_dense=False) == [0]


def test_latents_of_one_token_of_a_text(rows) -> None:
    firing = FiringText(("a", " b"), np.array([4, 0]), np.array([[0.5, 3.0], [7.0, 0.0]]), np.zeros(6), 0)
    anywhere, first, second = rows(firing=firing), rows(firing=firing, token=0), rows(firing=firing, token=1)
    assert anywhere["at"].tolist() == ["2 ·b", "1 a"]
    assert _features(first, hide_dense=False) == [0, 4] and first["on_text"].tolist() == [0.5, 3.0]
    assert second["feature"].tolist() == [4] and second["on_text"].tolist() == [7.0]


@pytest.mark.parametrize(
    ("sort", "column"),
    [("gap", "gap"), ("score gap", "score_gap"), ("length", "length_correlation"), ("density", "token_rate")],
)
def test_signed_columns_are_sorted_by_size_whatever_the_sign(rows, sort, column) -> None:
    values = filter_features(rows(), hide_dense=False, hide_begin=False, sort=sort).rows[column].abs()
    assert list(values) == sorted(values, reverse=True)


@pytest.mark.parametrize("sort", SORTS)
def test_sorting_loses_nothing(rows, sort) -> None:
    assert sorted(_features(rows(), hide_dense=False, hide_begin=False, sort=sort)) == list(range(D_SAE))


def test_white_space_of_tokens_is_drawn() -> None:
    assert visible(" a\n\tb") == "·a↵⇥b"
    assert visible("\x08\u200b") == r"\x08\u200b"
    assert visible("قائمة🧾") == "قائمة🧾"

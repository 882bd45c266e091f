"""Edited heads: figures by hand, the same as measuring the edited head itself, and a parent that stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sparserm.evaluation.accuracy import evaluate_head
from sparserm.heads.reward import rewards
from sparserm.heads.saved import head_hash, load_head, save_head
from sparserm.training.editing import (
    HeadEdits,
    HeldOutScores,
    compare_edits,
    edit_head,
    feature_ablation,
    held_out_scores,
    length_suggestions,
    make_edited_head,
    measure_edits,
)
from sparserm.types import SparseRMError
from tests.unit.training.axes_head import CHOSEN, LENGTHS, PARENT, preference_data, represented_pairs, saved_head


@pytest.fixture
def held_out() -> HeldOutScores:
    return held_out_scores(saved_head([1.0, 1.0]), preference_data(4), represented_pairs(CHOSEN, np.zeros((4, 2)), LENGTHS))


def test_edits_that_are_equal_are_equal_values_and_can_be_written_down() -> None:
    edits = HeadEdits.of({88: -1, 12: 0, 7: 1})
    assert edits == HeadEdits(((12, 0.0), (88, -1.0))) == PARENT.change(88, -1).change(12, 0)
    assert str(edits) == "12:0,88:-1"
    assert HeadEdits.parse(str(edits)) == edits and HeadEdits.parse("") == PARENT
    assert edits.change(12, 1).change(88, 1) == PARENT
    assert HeadEdits.parse(str(HeadEdits.of({3: 0.05}))).factors == ((3, 0.05),)


@pytest.mark.parametrize(
    "text", ["12", "12:", "a:0", "1:2:3", "12:nan", "1:inf", "1:1_0", "1_0:1", "²:1", "1:1e308", "1:1e-320", "1:0,1:2"]
)
def test_edits_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SparseRMError, match="expected"):
        HeadEdits.parse(text)


def test_an_edited_head_has_its_weights_multiplied_and_nothing_else() -> None:
    head = saved_head([2.0, -3.0, 4.0]).head
    edited = edit_head(head, HeadEdits.of({10: 0, 11: -1, 12: 0.5}))
    assert edited.weights.tolist() == [0.0, 3.0, 2.0]
    assert replace(edited, weights=head.weights) == head
    assert not np.signbit(edit_head(head, HeadEdits.of({11: 0})).weights[1])
    with pytest.raises(SparseRMError, match="the head has no feature 99; expected one of 10, 11, 12"):
        edit_head(head, HeadEdits.of({99: 0}))


def test_figures_by_hand(held_out: HeldOutScores) -> None:
    before = measure_edits(held_out, PARENT)
    assert before.margins.tolist() == [-1.0, 3.0, 1.0, 2.0]
    assert before.evaluation.accuracy == 0.75 and before.evaluation.mean_margin == 1.25
    assert before.evaluation.length_baseline == 0.5
    after = measure_edits(held_out, HeadEdits.of({11: 0}))
    assert after.margins.tolist() == [1.0, 1.0, 1.0, -1.0]
    assert after.evaluation.accuracy == 0.75
    effect = compare_edits(held_out, before, after)
    assert (effect.accuracy_change, effect.regressed.tolist(), effect.fixed.tolist()) == (0.0, [3], [0])
    assert effect.ci95[0] < 0 < effect.ci95[1]


def test_a_tie_counts_as_wrong(held_out: HeldOutScores) -> None:
    assert measure_edits(held_out, HeadEdits.of({10: 0, 11: 0})).evaluation.accuracy == 0.0
    assert measure_edits(held_out, HeadEdits.of({10: 0})).evaluation.accuracy == 0.5  # one of the margins is zero


def test_length_correlations_are_scipys(held_out: HeldOutScores) -> None:
    found = measure_edits(held_out, PARENT)
    reward = np.concatenate([CHOSEN.sum(1), np.zeros(4)])
    length, gap = np.log(np.concatenate(LENGTHS)), np.subtract(*np.log(LENGTHS))
    expected = [
        stats.pearsonr(reward, length)[0],
        stats.spearmanr(reward, length)[0],
        stats.pearsonr(found.margins, gap)[0],
        stats.spearmanr(found.margins, gap)[0],
    ]
    assert list(vars(found.length).values()) == pytest.approx(expected)
    assert all(np.isnan(x) for x in vars(measure_edits(held_out, HeadEdits.of({10: 0, 11: 0})).length).values())


def test_the_ablation_of_features_by_hand(held_out: HeldOutScores) -> None:
    ablation = feature_ablation(held_out, PARENT)
    assert ablation.accuracy_change.tolist() == [-0.25, 0.0]
    assert ablation.length_correlation[1] == pytest.approx(1.0) and ablation.length_correlation[0] < 0
    for j, feature in enumerate(ablation.features):
        alone = measure_edits(held_out, HeadEdits.of({int(feature): 0})).length.margin_spearman
        assert ablation.length_without[j] == pytest.approx(alone)


def _suggested(n: int, edits: HeadEdits) -> list[int]:
    """Three features: one follows length, one does not, and one goes against it."""
    gaps = np.arange(n) - n // 2
    chosen = np.stack([2 * gaps, np.resize([1, -1], n), -gaps], axis=1)
    pairs = represented_pairs(chosen, np.zeros((n, 3)), ((gaps + n).tolist(), [n] * n))
    held_out = held_out_scores(saved_head([1.0, 1.0, 1.0]), preference_data(n), pairs)
    return length_suggestions(feature_ablation(held_out, edits), measure_edits(held_out, edits)).tolist()


def test_the_feature_that_ties_margins_to_length_is_suggested() -> None:
    assert _suggested(30, HeadEdits.of({12: 0.1})) == [0]


def test_nothing_is_suggested_where_chance_would_do_or_no_feature_is_left() -> None:
    assert _suggested(30, HeadEdits.of({10: 0, 11: 0, 12: 0})) == []
    assert _suggested(30, HeadEdits.of({10: 0, 12: 0})) == []
    assert _suggested(4, PARENT) == []


def test_any_edit_measures_the_same_as_the_edited_head_anew() -> None:
    rng = np.random.default_rng(1)
    saved = saved_head(list(rng.normal(size=6)))
    pairs = represented_pairs(rng.normal(size=(40, 6)), rng.normal(size=(40, 6)), ([5] * 40, list(range(40))))
    held_out = held_out_scores(saved, preference_data(40), pairs)
    for factors in rng.choice([-1.0, 0.0, 0.35, 1.0, 2.0], size=(20, 6)):
        edits = HeadEdits.of(dict(zip(range(10, 16), factors, strict=True)))
        found, head = measure_edits(held_out, edits), edit_head(saved.head, edits)
        again = evaluate_head(head, pairs)
        assert found.evaluation == replace(again, mean_margin=pytest.approx(again.mean_margin))
        np.testing.assert_allclose(found.margins, rewards(head, pairs.chosen) - rewards(head, pairs.rejected), atol=1e-12)


def test_pairs_of_training_prompts_are_left_out_and_counted() -> None:
    saved = saved_head([1.0, 1.0], trained_on=("question 1", "question 2"))
    pairs = represented_pairs(CHOSEN, np.zeros((4, 2)), LENGTHS)
    held_out = held_out_scores(saved, preference_data(4), pairs)
    assert (held_out.n_seen, held_out.rows.tolist()) == (2, [0, 3])
    assert measure_edits(held_out, PARENT).margins.tolist() == [-1.0, 2.0]
    everything = saved_head([1.0, 1.0], trained_on=tuple(f"question {i}" for i in range(4)))
    with pytest.raises(SparseRMError, match=r"all 4 pairs of held out have prompts that the head was trained on.*choose pairs"):
        held_out_scores(everything, preference_data(4), pairs)


def test_one_prompt_leaves_the_change_unknown() -> None:
    pairs = represented_pairs(CHOSEN[:2], np.zeros((2, 2)), ([1, 2], [2, 1]))
    held_out = held_out_scores(saved_head([1.0, 1.0]), preference_data(2), replace(pairs, groups=np.zeros(2, np.int64)))
    outcome = measure_edits(held_out, PARENT)
    assert compare_edits(held_out, outcome, outcome).ci95 == (-1.0, 1.0)


def test_a_saved_edit_names_its_parent_and_says_what_it_was_measured_on(held_out: HeldOutScores, tmp_path) -> None:
    parent = saved_head([1.0, 1.0])
    edits = HeadEdits.of({11: 0})
    child = make_edited_head(parent, "parent-name", edits, "child", held_out)
    save_head(child, tmp_path / "child")
    child = load_head(tmp_path / "child")
    training = child.card.training
    assert training["lineage"] == {"parent": "parent-name", "parent_hash": head_hash(parent), "edits": {"11": 0.0}}
    assert training["yardstick"] == "responses of held out, 4 held-out pairs"
    assert "accuracy" not in training and training["data"] == "train"
    metrics = child.card.metrics
    assert (metrics["accuracy"], metrics["n"], metrics["parent_accuracy"]) == (0.75, 4, 0.75)
    assert metrics["measured_on"] == "held out, also used to choose the edits"
    assert child.quantiles_chosen[[0, 100]].tolist() == [-0.5, 1.5] and child.quantiles_rejected[50] == 0.5  # with the bias
    assert child.card.labels == {10: "first"} and child.card.name == "child"
    assert head_hash(child) != head_hash(parent)
    assert parent.card.metrics == {"accuracy": 0.8} and parent.head.weights.tolist() == [1.0, 1.0]


def test_a_grandchild_keeps_its_whole_lineage(held_out: HeldOutScores) -> None:
    child = make_edited_head(saved_head([1.0, 1.0]), "parent", HeadEdits.of({11: 0.5}), "child", held_out)
    grandchild = make_edited_head(child, "child", HeadEdits.of({10: 2}), "grandchild", None)
    lineage = grandchild.card.training["lineage"]
    assert lineage["parent_hash"] == head_hash(child)
    assert lineage["parent_lineage"] == child.card.training["lineage"]
    assert json.loads(json.dumps(lineage)) == lineage


def test_without_pairs_nothing_is_measured_and_the_card_says_so() -> None:
    parent = saved_head([1.0, 1.0])
    child = make_edited_head(parent, "parent", HeadEdits.of({11: -1}), "child", None)
    assert child.card.metrics == {}
    assert child.card.training["yardstick"] == "the parent's training responses, before the edits"
    np.testing.assert_array_equal(child.quantiles_chosen, parent.quantiles_chosen)


@pytest.mark.parametrize(("factors", "message"), [({}, "no feature is edited"), ({10: 0, 11: 0}, "every feature is off")])
def test_what_would_be_no_new_head_is_not_saved(factors, message) -> None:
    with pytest.raises(SparseRMError, match=message):
        make_edited_head(saved_head([1.0, 1.0]), "parent", HeadEdits.of(factors), "child", None)

"""Evaluation beyond accuracy: every figure by hand on a handful of pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss

from sparserm.evaluation.report import calibration, evaluation_report, slices, summary
from sparserm.heads.labels import save_label
from sparserm.types import SparseRMError
from tests.unit.evaluation.margins import pairs_with_margins, preference_data, represented_pairs, saved_head

# ---------------------------------------------------------------------------------------------------------- calibration


def test_calibration_of_four_pairs_by_hand() -> None:
    chances = np.array([0.92, 0.92, 0.08, 0.62])  # of the chosen response; the third pair is ranked the other way round
    found = calibration(logit(chances), np.arange(4))
    assert [(one.n, round(one.low, 2), round(one.high, 2)) for one in found.bins] == [(1, 0.6, 0.65), (3, 0.9, 0.95)]
    assert [one.confidence for one in found.bins] == pytest.approx([0.62, 0.92])
    assert [one.correct for one in found.bins] == pytest.approx([1.0, 2 / 3])
    assert found.expected_error == pytest.approx((1 * 0.38 + 3 * (0.92 - 2 / 3)) / 4)
    assert found.brier == pytest.approx((2 * 0.08**2 + 0.92**2 + 0.38**2) / 4)
    assert found.log_loss == pytest.approx(-np.log(chances).mean())


def test_calibration_is_that_of_every_pair_read_from_both_sides() -> None:
    margins = np.random.default_rng(0).normal(0.5, 1, 300)
    chances, outcomes = np.concatenate([expit(margins), expit(-margins)]), np.repeat([1, 0], 300)
    found = calibration(margins, np.arange(300))
    assert found.brier == pytest.approx(brier_score_loss(outcomes, chances))
    assert found.log_loss == pytest.approx(log_loss(outcomes, chances))
    for one in found.bins:
        rows = (chances >= one.low) & (chances < one.high)
        assert (one.n, one.correct) == (rows.sum(), pytest.approx(outcomes[rows].mean()))


def test_a_head_without_opinion_is_a_calibrated_coin() -> None:
    found = calibration(np.zeros(8), np.arange(8))
    assert (found.expected_error, found.brier, found.log_loss) == (0, 0.25, pytest.approx(np.log(2)))
    assert [(one.confidence, one.correct, one.n) for one in found.bins] == [(0.5, 0.5, 8)]


def test_certainty_falls_into_the_last_bin() -> None:
    found = calibration(np.array([1e3, 1e3]), np.arange(2))
    assert [(one.high, one.n) for one in found.bins] == [(1.0, 2)]


# --------------------------------------------------------------------------------------------------------------- slices


def _slices(margins, by, **settings):
    n = len(margins)
    pairs = pairs_with_margins(*margins, tokens=settings.get("tokens"), groups=settings.get("groups"))
    categories, seen = settings.get("categories", [""] * n), settings.get("seen", np.zeros(n, bool))
    return [one for one in slices(np.array(margins, float), pairs, categories, seen) if one.by == by]


def test_slices_by_category_hold_the_most_pairs_first() -> None:
    found = _slices([1, -1, 1, 1, 1], "category", categories=["b", "a", "b", "", "b"])
    assert [(one.name, one.n, one.accuracy) for one in found] == [("b", 3, 1.0), ("(none)", 1, 1.0), ("a", 1, 0.0)]
    assert _slices([1, 1], "category", categories=["a", "a"]) == []


def test_slices_by_length_do_not_mind_which_response_is_called_chosen() -> None:
    chosen, rejected = [4, 5, 8, 10, 10, 11, 20, 21], [10, 10, 10, 8, 10, 8, 10, 10]
    names = [
        "chosen less than half as long",
        "chosen shorter",
        "about as long",
        "chosen longer",
        "chosen more than twice as long",
    ]
    found = _slices([1] * 8, "length", tokens=[chosen, rejected])
    assert {one.name: one.n for one in found} == dict(zip(names, [1, 1, 3, 2, 1], strict=True))
    turned = _slices([1] * 8, "length", tokens=[rejected, chosen])
    assert {one.name: one.n for one in turned} == dict(zip(names, [1, 2, 3, 1, 1], strict=True))
    assert {one.name: one.length_baseline for one in found}["about as long"] == pytest.approx(1 / 3)


def test_near_ties_are_the_smallest_fifth_of_margins_either_way() -> None:
    near, others = _slices([-0.1, 2, -3, 4, 0.2, -5, 6, 7, 8, 9], "margin")
    assert (near.n, near.accuracy, near.mean_margin) == (2, 0.5, pytest.approx(0.05))
    assert (others.n, others.accuracy) == (8, 0.75)


def test_pairs_that_the_head_was_trained_on_are_told_apart() -> None:
    new, seen = _slices([1, 1, -1], "training", seen=np.array([True, False, False]))
    assert (new.n, new.accuracy, seen.n, seen.accuracy) == (2, 0.5, 1, 1.0)
    assert _slices([1, 1], "training", seen=np.array([True, True])) == []


def test_a_slice_that_is_all_right_is_not_certain() -> None:
    (one,) = _slices([1, 1, 1], "length")
    assert one.accuracy == 1.0
    assert one.ci95 == pytest.approx((0.4385, 1.0), abs=1e-4)  # Wilson, 3 of 3
    (alike,) = _slices([-1, -1, -1], "length", groups=[5, 5, 5])
    assert alike.ci95 == pytest.approx((0.0, 0.7935), abs=1e-4)  # one prompt only: Wilson, 0 of 1


# --------------------------------------------------------------------------------------------------------------- report


def test_mistakes_are_told_in_the_users_own_words() -> None:
    saved = saved_head()
    feature = int(saved.head.features[0])
    save_label(saved.card.sae_fingerprint, feature, "mine")
    (worst,) = evaluation_report(saved, preference_data(1), pairs_with_margins(-3)).mistakes
    assert {part.label for part in worst.contributions if part.feature == feature} == {"mine"}


def test_the_worst_mistakes_come_first_and_add_up() -> None:
    pairs = represented_pairs([[1, 0], [0, 0], [0, 0]], [[0, 0], [1, 1], [2, 0]])
    report = evaluation_report(saved_head(), preference_data(3), pairs)
    assert [(one.index, one.margin) for one in report.mistakes] == [(1, -3.0), (2, -2.0)]
    worst = report.mistakes[0]
    assert worst.chance == pytest.approx(expit(-3))
    parts = [(part.feature, part.label, part.contribution) for part in worst.contributions]
    assert parts == [(7, "seven", -2.0), (3, "feature 3", -1.0)]
    assert list(report.margins) == [1, -3, -2]


def test_auroc_compares_every_chosen_with_every_rejected_response() -> None:
    pairs = represented_pairs([[1, 0], [3, 0]], [[0, 0], [2, 0]])  # 1 > 0, 3 > 0, 3 > 2, but 1 < 2
    assert evaluation_report(saved_head(), preference_data(2), pairs).auroc == 0.75


def test_prompts_of_the_training_pairs_are_counted() -> None:
    report = evaluation_report(saved_head("p0", "p2", "elsewhere"), preference_data(3), pairs_with_margins(1, -1, 1))
    assert report.n_seen_in_training == 2
    assert {one.name: one.n for one in report.slices if one.by == "training"} == {
        "prompt not trained on": 1,
        "prompt trained on": 2,
    }


def test_length_matched_accuracy_stands_beside_longer_is_better() -> None:
    pairs = pairs_with_margins(1, -1, -1, tokens=[[11, 9, 90], [10, 10, 10]])
    matched = evaluation_report(saved_head(), preference_data(3), pairs).length_matched
    assert matched is not None
    assert (matched.n, matched.accuracy, matched.length_baseline) == (2, 0.5, 0.5)
    far = pairs_with_margins(1, tokens=[[90], [10]])
    assert evaluation_report(saved_head(), preference_data(1), far).length_matched is None


def test_how_far_margins_follow_length_and_accuracy_without_its_help() -> None:
    pairs = pairs_with_margins(1, 2, -1, -3, tokens=[[20, 40, 5, 5], [10, 10, 10, 15]])
    report = evaluation_report(saved_head(), preference_data(4), pairs)
    assert report.length.margin_spearman == pytest.approx(1.0)
    assert report.length_balanced is not None
    assert (report.length_balanced.accuracy, report.length_balanced.longer, report.length_balanced.shorter) == (0.5, 1.0, 0.0)
    found = summary(report, preference_data(4).pairs)
    assert (found["length_balanced"]["n_longer"], found["length_correlation"]["margin_spearman"]) == (2, pytest.approx(1.0))
    always = summary(
        evaluation_report(saved_head(), preference_data(1), pairs_with_margins(1, tokens=[[9], [3]])), preference_data(1).pairs
    )
    assert always["length_balanced"] is None and always["length_correlation"]["margin_spearman"] is None


def test_the_summary_is_json_and_names_rows() -> None:
    data = preference_data(3, ["a", "b", "a"])
    report = evaluation_report(saved_head(), data, pairs_with_margins(1, -1, 0))
    found = json.loads(json.dumps(summary(report, data.pairs), allow_nan=False))
    assert [(one["row"], one["id"], one["category"]) for one in found["mistakes"]] == [(2, "id1", "b")]
    assert sum(one["n"] for one in found["calibration"]["bins"]) == 3


def test_no_pairs_are_refused() -> None:
    with pytest.raises(SparseRMError, match="no pairs"):
        evaluation_report(saved_head(), preference_data(1), pairs_with_margins(1).take(np.arange(0)))

"""Evaluation: strict accuracy, an interval over prompts, and the baselines beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparserm.evaluation.accuracy import cross_validate, cross_validate_dense, evaluate_head, evaluate_margins
from sparserm.evaluation.baselines import dense_probe_margins, random_latents_accuracy, random_settings
from sparserm.evaluation.intervals import accuracy_interval, mean_interval
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.representations.values import PairRepresentations
from sparserm.types import Score, SparseRMError
from tests.unit.separable import SAE, TEST, TRAIN, D, noise, represented_pairs

both_scores = pytest.mark.parametrize("score", ["gated", "projection"])


@pytest.fixture(autouse=True)
def _few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the prompts are halved is tested on its own; here less of it does."""
    monkeypatch.setattr("sparserm.heads.gated_selection.SPLITS", 2)


def test_a_tie_is_wrong() -> None:
    found = evaluate_margins(np.array([1.0, 0.0, -1.0, 1e-12]), represented_pairs(*np.zeros((2, 4, D))))
    assert found.accuracy == 0.5
    assert found.mean_margin == pytest.approx(1e-12 / 4)
    assert (found.n, found.n_prompts) == (4, 4)


@both_scores
def test_identical_responses_are_all_ties(score: Score) -> None:
    head = fit_head(TRAIN, SAE, FitSettings(k=3, score=score)).head
    same = represented_pairs(TRAIN.chosen.h, TRAIN.chosen.h)
    assert evaluate_head(head, same).accuracy == 0.0


def test_longer_is_better_is_strict_too() -> None:
    pairs = represented_pairs(*np.zeros((2, 4, D)), lengths=([5, 5, 9, 2], [4, 5, 1, 8]))
    assert evaluate_margins(np.ones(4), pairs).length_baseline == 0.5


def test_a_pair_counts_as_truncated_if_either_response_is() -> None:
    pairs = represented_pairs(*np.zeros((2, 4, D)), truncated=([1, 0, 3, 0], [0, 0, 2, 9]))
    assert evaluate_margins(np.ones(4), pairs).n_truncated == 3


def test_prompts_are_counted_once() -> None:
    pairs = represented_pairs(*np.zeros((2, 4, D)), groups=np.array([7, 7, 2, 7]))
    assert evaluate_margins(np.ones(4), pairs).n_prompts == 2


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_contains_the_accuracy_and_lies_within_zero_and_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.random(90) < 0.7
    low, high = accuracy_interval(correct, rng.integers(0, 30, 90))
    assert 0 <= low < correct.mean() < high <= 1


def test_the_interval_is_the_same_every_time_and_whatever_prompts_are_numbered() -> None:
    rng = np.random.default_rng(0)  # prompts of many sizes, so that two draws of the bootstrap do not agree by chance
    correct, groups = rng.random(500) < 0.7, np.sort(rng.integers(0, 90, 500))
    assert accuracy_interval(correct, groups) == accuracy_interval(correct, groups)
    assert accuracy_interval(correct, groups * 10**12 + 5) == accuracy_interval(correct, groups)


def test_fewer_prompts_make_the_interval_wider() -> None:
    correct = np.repeat(np.random.default_rng(0).random(20) < 0.6, 10)  # pairs of one prompt are all right or all wrong
    low, high = accuracy_interval(correct, np.arange(200))
    wide_low, wide_high = accuracy_interval(correct, np.arange(200) // 10)
    assert wide_high - wide_low > 2 * (high - low)


def test_the_interval_is_as_wide_as_the_binomial_says_where_pairs_are_independent() -> None:
    correct = np.arange(400) % 4 > 0
    low, high = accuracy_interval(correct, np.arange(400))
    expected = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)


def test_a_single_prompt_leaves_everything_open() -> None:
    assert accuracy_interval(np.array([True, True, False]), np.zeros(3)) == (0.0, 1.0)


def test_where_all_or_none_are_correct_few_prompts_leave_much_open() -> None:
    low, high = accuracy_interval(np.ones(12, bool), np.arange(12))
    assert low == pytest.approx(0.758, abs=0.001) and high == 1.0
    assert accuracy_interval(np.zeros(12, bool), np.arange(12)) == pytest.approx((0, 1 - low))
    one = evaluate_margins(np.ones(12), represented_pairs(*np.zeros((2, 12, D))))
    assert one.ci95 == (low, high)  # as everywhere else


def test_the_dense_probe_separates_separable_pairs() -> None:
    assert (dense_probe_margins(TRAIN, TEST) > 0).all()
    assert cross_validate_dense(TRAIN).accuracy == 1.0


def test_the_dense_probe_does_not_mind_scale_or_constant_dimensions() -> None:
    def stretched(pairs: PairRepresentations) -> PairRepresentations:
        scale = np.array([1e3, 1, 1, 1, 1, 1, 1e-3, 0])
        return represented_pairs(pairs.chosen.h * scale + 4, pairs.rejected.h * scale + 4, pairs.groups)

    assert (dense_probe_margins(stretched(TRAIN), stretched(TEST)) > 0).mean() > 0.98


@both_scores
def test_noise_is_ranked_no_better_than_by_chance(score: Score) -> None:
    assert 0.3 < cross_validate_dense(noise(0)).accuracy < 0.7
    assert 0.3 < cross_validate(noise(0), SAE, FitSettings(k=3, l2=0.1, score=score)).accuracy < 0.7


def test_random_settings_differ_in_their_seed_alone() -> None:
    drawn = random_settings(FitSettings(k=4, l2=0.5), draws=3)
    assert [(one.selection, one.seed, one.k, one.l2) for one in drawn] == [("random", s, 4, 0.5) for s in range(3)]


@both_scores
def test_the_random_baseline_is_the_mean_of_five_random_heads(score: Score) -> None:
    settings = FitSettings(k=2, l2=0.1, score=score)
    accuracies = [
        evaluate_head(fit_head(TRAIN, SAE, replace(settings, selection="random", seed=seed)).head, TEST).accuracy
        for seed in range(5)
    ]
    assert random_latents_accuracy(TRAIN, TEST, SAE, settings) == pytest.approx(np.mean(accuracies))


@both_scores
def test_selection_beats_the_random_baseline_where_one_latent_says_all(score: Score) -> None:
    settings = FitSettings(k=1, l2=0.1, score=score)
    head = fit_head(TRAIN, SAE, settings).head
    assert list(head.features) == [0]
    assert evaluate_head(head, TEST).accuracy == 1.0 > random_latents_accuracy(TRAIN, TEST, SAE, settings)


@both_scores
def test_cross_validation_holds_every_pair_out_and_chooses_anew(score: Score) -> None:
    found = cross_validate(TRAIN, SAE, FitSettings(k=1, l2=0.1, score=score))
    assert (found.accuracy, found.n, found.n_prompts) == (1.0, 120, 60)


@both_scores
def test_cross_validation_does_not_read_what_it_holds_out(score: Score) -> None:
    # Eight prompts of twelve pairs; each prompt's chosen responses point along a dimension of its own.
    groups = np.repeat(np.arange(D), 12)
    chosen, rejected = 0.1 * np.random.default_rng(0).normal(size=(2, len(groups), D))
    chosen[np.arange(len(groups)), groups] += 5
    # The selector "stable" would leave out dimensions of single prompts; all latents drawn at random are all.
    selection = "random" if score == "gated" else "sparse"
    settings = FitSettings(k=2 * D, l2=0.1, score=score, selection=selection)
    pairs = represented_pairs(chosen, rejected, groups)
    assert evaluate_margins(dense_probe_margins(pairs, pairs), pairs).accuracy == 1.0
    assert evaluate_head(fit_head(pairs, SAE, settings).head, pairs).accuracy == 1.0
    assert cross_validate_dense(pairs).accuracy < 0.8
    assert cross_validate(pairs, SAE, settings).accuracy < 0.8


def test_measuring_on_no_pairs_is_refused() -> None:
    with pytest.raises(SparseRMError, match="no pairs to evaluate on"):
        evaluate_margins(np.zeros(0), TRAIN.take(np.arange(0)))


def test_cross_validation_of_a_single_pair_is_refused() -> None:
    with pytest.raises(SparseRMError, match="at least 2 pairs, got 1"):
        cross_validate(TRAIN.take(np.arange(1)), SAE, FitSettings(k=1, l2=0.1))


def test_the_interval_is_that_of_drawing_prompts_one_by_one() -> None:
    rng = np.random.default_rng(3)
    correct, groups = rng.random(400) < 0.65, np.sort(rng.integers(0, 120, 400))
    prompts = [correct[groups == group] for group in np.unique(groups)]
    draws = rng.integers(0, len(prompts), (4000, len(prompts)))
    hits, counts = (np.array([measure(one) for one in prompts]) for measure in (np.sum, len))
    expected = np.percentile(hits[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    assert accuracy_interval(correct, groups) == pytest.approx(expected, abs=0.01)


def test_where_all_draws_are_right_the_interval_is_not_a_point() -> None:
    rows, groups = np.ones((3, 16), bool), np.arange(16)
    low, high = mean_interval(rows, groups)
    assert 0.7 < low < 0.95 and high == pytest.approx(1)
    assert mean_interval(np.zeros((3, 16), np.int8), groups) == (0, 0)  # of a difference it is: there is none


def test_random_latents_are_drawn_from_all_and_not_from_those_with_a_label() -> None:
    drawn = random_settings(FitSettings(k=6, score="gated", named=True))
    assert [(one.selection, one.named, one.seed) for one in drawn] == [("random", False, seed) for seed in range(5)]

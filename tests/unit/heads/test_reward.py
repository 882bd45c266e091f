"""The head and the probe behind it: folds over prompts, a penalty that held-out pairs choose, rewards that are sums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from sparserm.heads.bradley_terry import (
    L2_GRID,
    PROBE_L2,
    bradley_terry_loss,
    choose_l2,
    fit_bradley_terry,
    fit_probe,
    prompt_folds,
)
from sparserm.heads.reward import RewardHead, ScoreMoments, build_head, contributions, rewards, second_moments, token_scores
from tests.unit.responses import responses


def _differences(seed: int = 0, n: int = 120, k: int = 5) -> np.ndarray:
    """Noisy differences whose chosen side wins by the first features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    wins = rng.random(n) < expit(x @ np.linspace(2, 0, k))
    return np.where(wins[:, None], x, -x)


def _head(bias: float = 0.0) -> RewardHead:
    """Scores of h = (x, y) with center (1, 0): x - 1 and y; contributions 2 (x - 2) / 0.5 and -(y - 3) / 2."""
    moments = ScoreMoments(np.array([1.0, 3.0]), np.array([0.5, 2.0]))
    built = build_head(np.array([4, 9]), np.eye(2), np.array([1.0, 0.0]), moments, np.array([2.0, -1.0]), "mean")
    return RewardHead(**{**vars(built), "bias": bias})


@pytest.mark.parametrize("n_prompts", [2, 3, 7, 40])
def test_folds_never_split_a_prompt_and_hold_every_pair_out_once(n_prompts: int) -> None:
    groups = np.random.default_rng(n_prompts).integers(0, n_prompts, 100)
    folds = prompt_folds(groups)
    assert len(folds) == min(5, n_prompts)
    for train, held_out in folds:
        assert not set(groups[train]) & set(groups[held_out])
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(100))


def test_folds_of_one_prompt_are_over_its_pairs() -> None:
    folds = prompt_folds(np.zeros(10, np.int64))
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(10))


@pytest.mark.parametrize(("dimensions", "strengths"), [(5, L2_GRID), (60, PROBE_L2)])  # the second nearly separable
def test_chosen_l2_has_the_least_held_out_loss(dimensions, strengths) -> None:
    x, groups = _differences(k=dimensions), np.arange(120) // 3
    choice = choose_l2(x, groups, strengths)
    assert choice.strengths == strengths

    def held_out_loss(l2: float) -> float:
        return np.mean([bradley_terry_loss(x[out] @ fit_bradley_terry(x[train], l2)) for train, out in prompt_folds(groups)])

    exact = [held_out_loss(l2) for l2 in strengths]
    assert choice.losses == pytest.approx(exact, abs=1e-3)
    assert choice.best == strengths[int(np.argmin(exact))]


def test_l2_is_strong_on_noise_and_weak_on_signal() -> None:
    groups = np.arange(120)
    noise = np.random.default_rng(3).normal(size=(120, 5))
    assert choose_l2(noise, groups).best > choose_l2(_differences(), groups).best


def test_choosing_l2_from_a_single_pair_takes_the_first_strength() -> None:
    assert choose_l2(np.ones((1, 2)), np.zeros(1)).best == L2_GRID[0]


def test_rewards_and_contributions_by_hand() -> None:
    h = np.array([[2.0, 3.0], [3.0, 5.0]], np.float32)
    np.testing.assert_allclose(contributions(_head(), token_scores(_head(), h)), [[0.0, 0.0], [4.0, -1.0]])
    np.testing.assert_allclose(rewards(_head(bias=0.5), responses(h)), [0.5, 3.5])


def test_contributions_and_bias_sum_to_the_reward() -> None:
    h = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    head = _head(bias=-0.25)
    parts = contributions(head, token_scores(head, h))
    assert parts.shape == (3, 7, 2)
    for one, part in zip(h, parts, strict=True):
        np.testing.assert_array_equal(rewards(head, responses(one)), part.sum(-1) + head.bias)


def test_a_built_head_has_no_bias_and_plain_dtypes() -> None:
    head = _head()
    assert head.bias == 0.0
    assert head.features.dtype == np.int64 and head.directions.dtype == np.float32
    assert head.center.dtype == np.float32 and head.weights.dtype == np.float64


def test_the_probe_is_the_bradley_terry_fit_on_scaled_dimensions() -> None:
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(200, 3)) * [1, 100, 0.01] + [0.3, 20, 0], np.arange(200)
    probe = fit_probe(x, groups, 0.3)
    np.testing.assert_allclose(probe.weights, fit_bradley_terry(x / x.std(0), 0.3) / x.std(0), rtol=1e-5)
    assert (probe.l2, probe.choice) == (0.3, None)
    chosen = fit_probe(x, groups)
    assert chosen.choice is not None and chosen.l2 == chosen.choice.best in PROBE_L2


def test_a_dimension_that_never_varies_has_a_finite_weight() -> None:
    x = np.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    assert np.isfinite(fit_probe(x, np.arange(3), 0.1).weights).all()


def test_a_dimension_in_which_all_pairs_differ_alike_has_a_finite_weight() -> None:
    x = np.array([[1.0, 5.1], [2.0, 5.1], [0.5, 5.1]], np.float32)
    weights = fit_probe(x, np.arange(3), 0.1).weights
    assert np.abs(weights).max() < 10


def test_a_weaker_penalty_than_those_tried_is_fitted_as_well() -> None:
    x = _differences(k=40)
    probe = fit_probe(x, np.arange(len(x)), 1e-4)
    np.testing.assert_allclose(probe.weights, fit_bradley_terry(x / x.std(0), 1e-4) / x.std(0), rtol=1e-4)


@pytest.mark.parametrize("n", [20, 120])  # fewer pairs than dimensions, and more
def test_known_second_moments_make_no_difference_to_the_probe(n: int) -> None:
    x, groups = _differences(n=n, k=40).astype(np.float32), np.arange(n)
    probe, known = fit_probe(x, groups), fit_probe(x, groups, second=second_moments(x))
    assert probe.l2 == known.l2
    np.testing.assert_allclose(known.weights, probe.weights, rtol=1e-4, atol=1e-6)

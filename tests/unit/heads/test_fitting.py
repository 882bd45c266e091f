"""Fitting end to end on synthetic representations: the head ranks new pairs, is the same every time, and says what is wrong."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.special import expit

from sparserm.heads.bradley_terry import PROBE_L2
from sparserm.heads.fitting import FitSettings, fit_head, fit_statistics
from sparserm.heads.reward import alignment_scores, rewards
from sparserm.heads.selection import SELECTORS
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, SparseRMError
from tests.unit.responses import responses

D, D_SAE = 16, 64
PLANTED = (5, 20, 41)


def _sae() -> SparseAutoencoder:
    """Latents 5, 20 and 41 read the first three dimensions, all others mostly the rest; decoder rows are not of norm one."""
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(D_SAE, D)) * np.array([0.4] * 3 + [1.0] * (D - 3))
    decoder[list(PLANTED)] = 5 * np.eye(D)[:3]
    weights = {"W_dec": torch.tensor(decoder).float(), "b_dec": torch.tensor(rng.normal(size=D)).float()}
    return SparseAutoencoder("made up", "standard", HookPoint(3), "", weights)


def _pairs(seed: int = 0, n: int = 300) -> PairRepresentations:
    """Two pairs for each prompt; preferences by the first three dimensions; latent 0 never fires."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, D)).astype(np.float32)
    wins = rng.random(n) < expit((a - b)[:, :3] @ np.array([4.0, -3.0, 3.0]))

    def side(h: np.ndarray) -> Representations:
        fired = [np.sort(rng.choice(np.arange(1, D_SAE), 12, replace=False)) for _ in range(n)]
        indptr, indices = np.arange(0, 12 * n + 1, 12), np.concatenate(fired).astype(np.int32)
        rate, peak = rng.uniform(0.05, 1, (2, 12 * n)).astype(np.float32)
        latents = LatentSummary(indptr, firings(indices, rate, peak, peak), D_SAE)
        return Representations("mean", h, rng.integers(5, 50, n, dtype=np.int32), np.zeros(n, np.int32), latents)

    chosen, rejected = np.where(wins[:, None], a, b), np.where(wins[:, None], b, a)
    return PairRepresentations(side(chosen), side(rejected), np.arange(n) // 2)


SAE, TRAIN, TEST = _sae(), _pairs(0), _pairs(1)


def _accuracy(head, pairs: PairRepresentations) -> float:
    return float((rewards(head, pairs.chosen) > rewards(head, pairs.rejected)).mean())


def test_the_planted_features_are_found_and_rank_new_pairs() -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3))
    assert list(fitted.head.features) == list(PLANTED)
    assert np.sign(fitted.head.weights).tolist() == [1.0, -1.0, 1.0]
    assert fitted.accuracy == _accuracy(fitted.head, TRAIN) > 0.85
    assert _accuracy(fitted.head, TEST) > 0.85


@pytest.mark.parametrize("method", SELECTORS)
def test_every_selector_gives_a_sound_head(method: str) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=6, selection=method))
    head = fitted.head
    assert len(head.features) == 6 and (np.diff(head.features) > 0).all() and 0 not in head.features
    np.testing.assert_allclose(np.linalg.norm(head.directions, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(head.directions, SAE.directions().numpy()[head.features])
    np.testing.assert_array_equal(head.center, SAE.b_dec.numpy())
    assert head.pooling == "mean" and head.bias == 0 and fitted.l2 in PROBE_L2
    both = np.concatenate([fitted.rewards_chosen, fitted.rewards_rejected])
    np.testing.assert_array_equal(both, rewards(head, responses(TRAIN.stacked)))


def test_moments_are_of_all_training_responses_so_that_the_mean_reward_is_zero() -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=4))
    scores = alignment_scores(TRAIN.stacked, fitted.head.directions, fitted.head.center)
    np.testing.assert_allclose(fitted.head.mu, scores.mean(0), atol=1e-6)
    np.testing.assert_allclose(fitted.head.sigma, scores.std(0), rtol=1e-5)
    both = np.concatenate([fitted.rewards_chosen, fitted.rewards_rejected])
    assert abs(both.mean()) < 1e-6


@pytest.mark.parametrize("method", SELECTORS)
def test_the_same_pairs_give_the_same_head_to_the_bit(method: str) -> None:
    settings = FitSettings(k=5, selection=method)
    first, second = (fit_head(_pairs(0), _sae(), settings).head for _ in range(2))
    for field in fields(first):
        assert np.asarray(getattr(first, field.name)).tobytes() == np.asarray(getattr(second, field.name)).tobytes()


def test_a_given_l2_is_used_as_it_is() -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.7))
    assert fitted.l2 == 0.7 and fitted.l2_choice is None


def test_the_seed_draws_other_random_features() -> None:
    drawn = [fit_head(TRAIN, SAE, FitSettings(k=6, selection="random", seed=s, l2=0.1)).head.features for s in (0, 1)]
    assert drawn[0].tolist() != drawn[1].tolist()


def test_activity_decides_the_frequencies_that_are_kept() -> None:
    often = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.1)).stats
    mostly = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.1, activity="most")).stats
    assert often.f_chosen.sum() == pytest.approx(12) and (mostly.f_chosen <= often.f_chosen).all()
    assert mostly.f_chosen.sum() < 9


def test_a_tie_on_the_training_pairs_counts_as_wrong() -> None:
    same = replace(TRAIN, rejected=TRAIN.chosen)
    assert fit_head(same, SAE, FitSettings(k=2, selection="random")).accuracy == 0.0


def test_statistics_standardise_by_the_spread_of_the_scores() -> None:
    statistics = fit_statistics(TRAIN, SAE, FitSettings())
    features = np.array([7, 3])
    chosen, rejected = (
        alignment_scores(side.h, statistics.directions[features], SAE.b_dec.numpy()) for side in (TRAIN.chosen, TRAIN.rejected)
    )
    spread = np.concatenate([chosen, rejected]).std(0)
    np.testing.assert_allclose(
        (TRAIN.differences @ statistics.directions[features].T) / statistics.moments.sigma[features],
        (chosen - rejected) / spread,
        atol=1e-5,
    )
    assert list(np.flatnonzero(~statistics.usable)) == [0]


@pytest.mark.parametrize("k", [64, 1000])
def test_k_beyond_the_latents_that_fire_is_refused_with_the_bound(k: int) -> None:
    with pytest.raises(SparseRMError, match=f"k = {k} .*63 latents fire.*1 to 63"):
        fit_head(TRAIN, SAE, FitSettings(k=k))


def test_the_wrong_pooling_is_refused_naming_both() -> None:
    with pytest.raises(SparseRMError, match="have mean pooling, expected last"):
        fit_head(TRAIN, SAE, FitSettings(pooling="last"))


def test_an_unknown_selector_is_refused_naming_the_known() -> None:
    with pytest.raises(SparseRMError, match=r"selection is 'lasso', expected one of sparse, frequency, effect_size, random"):
        FitSettings(selection="lasso")


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(SparseRMError, match=f"k is {k}, expected a whole number from 1"):
        FitSettings(k=k)


def test_pairs_without_latents_are_refused() -> None:
    with pytest.raises(SparseRMError, match="have no latents"):
        fit_head(replace(TRAIN, chosen=replace(TRAIN.chosen, latents=None)), SAE, FitSettings(k=3))


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_pairs_still_give_a_finite_head(n: int) -> None:
    head = fit_head(TRAIN.take(np.arange(n)), SAE, FitSettings(k=2)).head
    assert all(np.isfinite(getattr(head, name)).all() for name in ("mu", "sigma", "weights"))


def test_no_pairs_are_refused() -> None:
    with pytest.raises(SparseRMError, match="no pairs to fit"):
        fit_head(TRAIN.take(np.arange(0)), SAE, FitSettings(k=3))


@pytest.mark.parametrize("l2", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_penalty_that_is_not_above_zero_is_refused(l2: float) -> None:
    with pytest.raises(SparseRMError, match="expected a number above 0"):
        fit_head(TRAIN, SAE, FitSettings(k=2, l2=l2))


@pytest.mark.parametrize("l2", [1e-6, 1e3, 1e14, 1e39])
def test_any_penalty_above_zero_gives_a_head_that_ranks(l2: float) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3, l2=l2))
    assert np.isfinite(fitted.head.weights).all() and _accuracy(fitted.head, TEST) > 0.7


@pytest.mark.parametrize("seed", range(3))
def test_one_pair_of_huge_states_is_ranked(seed: int) -> None:
    one = _pairs(seed).take(np.array([0]))
    huge = replace(
        one, chosen=replace(one.chosen, h=3000 * one.chosen.h), rejected=replace(one.rejected, h=3000 * one.rejected.h)
    )
    assert fit_head(huge, SAE, FitSettings(k=3)).accuracy == 1.0

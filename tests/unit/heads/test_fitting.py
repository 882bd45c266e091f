"""Fitting end to end on synthetic representations: the head ranks new pairs, is the same every time, and says what is wrong."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.special import expit

from sparserm.heads.bradley_terry import PROBE_L2
from sparserm.heads.fitting import SELECTIONS, FitSettings, FittedHead, fit_head, fit_statistics, require_suited
from sparserm.heads.labels import save_label
from sparserm.heads.reward import RewardHead, alignment_scores, head_scores, rewards
from sparserm.heads.signed_weights import ridge_for
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint, Score, SparseRMError
from tests.unit.responses import responses

D, D_SAE = 16, 64
PLANTED = (5, 20, 41)


def _sae() -> SparseAutoencoder:
    """Latents 5, 20 and 41 read the first three dimensions, all others mostly the rest; decoder rows are not of norm one."""
    rng = np.random.default_rng(0)
    decoder = rng.normal(size=(D_SAE, D)) * np.array([0.4] * 3 + [1.0] * (D - 3))
    decoder[list(PLANTED)] = 5 * np.eye(D)[:3]
    rows = torch.tensor(decoder).float()
    weights = {"W_dec": rows, "b_dec": torch.tensor(rng.normal(size=D)).float()}
    weights |= {"W_enc": rows.T.contiguous(), "b_enc": torch.zeros(D_SAE)}
    return SparseAutoencoder("made up", "standard", HookPoint(3), "", weights)


def _pairs(seed: int = 0, n: int = 300) -> PairRepresentations:
    """Two pairs for each prompt; preferences by the first three dimensions.

    Latent 0 never fires, the planted ones always, and nine of the others in each response.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, D)).astype(np.float32)
    wins = rng.random(n) < expit((a - b)[:, :3] @ np.array([4.0, -3.0, 3.0]))

    def side(h: np.ndarray) -> Representations:
        others = np.setdiff1d(np.arange(1, D_SAE), PLANTED)
        fired = [np.sort([*PLANTED, *rng.choice(others, 9, replace=False)]) for _ in range(n)]
        indptr, indices = np.arange(0, 12 * n + 1, 12), np.concatenate(fired).astype(np.int32)
        rate, peak = rng.uniform(0.05, 1, (2, 12 * n)).astype(np.float32)
        scores = alignment_scores(h, SAE.directions().numpy(), SAE.b_dec.numpy())
        gated = scores[np.repeat(np.arange(n), 12), indices].astype(np.float32)
        gated[gated.astype(np.float16) == 0] = 1e-3  # a score that rounds to zero would count as silent
        latents = LatentSummary(indptr, firings(indices, rate, peak, gated), D_SAE)
        return Representations("mean", h, rng.integers(5, 50, n, dtype=np.int32), np.zeros(n, np.int32), latents)

    chosen, rejected = np.where(wins[:, None], a, b), np.where(wins[:, None], b, a)
    return PairRepresentations(side(chosen), side(rejected), np.arange(n) // 2)


SAE = _sae()
TRAIN, TEST = _pairs(0), _pairs(1)
SCORES: tuple[Score, ...] = ("gated", "projection")
#: Every selector with its kind of score.
SELECTORS_OF = [(score, method) for score in SCORES for method in SELECTIONS[score]]


def _accuracy(head: RewardHead, pairs: PairRepresentations) -> float:
    return float((rewards(head, pairs.chosen) > rewards(head, pairs.rejected)).mean())


@pytest.mark.parametrize("score", SCORES)
def test_the_planted_features_are_found_and_rank_new_pairs(score: Score) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3, score=score))
    assert list(fitted.head.features) == list(PLANTED)
    assert np.sign(fitted.head.weights).tolist() == [1.0, -1.0, 1.0]
    assert fitted.accuracy == _accuracy(fitted.head, TRAIN) > 0.85
    assert _accuracy(fitted.head, TEST) > 0.85


@pytest.mark.parametrize(("score", "method"), SELECTORS_OF)
def test_every_selector_gives_a_sound_head(score: Score, method: str) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=6, score=score, selection=method))
    head = fitted.head
    assert head.score == score and (np.diff(head.features) > 0).all() and 0 not in head.features
    assert len(head.features) == 6 if score == "projection" else 1 <= len(head.features) <= 6
    np.testing.assert_allclose(np.linalg.norm(head.directions, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(head.directions, SAE.directions().numpy()[head.features])
    np.testing.assert_array_equal(head.center, SAE.b_dec.numpy())
    assert (
        head.pooling == "mean"
        and head.bias == 0
        and fitted.l2 in (PROBE_L2 if score == "projection" else [ridge_for(len(TRAIN.groups))])
    )
    _check_training_rewards(fitted)


def _check_training_rewards(fitted: FittedHead) -> None:
    head = fitted.head
    if head.score == "projection":
        both = np.concatenate([fitted.rewards_chosen, fitted.rewards_rejected])
        np.testing.assert_array_equal(both, rewards(head, responses(TRAIN.stacked)))
    np.testing.assert_array_equal(fitted.rewards_chosen, rewards(head, TRAIN.chosen))
    np.testing.assert_array_equal(fitted.rewards_rejected, rewards(head, TRAIN.rejected))


@pytest.mark.parametrize("method", SELECTIONS["gated"])
def test_gated_features_have_the_sign_of_what_they_show_and_are_as_strong_as_they_vary(method: str) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=6, score="gated", selection=method))
    head = fitted.head
    scores = [head_scores(head, side) for side in (TRAIN.chosen, TRAIN.rejected)]
    gaps, differences = fitted.stats.gap[head.features], (scores[0] - scores[1]).sum(0)
    shown = np.where(gaps == 0, differences, gaps) if method == "frequency" else differences
    assert (head.weights * shown >= 0).all() and (head.mu == 0).all()
    np.testing.assert_allclose(head.sigma, np.concatenate(scores).std(0), rtol=1e-5)
    if method == "random":
        assert fitted.selected is None
    else:
        assert fitted.selected is not None and ((fitted.selected >= 0) & (fitted.selected <= 1)).all()
    assert 0 <= (fitted.n_sure or 0) <= len(head.features)


def test_moments_are_of_all_training_responses_so_that_the_mean_reward_is_zero() -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=4, score="projection"))
    scores = alignment_scores(TRAIN.stacked, fitted.head.directions, fitted.head.center)
    np.testing.assert_allclose(fitted.head.mu, scores.mean(0), atol=1e-6)
    np.testing.assert_allclose(fitted.head.sigma, scores.std(0), rtol=1e-5)
    both = np.concatenate([fitted.rewards_chosen, fitted.rewards_rejected])
    assert abs(both.mean()) < 1e-6


@pytest.mark.parametrize(("score", "method"), SELECTORS_OF)
def test_the_same_pairs_give_the_same_head_to_the_bit(score: Score, method: str) -> None:
    settings = FitSettings(k=5, score=score, selection=method)
    first, second = (fit_head(_pairs(0), _sae(), settings) for _ in range(2))
    for field in fields(first.head):
        if field.name != "encoder":
            ours, theirs = (np.asarray(getattr(one.head, field.name)).tobytes() for one in (first, second))
            assert ours == theirs
    if score == "gated":
        ours, theirs = (one.head.encoder for one in (first, second))
        assert {name: weight.tobytes() for name, weight in ours.weights.items()} == {
            name: weight.tobytes() for name, weight in theirs.weights.items()
        }
        assert replace(ours, weights={}) == replace(theirs, weights={})
        assert np.array_equal(first.selected, second.selected) and first.n_sure == second.n_sure


@pytest.mark.parametrize("score", SCORES)
def test_a_given_l2_is_used_as_it_is(score: Score) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.7, score=score))
    assert fitted.l2 == 0.7 and fitted.l2_choice is None


@pytest.mark.parametrize("score", SCORES)
def test_the_seed_draws_other_random_features(score: Score) -> None:
    settings = FitSettings(k=6, score=score, selection="random", l2=0.1)
    drawn = [fit_head(TRAIN, SAE, replace(settings, seed=seed)).head.features for seed in (0, 1)]
    assert drawn[0].tolist() != drawn[1].tolist()


@pytest.mark.parametrize("score", SCORES)
def test_activity_decides_the_frequencies_that_are_kept(score: Score) -> None:
    often = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.1, score=score)).stats
    mostly = fit_head(TRAIN, SAE, FitSettings(k=3, l2=0.1, score=score, activity="most")).stats
    assert often.f_chosen.sum() == pytest.approx(12) and (mostly.f_chosen <= often.f_chosen).all()
    assert mostly.f_chosen.sum() < 9


def test_a_tie_on_the_training_pairs_counts_as_wrong() -> None:
    same = replace(TRAIN, rejected=TRAIN.chosen)
    assert fit_head(same, SAE, FitSettings(k=2, score="projection", selection="random")).accuracy == 0.0


@pytest.mark.parametrize("method", SELECTIONS["gated"])
def test_pairs_that_do_not_differ_give_no_gated_head_and_say_so(method: str) -> None:
    with pytest.raises(SparseRMError, match=r"in these 300 pairs no latent .* fires more in chosen or in rejected"):
        fit_head(replace(TRAIN, rejected=TRAIN.chosen), SAE, FitSettings(k=2, score="gated", selection=method))


def test_statistics_standardise_by_the_spread_of_the_scores() -> None:
    statistics = fit_statistics(TRAIN, SAE, FitSettings(score="projection"))
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
        fit_head(TRAIN, SAE, FitSettings(k=k, score="projection"))


@pytest.mark.parametrize("k", [64, 1000])
def test_gated_k_is_a_maximum(k: int) -> None:
    head = fit_head(TRAIN, SAE, FitSettings(k=k, score="gated")).head
    assert set(PLANTED) <= set(head.features.tolist()) and len(head.features) < 63


@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_gated_features_are_the_strongest_and_no_more(k: int) -> None:
    settings = FitSettings(k=k, score="gated")
    assert set(fit_head(TRAIN, SAE, settings).head.features.tolist()) <= set(PLANTED)
    for n in (3, 10, 30, 300):
        assert 1 <= len(fit_head(TRAIN.take(np.arange(n)), SAE, settings).head.features) <= k


def test_the_wrong_pooling_is_refused_naming_both() -> None:
    with pytest.raises(SparseRMError, match="have mean pooling, expected last"):
        fit_head(TRAIN, SAE, FitSettings(pooling="last"))


def test_an_unknown_selector_is_refused_naming_the_known() -> None:
    with pytest.raises(SparseRMError, match=r"'lasso', expected one of stable, frequency, random, sparse, effect_size"):
        FitSettings(selection="lasso")


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(SparseRMError, match=f"k is {k}, expected a whole number from 1"):
        FitSettings(k=k)


@pytest.mark.parametrize("score", SCORES)
def test_pairs_without_latents_are_refused(score: Score) -> None:
    with pytest.raises(SparseRMError, match="have no latents"):
        fit_head(replace(TRAIN, chosen=replace(TRAIN.chosen, latents=None)), SAE, FitSettings(k=3, score=score))


@pytest.mark.parametrize("avoid_length", [False, True])
@pytest.mark.parametrize(("score", "method"), SELECTORS_OF)
@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_pairs_still_give_a_finite_head(n: int, score: Score, method: str, avoid_length: bool) -> None:
    settings = FitSettings(k=2, score=score, selection=method, avoid_length=avoid_length)
    if (n, method, avoid_length) == (1, "stable", True):
        with pytest.raises(SparseRMError, match=r"in these 1 pairs no latent .* than their lengths explain; give more pairs"):
            fit_head(TRAIN.take(np.arange(n)), SAE, settings)
        return
    fitted = fit_head(TRAIN.take(np.arange(n)), SAE, settings)
    head = fitted.head
    assert not fitted.n_sure  # so few pairs make nothing sure
    assert all(np.isfinite(getattr(head, name)).all() for name in ("mu", "sigma", "weights"))


def test_no_pairs_are_refused() -> None:
    with pytest.raises(SparseRMError, match="no pairs to fit"):
        fit_head(TRAIN.take(np.arange(0)), SAE, FitSettings(k=3))


@pytest.mark.parametrize("l2", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_penalty_that_is_not_above_zero_is_refused(l2: float) -> None:
    with pytest.raises(SparseRMError, match="expected a number above 0"):
        fit_head(TRAIN, SAE, FitSettings(k=2, l2=l2))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("l2", [1e-6, 1e3, 1e14, 1e39])
def test_any_penalty_above_zero_gives_a_head_that_ranks(l2: float, score: Score) -> None:
    fitted = fit_head(TRAIN, SAE, FitSettings(k=3, l2=l2, score=score))
    assert np.isfinite(fitted.head.weights).all() and _accuracy(fitted.head, TEST) > 0.7


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_one_pair_of_huge_states_is_ranked(seed: int, score: Score) -> None:
    one = _pairs(seed).take(np.array([0]))

    def times(side: Representations) -> Representations:
        fired = side.strengths.fired.copy()
        fired["gated"] *= 3000
        return replace(side, h=3000 * side.h, latents=replace(side.strengths, fired=fired))

    huge = replace(one, chosen=times(one.chosen), rejected=times(one.rejected))
    assert fit_head(huge, SAE, FitSettings(k=3, score=score)).accuracy == 1.0


def test_a_head_of_few_named_features_has_no_other_and_without_any_it_says_so() -> None:
    settings = FitSettings(k=6, score="gated", named=True)
    with pytest.raises(SparseRMError, match=r"no latent of SAE made up has a label, expected some.*leave out named"):
        fit_head(TRAIN, SAE, settings)
    with pytest.raises(SparseRMError, match="no latent of SAE made up has a label"):
        require_suited(settings, SAE)  # before anything is computed
    for feature in (5, 20, 30):
        save_label(SAE.fingerprint, feature, f"name of {feature}")
    require_suited(settings, SAE)
    assert set(fit_head(TRAIN, SAE, settings).head.features.tolist()) <= {5, 20, 30}


def test_labels_say_where_a_feature_fires_so_named_needs_gated_scores() -> None:
    with pytest.raises(SparseRMError, match="named is True with the score projection, expected gated scores"):
        fit_head(TRAIN, SAE, FitSettings(k=6, score="projection", named=True))
    with pytest.raises(SparseRMError, match="named is 1, expected True or False"):
        FitSettings(named=1)

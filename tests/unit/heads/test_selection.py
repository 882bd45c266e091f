"""Selection: frequencies by hand, and selectors that find what was planted and never a dead latent."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from sparserm.heads.reward import ScoreMoments, second_moments
from sparserm.heads.selection import (
    ISOTROPIC,
    SELECTORS,
    FeatureStats,
    FitStatistics,
    _exchange,
    _forward,
    feature_stats,
    select_effect_size,
    select_frequency,
    select_random,
    select_sparse,
)
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.types import SparseRMError

PLANTED = (5, 20, 41)
DEAD = (0, 7, 33, 63)


def _moments(sigma: np.ndarray) -> ScoreMoments:
    return ScoreMoments(np.zeros(len(sigma)), sigma)


def _latents(rows: list[dict[int, float]], d_sae: int = 4) -> LatentSummary:
    entries = [entry for row in rows for entry in row.items()]
    latents, rate = np.array(entries).reshape(-1, 2).T
    return LatentSummary(
        np.cumsum([0, *map(len, rows)]).astype(np.int64), firings(latents, rate, *np.ones((2, len(entries)))), d_sae
    )


def _pairs(chosen: list[dict[int, float]], rejected: list[dict[int, float]]) -> PairRepresentations:
    def side(rows: list[dict[int, float]]) -> Representations:
        zeros = np.zeros(len(rows), np.int32)
        return Representations("mean", np.zeros((len(rows), 2), np.float32), zeros + 1, zeros, _latents(rows))

    return PairRepresentations(side(chosen), side(rejected), np.arange(len(chosen)))


#: Latent 0 fires in all chosen, latent 1 in all rejected, latent 2 now and then, latent 3 never.
HAND_MADE = _pairs(
    chosen=[{0: 1.0, 2: 0.1}, {0: 0.5}, {0: 0.2}, {0: 0.8, 1: 0.3}], rejected=[{1: 1.0}, {1: 0.5, 2: 0.7}, {1: 0.4}, {1: 0.6}]
)


def _differences(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With their second moments."""
    x = x.astype(np.float32)
    return x, second_moments(x)


def _statistics(gap: list[float], dead: tuple[int, ...] = ()) -> FitStatistics:
    """FitStatistics of given frequency gaps around one half; nothing else in it is informative."""
    chosen, rejected = 0.5 + np.array(gap) / 2, 0.5 - np.array(gap) / 2
    chosen[list(dead)] = rejected[list(dead)] = 0
    n = len(gap)
    directions = np.eye(n, dtype=np.float32)
    return FitStatistics(
        *_differences(np.zeros((3, n))), directions, _moments(np.ones(n)), np.arange(3), FeatureStats(chosen, rejected)
    )


def _world(seed: int = 0, n: int = 400, d: int = 16, d_sae: int = 64) -> FitStatistics:
    """Preferences by three orthogonal directions; the others lie mostly outside the space of these; four are dead."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0].T
    directions = rng.normal(size=(d_sae, d)) @ np.diag([0.4] * 3 + [1.0] * (d - 3)) @ basis
    directions[list(PLANTED)] = basis[:3]
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    a, b = rng.normal(size=(2, n, d)).astype(np.float32)
    margins = (a - b) @ directions[list(PLANTED)].T @ np.array([3.0, -2.5, 2.0])
    wins = rng.random(n) < expit(margins)
    rate = rng.uniform(0.1, 0.9, (2, d_sae))
    rate[:, DEAD] = 0
    differences, second = _differences(np.where(wins[:, None], a - b, b - a))
    return FitStatistics(
        differences=differences,
        second=second,
        directions=directions,
        moments=_moments((np.concatenate([a, b]) @ directions.T).std(0).astype(np.float64)),
        groups=np.arange(n) // 2,
        stats=FeatureStats(*rate),
    )


def test_any_counts_every_response_in_which_a_latent_fires() -> None:
    stats = feature_stats(HAND_MADE, "any")
    np.testing.assert_array_equal(stats.f_chosen, [1.0, 0.25, 0.25, 0.0])
    np.testing.assert_array_equal(stats.f_rejected, [0.0, 1.0, 0.25, 0.0])
    np.testing.assert_array_equal(stats.gap, [1.0, -0.75, 0.0, 0.0])


def test_most_counts_responses_with_half_of_the_tokens_or_more() -> None:
    stats = feature_stats(HAND_MADE, "most")
    np.testing.assert_array_equal(stats.f_chosen, [0.75, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(stats.f_rejected, [0.0, 0.75, 0.25, 0.0])


def test_frequencies_of_taken_pairs_are_of_these_pairs_in_that_order() -> None:
    stats = feature_stats(HAND_MADE.take(np.array([3, 1, 3])), "any")
    np.testing.assert_allclose(stats.f_chosen, [1.0, 2 / 3, 0.0, 0.0])
    np.testing.assert_allclose(stats.f_rejected, [0.0, 1.0, 1 / 3, 0.0])


def test_pairs_without_latents_have_no_frequencies() -> None:
    bare = replace(HAND_MADE, rejected=replace(HAND_MADE.rejected, latents=None))
    with pytest.raises(SparseRMError, match="with an SAE"):
        feature_stats(bare, "any")


def test_frequency_takes_both_ends_of_the_gap() -> None:
    statistics = _statistics([0.1, -0.4, 0.3, -0.2, 0.5, 0.0])
    assert sorted(select_frequency(statistics, 4)) == [1, 2, 3, 4]


def test_frequency_gives_the_odd_feature_to_the_chosen_side() -> None:
    statistics = _statistics([0.1, -0.4, 0.3, -0.2, 0.5, 0.0])
    assert sorted(select_frequency(statistics, 3)) == [1, 2, 4]
    assert list(select_frequency(statistics, 1)) == [4]


def test_effect_size_is_mean_over_spread() -> None:
    # Latent 0: mean 1, spread 2; latent 1: mean -0.5, spread 0.5; latent 2: mean 3, spread 30.
    x = np.array([[-1, -1, -27], [1, -0.5, 3], [3, 0, 33]], np.float32)
    statistics = replace(_statistics([0.0] * 3), differences=x)
    assert list(select_effect_size(statistics, 3)) == [1, 0, 2]


def test_random_is_seeded() -> None:
    statistics = _world()
    np.testing.assert_array_equal(select_random(statistics, 8), select_random(statistics, 8))
    other = select_random(replace(statistics, seed=1), 8)
    assert set(other) != set(select_random(statistics, 8))


@pytest.mark.parametrize("seed", range(4))
def test_sparse_finds_the_planted_directions(seed: int) -> None:
    assert sorted(select_sparse(_world(seed), 3)) == list(PLANTED)


def test_sparse_does_not_take_a_near_copy_beside_what_it_has() -> None:
    statistics = _world()
    directions = statistics.directions.copy()
    directions[6] = directions[5] + 0.01 * directions[8]
    directions[6] /= np.linalg.norm(directions[6])
    sigma = statistics.moments.sigma.copy()
    sigma[6] = sigma[5]
    doubled = replace(statistics, directions=directions, moments=_moments(sigma))
    assert {5, 6} <= set(select_effect_size(doubled, 3))
    chosen = set(select_sparse(doubled, 3))
    assert len(chosen & {5, 6}) == 1 and chosen > {20, 41}


def test_sparse_judges_a_latent_by_what_it_adds_to_those_chosen() -> None:
    # With margins 2x + y + 0.75z latent 0 comes first, and y and z are left. Latent 1 is mostly -x, which is taken; what
    # else it has is y, all of it, and worth more than z: 1 > 0.75. Judged by its whole length it would be 0.44 < 0.75.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3))
    x *= np.where(rng.random(3000) < expit(x @ [2, 1, 0.75]), 1, -1)[:, None]
    directions = np.array([[1, 0, 0], [-0.9, 0.19**0.5, 0], [0, 0, 1]], np.float32)
    alive = FeatureStats(np.ones(3), np.ones(3))
    statistics = FitStatistics(*_differences(x), directions, _moments(np.ones(3)), np.arange(3000), alive)
    assert list(select_sparse(statistics, 2)) == [0, 1]


def test_sparse_is_deterministic() -> None:
    statistics = _world()
    np.testing.assert_array_equal(select_sparse(statistics, 8), select_sparse(statistics, 8))


def test_sparse_exchanges_a_direction_that_was_best_alone_for_two_that_are_better_together() -> None:
    between = np.array([1, 1, 0.3]) / np.sqrt(2.09)
    candidates, target = np.array([[1, 0, 0], [0, 1, 0], between]), np.array([1.0, 1.0, 0.0])
    usable = np.ones(3, bool)
    forward = _forward(candidates, target, usable, 2)
    assert forward[0] == 2
    assert sorted(_exchange(candidates, target, usable, forward)) == [0, 1]
    usable[0] = False
    assert 0 not in _exchange(candidates, target, usable, _forward(candidates, target, usable, 2))


@pytest.mark.parametrize("seed", range(5))
def test_exchanges_never_leave_more_of_the_target(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, target, usable = rng.normal(size=(60, 12)), rng.normal(size=12), rng.random(60) < 0.8

    def left(chosen: np.ndarray) -> float:
        weights = np.linalg.lstsq(candidates[chosen].T, target, rcond=None)[0]
        return float(((target - candidates[chosen].T @ weights) ** 2).sum())

    forward = _forward(candidates, target, usable, 5)
    exchanged = _exchange(candidates, target, usable, forward)
    assert left(exchanged) <= left(np.array(forward)) + 1e-9
    assert len(set(exchanged)) == 5 and usable[exchanged].all()


@pytest.mark.parametrize("seed", range(3))
def test_no_single_exchange_is_left_that_would_be_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, target = rng.normal(size=(30, 12)), rng.normal(size=12)

    def left(chosen: list[int]) -> float:
        weights = np.linalg.lstsq(candidates[chosen].T, target, rcond=None)[0]
        return float(((target - candidates[chosen].T @ weights) ** 2).sum())

    chosen = _exchange(candidates, target, np.ones(30, bool), _forward(candidates, target, np.ones(30, bool), 4)).tolist()
    others = [one for one in range(30) if one not in chosen]
    tried = [[*chosen[:place], one, *chosen[place + 1 :]] for place in range(4) for one in others]
    assert left(chosen) <= min(map(left, tried)) + 1e-9


def test_more_latents_than_dimensions_are_exchanged_without_a_warning() -> None:
    rng = np.random.default_rng(0)
    candidates, target, usable = rng.normal(size=(20, 3)), rng.normal(size=3), np.ones(20, bool)
    candidates[4] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = _exchange(candidates, target, usable, _forward(candidates, target, usable, 12))
    assert len(set(chosen)) == 12


@pytest.mark.parametrize("k", [1, 7, 24])
@pytest.mark.parametrize("method", SELECTORS)
def test_k_distinct_latents_none_of_them_dead(method: str, k: int) -> None:
    features = SELECTORS[method](_world(), k)
    assert len(set(features.tolist())) == len(features) == k
    assert not set(features.tolist()) & set(DEAD)


@pytest.mark.parametrize("method", [name for name in SELECTORS if name != "frequency"])
def test_as_many_features_as_latents_that_fire(method: str) -> None:
    assert set(SELECTORS[method](_world(), 60).tolist()) == set(range(64)) - set(DEAD)


def test_frequency_takes_no_dead_latent_where_all_gaps_are_positive() -> None:
    statistics = _statistics([0.1, 0.2, 0.3, 0.4, 0.0, 0.0], dead=(4, 5))
    assert not set(select_frequency(statistics, 4)) & {4, 5}


def test_margins_are_compared_on_the_training_pairs_and_a_little_on_all_others() -> None:
    statistics = _world()
    x = statistics.differences.astype(np.float64)
    a, b = np.random.default_rng(0).normal(size=(2, x.shape[1]))
    away = a - b
    expected = ((x @ away) ** 2).mean() + ISOTROPIC * ((x**2).mean(0) * away**2).sum()
    assert ((statistics.root.T @ away) ** 2).sum() == pytest.approx(expected)


def test_the_fewer_the_pairs_the_more_their_covariance_is_doubted() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 16))  # 16 dimensions, 4 pairs: 16 / (2 x 4) = 2
    stats = FeatureStats(np.full(16, 0.5), np.full(16, 0.5))
    statistics = FitStatistics(*_differences(x), np.eye(16, dtype=np.float32), _moments(np.ones(16)), np.arange(4), stats)
    away = rng.normal(size=16)
    expected = ((x @ away) ** 2).mean() + 2 * ((x**2).mean(0) * away**2).sum()
    assert np.square(statistics.root.T @ away).sum() == pytest.approx(expected, rel=1e-5)

"""Weights of at least zero and the elastic-net path, against other solvers and the conditions of an optimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from sparserm.heads.signed_weights import _PATH, RIDGE, TOGETHER, elastic_net_path, fit_weights, ridge_for


def _data(seed: int = 0, n: int = 150, m: int = 8) -> np.ndarray:
    """Differences of which some are strong, some point the wrong way, and some are nearly copies of each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(np.linspace(0.6, -0.3, m), 1, (n, m))
    x[:, 1] = x[:, 0] + 0.2 * rng.normal(size=n)
    return x.astype(np.float32)


def _loss(w: np.ndarray, x: np.ndarray, l1: float, ridge: float) -> float:
    return float(np.mean(np.log1p(np.exp(-(x.astype(np.float64) @ w)))) + l1 * w.sum() + ridge / 2 * w @ w)


def _slsqp(x: np.ndarray, l1: float, ridge: float) -> np.ndarray:
    start = np.full(x.shape[1], 0.1)
    options = {"maxiter": 1000, "ftol": 1e-12}
    found = minimize(_loss, start, (x, l1, ridge), method="SLSQP", bounds=[(0, None)] * len(start), options=options)
    assert found.success
    return np.where(found.x < 1e-7, 0, found.x)


def _pull(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """How fast the loss falls with each weight, without penalties."""
    return x.T.astype(np.float64) @ expit(-(x.astype(np.float64) @ w)) / len(x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ridge", [RIDGE, 0.5])
def test_weights_are_those_of_another_solver(seed: int, ridge: float) -> None:
    x = _data(seed)
    weights = fit_weights(x, ridge)
    assert weights == pytest.approx(_slsqp(x, 0.0, ridge), abs=2e-3)
    assert weights.dtype == np.float64 and (weights >= 0).all() and (weights == 0).any()


def test_weights_fulfil_the_conditions_of_an_optimum() -> None:
    x = _data(5, m=30)
    weights = fit_weights(x, RIDGE)
    slack = _pull(x, weights) - RIDGE * weights
    assert slack[weights > 0] == pytest.approx(0, abs=1e-4)
    assert (slack[weights == 0] < 1e-4).all()


def test_with_few_pairs_the_penalty_counts_as_much_as_thirty_of_them() -> None:
    assert ridge_for(100) == 0.3 and ridge_for(300) == 0.1
    assert ridge_for(600) == ridge_for(10_000) == RIDGE


def test_without_columns_there_are_no_weights() -> None:
    assert fit_weights(np.zeros((5, 0), np.float32), RIDGE).shape == (0,)
    assert [list(places) for places in elastic_net_path(np.zeros((5, 3), np.float32))] == []
    assert [list(places) for places in elastic_net_path(np.zeros((5, 0), np.float32))] == []


@pytest.mark.parametrize("seed", range(3))
def test_each_step_of_the_path_is_the_solution_of_its_penalty_on_all_columns(seed: int) -> None:
    x = _data(seed, n=120, m=25)
    largest = float(x.mean(0, dtype=np.float64).max()) / 2
    steps = list(elastic_net_path(x))
    assert len(steps) == len(_PATH)
    compared = 0
    for factor, places in list(zip(_PATH, steps, strict=True))[::5]:
        alone = _slsqp(x, factor * largest, TOGETHER)
        # A weight near zero may be on either side of it; what is surely above zero, or surely not, is in both.
        slack = factor * largest - _pull(x, alone) + TOGETHER * alone
        assert set(np.flatnonzero(alone > 1e-3)) <= set(places)
        assert set(places) <= set(np.flatnonzero(slack < 2e-4))
        compared += len(places)
    assert compared > 10


def test_a_column_that_only_matters_beside_others_enters_at_once() -> None:
    """Its pull rises faster than the penalty falls, so that the rule that looks one step back leaves it out."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    noise -= noise.mean()
    # The second takes the noise out of the first.
    x = np.stack([rng.normal(0.8, 0.4, 400) + noise, -12 * noise - 1, rng.normal(0.1, 1, 400)], axis=1)
    x = (10 * x).astype(np.float32)  # so large that the ridge penalty hardly counts
    steps, largest = list(elastic_net_path(x)), float(x.mean(0, dtype=np.float64).max()) / 2
    assert steps[0].tolist() == [0] and steps[1].tolist() == [0, 1]
    for factor, places in zip(_PATH[:8], steps, strict=False):
        assert np.flatnonzero(_slsqp(x, factor * largest, TOGETHER) > 1e-4).tolist() == places.tolist()


def test_columns_that_point_the_wrong_way_never_enter() -> None:
    rng = np.random.default_rng(1)
    good = rng.gamma(2, 1, (200, 4))
    bad = -rng.gamma(2, 1, (200, 6))
    x = np.concatenate([good, bad], axis=1).astype(np.float32)
    steps = list(elastic_net_path(x))
    assert steps[0].size > 0 and all(set(places) <= {0, 1, 2, 3} for places in steps)
    weights = fit_weights(x, RIDGE)
    assert (weights[4:] == 0).all() and (weights[:4] > 0).any()
    assert list(elastic_net_path(x[:, 4:])) == [] and (fit_weights(x[:, 4:], RIDGE) == 0).all()


def test_the_first_to_enter_is_the_column_with_the_largest_mean_and_the_loss_falls_on_the_way() -> None:
    x = _data(2, n=300, m=12)
    x[:, 7] += 2
    steps = list(elastic_net_path(x))
    assert steps[0].tolist() == [7]
    losses = []
    for places in steps:
        weights = np.zeros(12)
        weights[places] = fit_weights(x[:, places], 1e-6)
        losses.append(_loss(weights, x, 0.0, 0.0))
    assert (np.diff(losses) < 1e-3).all() and losses[-1] < losses[0] - 0.01


def test_of_columns_that_go_together_all_are_kept_not_one() -> None:
    """The L1 penalty alone keeps the one with a hair more, which is another one in other pairs."""
    rng = np.random.default_rng(3)
    shared = rng.normal(0.5, 1, 500)
    x = np.stack([shared + rng.normal(0, 0.3, 500) for _ in range(3)], axis=1).astype(np.float32)
    first = [next(i for i, places in enumerate(elastic_net_path(x)) if column in places) for column in range(3)]
    assert max(first) <= 2

"""The Bradley-Terry fit: one optimum, found to the bit, alone or among others."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit

from sparserm.heads import bradley_terry
from sparserm.heads.bradley_terry import (
    EXACT,
    L2_GRID,
    ROUGH,
    SINGLE,
    Spectrum,
    bradley_terry_loss,
    fit_bradley_terry,
    fit_many,
)


def _differences(seed: int = 0, n: int = 120, k: int = 5) -> np.ndarray:
    """Noisy differences whose chosen side wins by the first features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k))
    wins = rng.random(n) < expit(x @ np.linspace(2, 0, k))
    return np.where(wins[:, None], x, -x)


def test_loss_of_known_margins() -> None:
    assert bradley_terry_loss(np.zeros(3)) == pytest.approx(math.log(2))
    assert bradley_terry_loss(np.array([math.log(3), -math.log(3)])) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert bradley_terry_loss(np.array([1000.0])) == 0.0
    assert bradley_terry_loss(np.array([-1000.0])) == 1000.0


def test_one_feature_fit_solves_its_equation_by_hand() -> None:
    # mean over one pair with difference 1: -sigmoid(-w) + l2 w = 0; w = ln 3 has sigmoid(-w) = 1/4.
    w = fit_bradley_terry(np.array([[1.0]]), l2=0.25 / math.log(3))
    assert w[0] == pytest.approx(math.log(3), abs=1e-6)


def test_fit_is_deterministic_to_the_bit() -> None:
    x = _differences()
    assert fit_bradley_terry(x, 0.01).tobytes() == fit_bradley_terry(x.copy(), 0.01).tobytes()


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_gradient_vanishes_at_the_optimum(l2: float) -> None:
    x = _differences()
    w = fit_bradley_terry(x, l2)
    gradient = -(expit(-x @ w) @ x) / len(x) + l2 * w
    assert np.abs(gradient).max() < 1e-6


def test_larger_l2_gives_smaller_weights() -> None:
    x = _differences()
    norms = [float(np.linalg.norm(fit_bradley_terry(x, l2))) for l2 in L2_GRID]
    assert all(a > b for a, b in pairwise(norms))


def test_separable_pairs_still_have_finite_weights() -> None:
    w = fit_bradley_terry(np.abs(_differences()), L2_GRID[0])
    assert np.isfinite(w).all() and (w > 0).all()


def test_swapping_chosen_and_rejected_flips_the_weights() -> None:
    x = _differences()
    np.testing.assert_allclose(fit_bradley_terry(-x, 0.01), -fit_bradley_terry(x, 0.01), atol=1e-6)


def test_pairs_in_both_orders_cancel_to_zero() -> None:
    x = _differences()
    np.testing.assert_allclose(fit_bradley_terry(np.concatenate([x, -x]), 0.01), 0, atol=1e-9)


def test_the_order_of_pairs_does_not_matter() -> None:
    x = _differences()
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    np.testing.assert_allclose(fit_bradley_terry(shuffled, 0.01), fit_bradley_terry(x, 0.01), atol=1e-6)


@pytest.mark.parametrize("k", [5, 300])
def test_fits_of_parts_and_penalties_at_once_are_those_one_by_one(k: int) -> None:
    x = _differences(k=k)
    parts = [np.arange(0, 80), np.arange(40, 120)]
    shares = np.zeros((120, 4))
    l2 = np.array([0.01, 0.01, 1.0, 1.0])
    for fit, rows in enumerate([*parts, *parts]):
        shares[rows, fit] = 1 / len(rows)
    together = fit_many(x, shares, l2, Spectrum.of(x), EXACT)
    for fit, rows in enumerate([*parts, *parts]):
        np.testing.assert_allclose(together[:, fit], fit_bradley_terry(x[rows], l2[fit]), atol=1e-7)


def test_more_dimensions_than_pairs_leave_no_gradient() -> None:
    x = _differences(n=30, k=200)
    w = fit_bradley_terry(x, 0.01)
    assert np.abs(-(expit(-x @ w) @ x) / len(x) + 0.01 * w).max() < 1e-8


def test_a_spectrum_of_other_pairs_takes_longer_and_leads_to_the_same() -> None:
    x = _differences()
    other = Spectrum.of(_differences(seed=1) * np.linspace(0.3, 3, 5))
    weights = fit_many(x, np.full((120, 1), 1 / 120), np.array([0.01]), other, EXACT)[:, 0]
    np.testing.assert_allclose(weights, fit_bradley_terry(x, 0.01), atol=1e-7)


@pytest.mark.parametrize(("n", "k"), [(30, 8), (8, 30)])
def test_a_spectrum_holds_the_pairs_second_moments(n: int, k: int) -> None:
    x = _differences(n=n, k=k)
    spectrum = Spectrum.of(x)
    np.testing.assert_allclose(spectrum.axes.T @ spectrum.axes, np.eye(8), atol=1e-9)
    np.testing.assert_allclose((spectrum.axes * spectrum.values) @ spectrum.axes.T, x.T @ x / n, atol=1e-9)


def test_pairs_that_do_not_differ_have_no_weight() -> None:
    for n, k in ((3, 2), (2, 3)):
        np.testing.assert_array_equal(fit_bradley_terry(np.zeros((n, k)), 0.1), np.zeros(k))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_tiny_and_huge_differences_are_fitted(scale: float) -> None:
    x = _differences() * scale
    w = fit_bradley_terry(x, 0.01)
    gradient = -(expit(-x @ w) @ x) / len(x) + 0.01 * w
    assert np.abs(gradient).max() < 1e-7 * scale


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "d"), [(1, 576), (2, 2304), (3, 1500)])
def test_few_pairs_of_huge_states_are_ranked_in_single_precision(n: int, d: int, seed: int) -> None:
    x = (300 * np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)
    shares, l2 = np.full((n, 2), 1 / n, np.float32), np.array([0.1, 3.0])
    weights = fit_many(x, shares, l2, Spectrum.of(x), ROUGH)
    assert (x @ weights > 0).all()
    exact = fit_many(x.astype(np.float64), shares, l2, Spectrum.of(x), EXACT)
    for ours, best in zip((x @ weights).T, (x @ exact).T, strict=True):
        assert bradley_terry_loss(ours) == pytest.approx(bradley_terry_loss(best), abs=1e-5)


def test_one_huge_dimension_leaves_the_others_their_say_in_single_precision() -> None:
    x = _differences(n=300, k=30).astype(np.float32)
    x[:, 7] = 1e4
    weights = fit_many(x, np.full((300, 1), 1 / 300), np.array([0.1]), Spectrum.of(x), SINGLE)[:, 0]
    exact = fit_bradley_terry(x, 0.1)
    assert bradley_terry_loss(x @ weights) == pytest.approx(bradley_terry_loss(x @ exact), abs=1e-4)


@pytest.mark.parametrize("l2", [1e6, 1e14, 1e39])
def test_an_enormous_penalty_still_leaves_a_direction(l2: float) -> None:
    x = _differences()
    weights = fit_bradley_terry(x, l2)
    np.testing.assert_allclose(weights * l2, x.mean(0) / 2, rtol=1e-5)  # the gradient where there are no weights


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("what", ["in both orders", "of mean zero"])
def test_pairs_that_pull_in_all_directions_alike_are_soon_done_with(monkeypatch, dtype, what: str) -> None:
    steps = []
    monkeypatch.setattr(bradley_terry, "expit", lambda margins: steps.append(1) or expit(margins))
    x = np.random.default_rng(0).normal(size=(600, 300)) * np.linspace(0.1, 10, 300)
    x = (np.concatenate([x, -x]) if what == "in both orders" else x - x.mean(0)).astype(dtype)
    shares, tolerance = np.full((len(x), 1), 1 / len(x)), EXACT if dtype == np.float64 else SINGLE
    for l2 in (0.1, 3.0):
        weights = fit_many(x, shares, np.array([l2]), Spectrum.of(x), tolerance)
        np.testing.assert_allclose(weights, 0, atol=1e-5)
    assert len(steps) < 20

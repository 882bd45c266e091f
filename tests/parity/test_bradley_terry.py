"""The fit against scikit-learn's logistic regression and against SciPy's Newton method: one convex problem, one answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression

from sparserm.heads.bradley_terry import fit_bradley_terry


def _differences(seed: int, n: int = 200, k: int = 6) -> np.ndarray:
    """Correlated features of different scales; some pairs are ranked wrongly."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k)) @ (np.eye(k) + 0.4 * rng.normal(size=(k, k))) * np.linspace(0.5, 2, k)
    wins = rng.random(n) < expit(x @ rng.normal(size=k))
    return np.where(wins[:, None], x, -x)


CASES = [(seed, l2) for seed in range(3) for l2 in (1e-4, 1e-2, 0.3, 3.0)]


@pytest.mark.parametrize(("seed", "l2"), CASES)
def test_equals_logistic_regression_on_mirrored_differences(seed: int, l2: float) -> None:
    x = _differences(seed)
    mirrored, labels = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    theirs = LogisticRegression(
        C=1 / (len(mirrored) * l2), fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(mirrored, labels)
    np.testing.assert_allclose(fit_bradley_terry(x, l2), theirs.coef_[0], atol=1e-5)


@pytest.mark.parametrize(("seed", "l2"), CASES)
def test_equals_newtons_method(seed: int, l2: float) -> None:
    x = _differences(seed)
    n, k = x.shape

    def loss(w: np.ndarray) -> float:
        return float(-log_expit(x @ w).mean() + l2 / 2 * (w @ w))

    def gradient(w: np.ndarray) -> np.ndarray:
        return -x.T @ expit(-x @ w) / n + l2 * w

    def hessian(w: np.ndarray) -> np.ndarray:
        p = expit(x @ w)
        return (x * (p * (1 - p))[:, None]).T @ x / n + l2 * np.eye(k)

    theirs = minimize(loss, np.ones(k), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    ours = fit_bradley_terry(x, l2)
    np.testing.assert_allclose(ours, theirs.x, atol=1e-5)
    assert loss(ours) == pytest.approx(theirs.fun, abs=1e-9)
    np.testing.assert_allclose(expit(x @ ours), expit(x @ theirs.x), atol=1e-5)


def test_equals_both_on_separable_pairs() -> None:
    x = np.abs(_differences(0))
    mirrored, labels = np.concatenate([x, -x]), np.repeat([1, 0], len(x))
    theirs = LogisticRegression(
        C=1 / (len(mirrored) * 1e-2), fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(mirrored, labels)
    np.testing.assert_allclose(fit_bradley_terry(x, 1e-2), theirs.coef_[0], atol=1e-5)

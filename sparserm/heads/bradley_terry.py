"""Ridge-penalised Bradley-Terry regression (Bradley and Terry, 1952): loss, fit, cross-validation of the penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from sparserm.heads.reward import second_moments

#: L2 strengths tried by cross-validation.
L2_GRID = tuple(float(x) for x in np.logspace(-4, 0.5, 10))
#: L2 strengths tried for a dense probe, which has several hundred dimensions.
PROBE_L2 = (0.1, 0.3, 1.0, 3.0)
#: Folds of the cross-validation over prompts.
FOLDS = 5

#: Convergence tolerances on the squared Newton decrement (about twice the loss in nats that is left to gain). EXACT gives about
#: nine digits of the weights, SINGLE the six digits of single precision, ROUGH enough to compare penalties.
EXACT, SINGLE, ROUGH = 1e-18, 1e-12, 1e-8
#: Maximum number of steps. Fits on the default backbone's representations take 20 to 50, rough ones 5 to 20.
_STEPS = 1000


@dataclass(frozen=True)
class L2Choice:
    """Cross-validated Bradley-Terry loss (nats per pair) for each L2 strength, and the best of them."""

    best: float
    strengths: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class DenseProbe:
    """Bradley-Terry regression on the whole representation ``h``.

    Attributes:
        weights: ``[d]`` float64; the margin of a pair is ``weights @ (h_chosen - h_rejected)``.
        l2: the ridge penalty.
        choice: the cross-validation that chose the penalty; None where it was given.
    """

    weights: np.ndarray
    l2: float
    choice: L2Choice | None


@dataclass(frozen=True)
class Spectrum:
    """Principal axes of differences ``[n, d]``, used to precondition fits on any part of the pairs with any penalty.

    Attributes:
        axes: ``[d, r]`` orthonormal columns that span the differences.
        values: ``[r]`` mean squared difference along each axis.
    """

    axes: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Spectrum:
        """The spectrum of ``x``; where ``n < d``, axes with less than 1e-13 of the largest value are dropped."""
        n, d = x.shape
        if n >= d:
            return cls.of_moments(second_moments(x))
        few = x.astype(np.float64)
        values, mixtures = np.linalg.eigh(few @ few.T / n)
        real = values > 1e-13 * values.max(initial=0)
        return cls(few.T @ (mixtures[:, real] / np.sqrt(n * values[real])), values[real])

    @classmethod
    def of_moments(cls, second: np.ndarray) -> Spectrum:
        """The spectrum from the second moments ``[d, d]`` of the differences."""
        values, axes = np.linalg.eigh(second)
        return cls(axes, np.maximum(values, 0))


def bradley_terry_loss(margins: np.ndarray) -> float:
    """Mean ``-log sigmoid(margin)`` in nats."""
    return float(np.logaddexp(0, -margins).mean())


def fit_bradley_terry(differences: np.ndarray, l2: float) -> np.ndarray:
    """Weights that minimise ``mean(-log sigmoid(X w)) + l2/2 |w|^2``, which is strictly convex.

    Args:
        differences: ``[n, K]`` chosen minus rejected.
        l2: ridge penalty, above zero.

    Returns:
        ``[K]`` float64.
    """
    x = np.ascontiguousarray(differences, np.float64)
    return fit_many(x, np.full((len(x), 1), 1 / len(x)), np.array([l2]), Spectrum.of(x), EXACT)[:, 0]


def choose_l2(
    differences: np.ndarray, groups: np.ndarray, strengths: Sequence[float] = L2_GRID, spectrum: Spectrum | None = None
) -> L2Choice:
    """Choose L2 by cross-validation over prompts: no prompt is in both parts of a fold.

    All folds and strengths are fitted at once, in single precision, which is enough to compare penalties.

    Args:
        differences: ``[n, K]``.
        groups: ``[n]`` the prompt of each pair.
        spectrum: of the differences; computed where it is not given.
    """
    if len(differences) < 2:
        return L2Choice(float(strengths[0]), tuple(strengths), (0.0,) * len(strengths))
    x, folds = np.ascontiguousarray(differences, np.float32), prompt_folds(groups)
    shares = np.zeros((len(x), len(folds)), np.float32)
    for fold, (train, _) in enumerate(folds):
        shares[train, fold] = 1 / len(train)
    l2 = np.repeat(np.asarray(strengths, np.float64), len(folds))
    weights = fit_many(x, np.tile(shares, len(strengths)), l2, spectrum or Spectrum.of(x), ROUGH)
    margins = (x @ weights).reshape(len(x), len(strengths), len(folds))
    losses = [
        float(np.mean([bradley_terry_loss(margins[out, place, fold]) for fold, (_, out) in enumerate(folds)]))
        for place in range(len(strengths))
    ]
    return L2Choice(float(strengths[int(np.argmin(losses))]), tuple(strengths), tuple(losses))


def fit_probe(
    differences: np.ndarray, groups: np.ndarray, l2: float | None = None, second: np.ndarray | None = None
) -> DenseProbe:
    """Fit the dense probe: ridge Bradley-Terry on every dimension of the representation, each scaled to unit variance.

    Penalties within the range of :data:`PROBE_L2` are fitted in single precision (about six digits), others in double.

    Args:
        differences: ``[n, d]`` chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.
        l2: the ridge penalty; chosen by cross-validation over prompts where it is not given.
        second: ``[d, d]`` second moments of the differences; computed where they are not given.
    """
    spread = _spread(differences)
    x = differences.astype(np.float32, copy=False) / spread.astype(np.float32)
    if second is not None and len(differences) >= len(spread):
        spectrum = Spectrum.of_moments(second / np.multiply.outer(spread, spread))
    else:
        spectrum = Spectrum.of(x)
    choice = choose_l2(x, groups, PROBE_L2, spectrum) if l2 is None else None
    strength = l2 if choice is None else choice.best
    assert strength is not None
    if min(PROBE_L2) <= strength <= max(PROBE_L2):
        tolerance = SINGLE
    else:
        x, tolerance = x.astype(np.float64), EXACT
    weights = fit_many(x, np.full((len(x), 1), 1 / len(x)), np.array([strength]), spectrum, tolerance)[:, 0]
    return DenseProbe(weights / spread, strength, choice)


def fit_many(x: np.ndarray, shares: np.ndarray, l2: np.ndarray, spectrum: Spectrum, tolerance: float) -> np.ndarray:
    """``p`` fits as in :func:`fit_bradley_terry` at once, on subsets of the same pairs: each product reads ``x`` once for all.

    Conjugate gradients (Polak and Ribiere), preconditioned with the Hessian at equal curvature of all pairs. There is no line
    search: the step is the longer of two that cannot overshoot, since the curvature of a pair is at most 1/4 (Boehning and
    Lindsay, 1988) and changes no faster than its margin (Bach, 2010, proposition 1). SciPy's L-BFGS, one fit after another,
    took two to three times as long to choose a penalty on 8,000 pairs of 576 dimensions.

    Args:
        x: ``[n, d]`` differences; the fit runs in their precision.
        shares: ``[n, p]`` weight of each pair in each fit; each column sums to one.
        l2: ``[p]`` ridge penalties.
        spectrum: of ``x``, or of other differences with the same span.
        tolerance: squared Newton decrement to stop at, see :data:`EXACT`; relative to the first one where that is below 1.

    Returns:
        ``[d, p]`` weights.
    """
    shares, l2, axes, values = (part.astype(x.dtype, copy=False) for part in (shares, l2, spectrum.axes, spectrum.values))
    weights, margins = np.zeros((x.shape[1], len(l2)), x.dtype), np.zeros(shares.shape, x.dtype)
    direction = gradient = np.zeros_like(weights)
    decrement, threshold = np.ones_like(l2), None
    included = shares > 0
    tiny = np.finfo(x.dtype).tiny
    for _ in range(_STEPS):
        p_rejected = expit(-margins)
        pair_gradient = p_rejected * shares
        curvature = pair_gradient * (1 - p_rejected)
        gradient, previous = x.T @ pair_gradient - l2 * weights, gradient
        damping = np.multiply.outer(values, curvature.sum(0))
        projected = axes.T @ gradient
        preconditioned = axes @ (projected / (damping + l2))
        decrement, previous_decrement = (projected * (projected / (damping + l2))).sum(0), decrement
        if threshold is None:
            threshold = np.maximum(tolerance * np.minimum(decrement, 1), _rounding(x.dtype, values, l2))
        if (decrement <= threshold).all():
            break
        beta = np.maximum(((gradient - previous) * preconditioned).sum(0) / np.maximum(previous_decrement, tiny), 0)
        momentum = beta * direction
        direction = preconditioned + np.where((momentum * gradient).sum(0) > -0.9 * decrement, momentum, 0)

        margin_direction, slope, ridge = x @ direction, (direction * gradient).sum(0), l2 * (direction * direction).sum(0)
        squares, largest = margin_direction * margin_direction, np.maximum((np.abs(margin_direction) * included).max(0), tiny)
        bounded = slope / np.maximum((shares * squares).sum(0) / 4 + ridge, tiny)
        newton = slope / np.maximum((curvature * squares).sum(0) + ridge, tiny)
        length = np.maximum(bounded, np.log1p(largest * newton) / largest)
        weights = weights + length * direction
        margins = margins + length * margin_direction
    return weights


def prompt_folds(groups: np.ndarray, seed: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deterministic folds over prompts as ``(train, held out)`` row indices; fewer than :data:`FOLDS` for fewer prompts.

    Args:
        seed: seed to shuffle the prompts; None distributes them by their number of pairs.
    """
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2:  # one prompt cannot be split: split its pairs
        groups = np.arange(len(groups))
        n_groups = len(groups)
    n_splits = max(2, min(FOLDS, n_groups))
    splitter = GroupKFold(n_splits) if seed is None else GroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(groups)), groups=groups))


def _rounding(dtype: np.dtype, values: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """``[p]`` squared Newton decrements that rounding errors alone can leave where the gradients of the pairs cancel out.

    The gradient of a pair is at most 1/2 of its difference, and each product has a relative error of ``eps``.
    """
    return np.finfo(dtype).eps ** 2 / 4 * (values[:, None] / (values[:, None] / 4 + l2)).sum(0)


def _spread(x: np.ndarray) -> np.ndarray:
    """``[d]`` standard deviations of ``x [n, d]``, 1 for constant columns, without a float64 copy of ``x``."""
    squares = np.einsum("nd,nd->d", x, x, dtype=np.float64) / len(x)
    variance = squares - np.square(x.mean(0, dtype=np.float64))
    return np.sqrt(np.where(variance > 1e-12 * squares, variance, 1.0))

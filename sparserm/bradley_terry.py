"""The ridge Bradley-Terry fit (Bradley and Terry, 1952): its loss, and the one point where it is least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from sparserm.alignment import second_moments

#: Squared Newton decrements, about twice the nats per pair still to be gained, at which a fit ends: the answer to some nine
#: digits, to the six that single precision has, and to as many as it takes to compare penalties by.
EXACT, SINGLE, ROUGH = 1e-18, 1e-12, 1e-8

#: Steps at most. Fits of the default backbone's representations take 20 to 50, rough ones 5 to 20.
_STEPS = 1000


@dataclass(frozen=True)
class Spectrum:
    """Principal axes of differences ``[n, d]``; with their help fits take few steps, whichever pairs and penalty they are of.

    Attributes:
        axes: ``[d, r]`` orthonormal columns.
        values: ``[r]`` mean of the squared differences along each; across all of them there are no differences.
    """

    axes: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Spectrum:
        """Of all differences, those that are none to the thirteenth digit left out."""
        n, d = x.shape
        if n >= d:
            return cls.of_moments(second_moments(x))
        few = x.astype(np.float64)
        values, mixtures = np.linalg.eigh(few @ few.T / n)
        real = values > 1e-13 * values.max(initial=0)
        return cls(few.T @ (mixtures[:, real] / np.sqrt(n * values[real])), values[real])

    @classmethod
    def of_moments(cls, second: np.ndarray) -> Spectrum:
        """Of differences whose second moments ``[d, d]`` are known."""
        values, axes = np.linalg.eigh(second)
        return cls(axes, np.maximum(values, 0))


def bradley_terry_loss(margins: np.ndarray) -> float:
    """Mean ``-log sigmoid(margin)`` in nats."""
    return float(np.logaddexp(0, -margins).mean())


def fit_bradley_terry(differences: np.ndarray, l2: float) -> np.ndarray:
    """Weights that minimise ``mean(-log sigmoid(X w)) + l2/2 |w|^2``: convex, so there is one answer.

    Args:
        differences: ``[n, K]`` chosen minus rejected.
        l2: strength of the ridge penalty, above zero.

    Returns:
        ``[K]`` float64.
    """
    x = np.ascontiguousarray(differences, np.float64)
    return fit_many(x, np.full((len(x), 1), 1 / len(x)), np.array([l2]), Spectrum.of(x), EXACT)[:, 0]


def fit_many(x: np.ndarray, shares: np.ndarray, l2: np.ndarray, spectrum: Spectrum, tolerance: float) -> np.ndarray:
    """:func:`fit_bradley_terry` for several parts of the same pairs and penalties at once: each multiplication reads the
    differences once for all of them.

    Conjugate gradients (Polak and Ribiere), preconditioned with the Hessian of pairs of equal curvature. No step is searched
    for: it is the longer one of two that cannot overshoot, the curvature of a pair being 1/4 at most (Boehning and Lindsay,
    1988), and changing no faster than its margin (Bach, 2010, proposition 1). SciPy's L-BFGS, one fit after another, took twice
    to three times as long to choose a penalty on 8,000 pairs of 576 dimensions.

    Args:
        x: ``[n, d]`` differences; their precision is that of the fit.
        shares: ``[n, p]`` how much each pair counts in each fit; a column adds up to one.
        l2: ``[p]`` ridge penalties.
        spectrum: of ``x``, or of other differences that span what these do.
        tolerance: the squared Newton decrement to be reached, see :data:`EXACT`; as a share of the first where that is below 1.

    Returns:
        ``[d, p]`` weights.
    """
    shares, l2, axes, values = (part.astype(x.dtype, copy=False) for part in (shares, l2, spectrum.axes, spectrum.values))
    weights, margins = np.zeros((x.shape[1], len(l2)), x.dtype), np.zeros(shares.shape, x.dtype)
    direction = gradient = np.zeros_like(weights)
    gain, goal = np.ones_like(l2), None
    counted = shares > 0
    tiny = np.finfo(x.dtype).tiny
    for _ in range(_STEPS):
        wrong = expit(-margins)
        pull = wrong * shares
        curvature = pull * (1 - wrong)
        gradient, before = x.T @ pull - l2 * weights, gradient
        damping = np.multiply.outer(values, curvature.sum(0))
        inside = axes.T @ gradient
        ahead = axes @ (inside / (damping + l2))
        gain, gain_before = (inside * (inside / (damping + l2))).sum(0), gain
        if goal is None:
            goal = np.maximum(tolerance * np.minimum(gain, 1), _rounding(x.dtype, values, l2))
        if (gain <= goal).all():
            break
        kept = np.maximum(((gradient - before) * ahead).sum(0) / np.maximum(gain_before, tiny), 0) * direction
        direction = ahead + np.where((kept * gradient).sum(0) > -0.9 * gain, kept, 0)

        along, slope, ridge = x @ direction, (direction * gradient).sum(0), l2 * (direction * direction).sum(0)
        squares, widest = along * along, np.maximum((np.abs(along) * counted).max(0), tiny)
        bounded = slope / np.maximum((shares * squares).sum(0) / 4 + ridge, tiny)
        newton = slope / np.maximum((curvature * squares).sum(0) + ridge, tiny)
        length = np.maximum(bounded, np.log1p(widest * newton) / widest)
        weights = weights + length * direction
        margins = margins + length * along
    return weights


def _rounding(dtype: np.dtype, values: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """``[p]`` squared Newton decrements that rounding alone may leave where pairs pull in all directions alike and cancel out:
    a pull is 1/2 at most, of which single products are off by the precision.
    """
    return np.finfo(dtype).eps ** 2 / 4 * (values[:, None] / (values[:, None] / 4 + l2)).sum(0)

"""The ridge Bradley-Terry fit (Bradley and Terry, 1952): its loss, and the one point where it is least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from sparserm.heads.reward import second_moments

#: L2 strengths tried by cross-validation.
L2_GRID = tuple(float(x) for x in np.logspace(-4, 0.5, 10))


#: L2 strengths tried for a dense probe, of several hundred dimensions.
PROBE_L2 = (0.1, 0.3, 1.0, 3.0)


FOLDS = 5


@dataclass(frozen=True)
class L2Choice:
    """Cross-validated Bradley-Terry loss (nats per pair) for each L2 strength, and the best of them."""

    best: float
    strengths: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class DenseProbe:
    """What all of ``h`` says of the pairs.

    Attributes:
        weights: ``[d]`` float64; the margin of a pair is ``weights @ (h_chosen - h_rejected)``.
        l2: the ridge penalty, and ``choice`` how it was chosen where it was.
    """

    weights: np.ndarray
    l2: float
    choice: L2Choice | None


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


def choose_l2(
    differences: np.ndarray, groups: np.ndarray, strengths: Sequence[float] = L2_GRID, spectrum: Spectrum | None = None
) -> L2Choice:
    """L2 by cross-validation over prompts: no prompt is in both parts of a fold.

    All folds and strengths are fitted at once, in single precision, which is enough to compare penalties by.

    Args:
        differences: ``[n, K]``.
        groups: ``[n]`` the prompt of each pair.
        spectrum: of the differences, where it is known.
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
    """The dense probe: ridge Bradley-Terry on every dimension of the representation, each scaled to a spread of one.

    With the penalties that are tried single precision gives some six digits of it; with others it is fitted in double.

    Args:
        differences: ``[n, d]`` chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.
        l2: the ridge penalty; chosen by cross-validation over prompts where it is not given.
        second: ``[d, d]`` their second moments, where they are known.
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


def _spread(x: np.ndarray) -> np.ndarray:
    """``[d]`` standard deviations, 1 where there is none, without a float64 copy of ``x [n, d]``."""
    squares = np.einsum("nd,nd->d", x, x, dtype=np.float64) / len(x)
    variance = squares - np.square(x.mean(0, dtype=np.float64))
    return np.sqrt(np.where(variance > 1e-12 * squares, variance, 1.0))


def prompt_folds(groups: np.ndarray, seed: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deterministic folds over prompts as ``(train, held out)`` row indices; fewer where there are fewer prompts.

    Args:
        seed: other folds for each seed; None takes the prompts as they come.
    """
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2:  # one prompt cannot be split: the pairs are taken as they come
        groups = np.arange(len(groups))
        n_groups = len(groups)
    n_splits = max(2, min(FOLDS, n_groups))
    splitter = GroupKFold(n_splits) if seed is None else GroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(groups)), groups=groups))

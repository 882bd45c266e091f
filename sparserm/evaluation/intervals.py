"""Confidence intervals that account for pairs sharing a prompt, and correlations."""

from __future__ import annotations

import numpy as np

#: Number of bootstrap resamples.
BOOTSTRAP_SAMPLES = 2000
#: 97.5 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


def accuracy_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of an accuracy: a bootstrap over prompts, or Wilson's interval where all or none are correct.

    Every accuracy has this interval. A bootstrap of pairs that are all correct would have width zero, however few they are.

    Args:
        correct: ``[n]`` bool, or shares from 0 to 1 such as one half for a tie.
        groups: ``[n]`` the prompt of each pair.
    """
    if correct.min() < correct.max():
        return bootstrap_interval(correct, groups)
    low, high = wilson_interval(np.array(correct.mean()), np.array(len(np.unique(groups))))
    return float(low), float(high)


def bootstrap_interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean over prompts: pairs of one prompt may share responses and are not independent.

    With a single prompt nothing can be resampled, and the interval is 0 to 1.
    """
    hits, counts = resampled_sums(np.stack([values, np.ones(len(values))]), groups)
    if len(np.unique(groups)) < 2:
        return 0.0, 1.0
    low, high = np.percentile(hits / counts, [2.5, 97.5])
    return float(low), float(high)


def resampled_sums(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``[m, BOOTSTRAP_SAMPLES]`` sums of ``rows [m, n]`` over prompts drawn with replacement.

    Prompts with the same sums are interchangeable, so the number of draws of each distinct sum is multinomial: the same
    distribution, computed in a millisecond for any number of prompts.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(numbers, weights=row) for row in rows])
    kinds, times = np.unique(sums, axis=1, return_counts=True)
    n = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(n, times / n, size=BOOTSTRAP_SAMPLES)
    return np.asarray(kinds @ drawn.T)


def mean_interval(rows: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of ``rows [draws, n]``, results of several heads on the same pairs (bool, or differences).

    The variance from sampling test prompts and the variance from drawing heads are independent and add up.
    """
    each = rows.mean(1)
    mean = float(each.mean())
    low, high = (accuracy_interval if rows.dtype == bool else bootstrap_interval)(rows.mean(0), groups)
    drawn = 1.96 * float(each.std(ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return mean - float(np.hypot(mean - low, drawn)), mean + float(np.hypot(high - mean, drawn))


def wilson_interval(p: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of a share ``p`` of ``n`` (Wilson, 1927)."""
    shrink = 1 + Z95**2 / n
    middle = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def correlations(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of ``[n]`` or ``[n, K]`` with ``y [n]``; NaN where either is constant."""
    x = columns - columns.mean(0)
    y = y - y.mean()
    norms = np.sqrt((x**2).sum(0) * (y @ y))
    flat = norms <= 1e-12 * len(y)
    return np.where(flat, np.nan, (y @ x) / np.where(flat, 1.0, norms))


def rank_correlations(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman correlation, as :func:`correlations` over ranks; ties get their mean rank."""
    from scipy.stats import rankdata

    return correlations(rankdata(columns, axis=0), rankdata(y))

"""Confidence intervals that respect prompts, and correlations."""

from __future__ import annotations

import numpy as np

BOOTSTRAP_SAMPLES = 2000


_Z95 = 1.959963984540054


def accuracy_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap over prompts: pairs of one prompt share responses and are not independent.

    With a single prompt there is nothing to resample, and the interval is all that is possible.
    """
    hits, counts = resampled_sums(np.stack([correct, np.ones(len(correct))]), groups)
    if len(np.unique(groups)) < 2:
        return 0.0, 1.0
    low, high = np.percentile(hits / counts, [2.5, 97.5])
    return float(low), float(high)


def resampled_sums(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``[m, BOOTSTRAP_SAMPLES]`` sums of ``rows [m, n]`` over prompts drawn with replacement.

    Prompts of the same sums are interchangeable, so that drawing prompts is drawing how many of each kind: the same
    distribution, in a millisecond whatever the number of prompts.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(numbers, weights=row) for row in rows])
    kinds, times = np.unique(sums, axis=1, return_counts=True)
    n = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(n, times / n, size=BOOTSTRAP_SAMPLES)
    return np.asarray(kinds @ drawn.T)


def mean_interval(rows: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of ``rows [draws, n]``: several heads, each judged on the same pairs; bool, or differences.

    Two independent chances, which prompts are in the test and which heads were drawn: their variances add up.
    """
    each = rows.mean(1)
    mean = float(each.mean())
    low, high = (share_interval if rows.dtype == bool else accuracy_interval)(rows.mean(0), groups)
    drawn = 1.96 * float(each.std(ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return mean - float(np.hypot(mean - low, drawn)), mean + float(np.hypot(high - mean, drawn))


def share_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """:func:`accuracy_interval` for a part of the pairs, which may be few.

    Where all are right, or all wrong, resampling finds nothing else; Wilson's interval does not, taken over prompts.
    """
    from scipy.stats import binomtest

    if correct.min() < correct.max():
        return accuracy_interval(correct, groups)
    n = len(np.unique(groups))
    interval = binomtest(round(float(correct.mean()) * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def wilson_interval(p: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of a share (Wilson, 1927)."""
    shrink = 1 + _Z95**2 / n
    middle = (p + _Z95**2 / (2 * n)) / shrink
    half = _Z95 / shrink * np.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def correlations(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of ``[n]`` or ``[n, K]`` with ``y [n]``; NaN where one of the two does not vary."""
    x = columns - columns.mean(0)
    y = y - y.mean()
    norms = np.sqrt((x**2).sum(0) * (y @ y))
    flat = norms <= 1e-12 * len(y)
    return np.where(flat, np.nan, (y @ x) / np.where(flat, 1.0, norms))


def rank_correlations(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's, the same way: Pearson's over ranks, ties sharing theirs."""
    from scipy.stats import rankdata

    return correlations(rankdata(columns, axis=0), rankdata(y))

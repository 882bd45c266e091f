"""How far rewards of other texts lie from those that a head was trained on: the first sign that it is asked beyond its data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.types import SparseRMError


@dataclass(frozen=True)
class ScoreShift:
    """Rewards of ``n`` texts beside those of a reference.

    Attributes:
        shift: difference of the means, in standard deviations of the reference.
        spread: standard deviation, as a multiple of the reference's.
        distance: Kolmogorov-Smirnov statistic, the largest difference of the two distribution functions, 0 to 1.
        p_value: of that distance under no shift.
        outside: share beyond the reference's 1st and 99th percentile; 0.02 where nothing has shifted.
        quantiles: 5th, 25th, 50th, 75th and 95th percentile of the texts' rewards.
    """

    n: int
    shift: float
    spread: float
    distance: float
    p_value: float
    outside: float
    quantiles: tuple[float, float, float, float, float]


def score_shift(reference: np.ndarray, rewards: np.ndarray) -> ScoreShift:
    """Compare rewards ``[n]`` with those of a reference ``[m]``.

    Raises:
        SparseRMError: fewer than two rewards in either, or a reference whose rewards are all the same.
    """
    from scipy.stats import ks_2samp

    if min(len(reference), len(rewards)) < 2:
        raise SparseRMError(
            f"there are {len(rewards)} rewards and {len(reference)} of the reference; expected two or more of each"
        )
    deviation = float(reference.std())
    if deviation == 0:
        raise SparseRMError("all rewards of the reference are the same; give texts that the head tells apart")
    low, high = np.percentile(reference, [1, 99])
    test = ks_2samp(reference, rewards)
    a, b, c, d, e = (float(x) for x in np.percentile(rewards, [5, 25, 50, 75, 95]))
    return ScoreShift(
        n=len(rewards),
        shift=float(rewards.mean() - reference.mean()) / deviation,
        spread=float(rewards.std()) / deviation,
        distance=float(test.statistic),
        p_value=float(test.pvalue),
        outside=float(((rewards < low) | (rewards > high)).mean()),
        quantiles=(a, b, c, d, e),
    )

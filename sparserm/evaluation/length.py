"""How far a head rewards the length of responses instead of what is in them, and how good it is where length says nothing.

Lengths are in tokens, differences within a pair are differences of log length. That a reward follows length is no fault
where long responses are better; what counts is whether the head still ranks pairs in which length does not help it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.evaluation.intervals import correlations, rank_correlations, resampled_sums

#: A feature tracks length where its alignment score has at least this |Spearman| with the length of the training responses.
#: Chance leaves it below 0.1 for some hundreds of responses; of the shipped heads' features a quarter is above.
TRACKS = 0.3


@dataclass(frozen=True)
class LengthCorrelation:
    """How far rewards follow the log length of responses; NaN where one of the two does not vary.

    Attributes:
        reward_pearson, reward_spearman: of rewards with lengths, over all responses.
        margin_pearson, margin_spearman: of margins with gaps in length, over pairs: prompts that call for long answers do
            not count.
    """

    reward_pearson: float
    reward_spearman: float
    margin_pearson: float
    margin_spearman: float

    def to_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: what is not defined is None."""
        return {name: None if np.isnan(value) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class LengthBalanced:
    """Accuracy where "longer is better" is right for exactly half of the weight.

    The mean of the accuracy on pairs whose chosen response is longer and of that on pairs whose chosen one is shorter, so
    that no preference for long or short responses gains anything; pairs of equal length are left out. Unlike matched pairs
    it needs no lengths to be near each other.

    Attributes:
        ci95: bootstrap over prompts.
        longer, shorter: accuracy on the two kinds of pairs.
        n_longer, n_shorter: their numbers.
    """

    accuracy: float
    ci95: tuple[float, float]
    longer: float
    shorter: float
    n_longer: int
    n_shorter: int


def length_correlation(rewards: np.ndarray, margins: np.ndarray, lengths: np.ndarray, gaps: np.ndarray) -> LengthCorrelation:
    """Correlations of rewards ``[2n]`` with log lengths ``[2n]`` and of margins ``[n]`` with their gaps ``[n]``."""
    return LengthCorrelation(
        float(correlations(rewards, lengths)),
        float(rank_correlations(rewards, lengths)),
        float(correlations(margins, gaps)),
        float(rank_correlations(margins, gaps)),
    )


def length_balanced(margins: np.ndarray, gaps: np.ndarray, groups: np.ndarray) -> LengthBalanced | None:
    """Balanced accuracy of margins ``[n]``, chosen minus rejected; a tie counts as wrong.

    Args:
        gaps: ``[n]`` length of chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.

    Returns:
        None where no chosen response is longer, or none is shorter.
    """
    correct, longer, shorter = margins > 0, gaps > 0, gaps < 0
    if not longer.any() or not shorter.any():
        return None
    first, second = float(correct[longer].mean()), float(correct[shorter].mean())
    hits, others, n, n_others = resampled_sums(np.stack([correct & longer, correct & shorter, longer, shorter]), groups)
    drawn = (n > 0) & (n_others > 0)  # of a handful of prompts a draw may hold one side alone
    low, high = np.percentile((hits[drawn] / n[drawn] + others[drawn] / n_others[drawn]) / 2, [2.5, 97.5])
    interval = (float(low), float(high)) if len(np.unique(groups)) > 1 else (0.0, 1.0)
    return LengthBalanced((first + second) / 2, interval, first, second, int(longer.sum()), int(shorter.sum()))

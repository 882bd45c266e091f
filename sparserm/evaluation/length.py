"""Length bias: correlation of rewards with response length, and accuracy when length is balanced.

Lengths are in tokens; the length gap of a pair is the difference of log lengths. A correlation with length is not a fault in
itself where longer responses are better; what counts is the accuracy on pairs in which length does not help.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.evaluation.intervals import accuracy_interval, correlations, rank_correlations, resampled_sums

#: A feature tracks length where the |Spearman| correlation of its alignment score with the length of the training responses is
#: at least this. By chance it stays below 0.1 for some hundred responses; a quarter of the shipped heads' features are above.
TRACKS = 0.3


@dataclass(frozen=True)
class LengthCorrelation:
    """Correlations of rewards with the log length of responses; NaN where either is constant.

    Attributes:
        reward_pearson, reward_spearman: correlation of rewards with log lengths, over all responses.
        margin_pearson, margin_spearman: correlation of margins with length gaps, over pairs; not affected by prompts that
            require long answers.
    """

    reward_pearson: float
    reward_spearman: float
    margin_pearson: float
    margin_spearman: float

    def to_dict(self) -> dict[str, float | None]:
        """As a dictionary for JSON: NaN becomes None."""
        return {name: None if np.isnan(value) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class LengthBalanced:
    """Length-balanced accuracy, for which "longer is better" scores exactly 0.5.

    The mean of the accuracy on pairs with a longer chosen response and the accuracy on pairs with a shorter one, so that a
    preference for long or short responses gains nothing. Pairs of equal length are left out. Unlike length-matched pairs it
    does not need responses of similar length.

    Attributes:
        ci95: 95 % interval, bootstrap over prompts; where all or none are correct, the mean of the intervals of both kinds.
        longer, shorter: accuracy on pairs with a longer / shorter chosen response.
        n_longer, n_shorter: number of these pairs.
    """

    accuracy: float
    ci95: tuple[float, float]
    longer: float
    shorter: float
    n_longer: int
    n_shorter: int


def length_correlation(rewards: np.ndarray, margins: np.ndarray, lengths: np.ndarray, gaps: np.ndarray) -> LengthCorrelation:
    """Correlations of rewards ``[2n]`` with log lengths ``[2n]`` and of margins ``[n]`` with length gaps ``[n]``."""
    return LengthCorrelation(
        float(correlations(rewards, lengths)),
        float(rank_correlations(rewards, lengths)),
        float(correlations(margins, gaps)),
        float(rank_correlations(margins, gaps)),
    )


def length_balanced(margins: np.ndarray, gaps: np.ndarray, groups: np.ndarray) -> LengthBalanced | None:
    """Length-balanced accuracy of margins ``[n]``, chosen minus rejected; a tie counts as wrong.

    Args:
        gaps: ``[n]`` length gaps, chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.

    Returns:
        None where no chosen response is longer, or none is shorter.
    """
    correct, longer, shorter = margins > 0, gaps > 0, gaps < 0
    if not longer.any() or not shorter.any():
        return None
    first, second = float(correct[longer].mean()), float(correct[shorter].mean())
    several = len(np.unique(groups)) > 1
    if several and first == second and first in (0, 1):
        ends = accuracy_interval(correct[longer], groups[longer]), accuracy_interval(correct[shorter], groups[shorter])
        low, high = np.mean(ends, axis=0).tolist()
        return LengthBalanced(first, (low, high), first, second, int(longer.sum()), int(shorter.sum()))
    hits, others, n, n_others = resampled_sums(np.stack([correct & longer, correct & shorter, longer, shorter]), groups)
    drawn = (n > 0) & (n_others > 0)  # with few prompts a resample may contain only one kind
    low, high = np.percentile((hits[drawn] / n[drawn] + others[drawn] / n_others[drawn]) / 2, [2.5, 97.5])
    interval = (float(low), float(high)) if several else (0.0, 1.0)
    return LengthBalanced((first + second) / 2, interval, first, second, int(longer.sum()), int(shorter.sum()))

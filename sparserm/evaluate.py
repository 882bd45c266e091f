"""How good a head is: accuracy with an interval that respects prompts, and the baselines that stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sparserm.fitting import FitSettings, fit_head
from sparserm.head import fit_probe, prompt_folds, rewards
from sparserm.sae import SparseAutoencoder
from sparserm.threads import in_threads, one_thread
from sparserm.types import Evaluation, PairRepresentations, RewardHead, SparseRMError

BOOTSTRAP_SAMPLES = 2000


def evaluate_head(head: RewardHead, pairs: PairRepresentations) -> Evaluation:
    """Accuracy on pairs that the head was not trained on."""
    margins = rewards(head, pairs.chosen.h) - rewards(head, pairs.rejected.h)
    return evaluate_margins(margins, pairs)


def evaluate_margins(margins: np.ndarray, pairs: PairRepresentations) -> Evaluation:
    """Accuracy of margins ``[n]`` (chosen minus rejected); a tie counts as wrong, as in RewardBench.

    Raises:
        SparseRMError: there are no pairs.
    """
    if len(margins) == 0:
        raise SparseRMError("there are no pairs to measure on; give at least one")
    correct = margins > 0
    longer = pairs.chosen.n_tokens > pairs.rejected.n_tokens
    truncated = (pairs.chosen.n_truncated > 0) | (pairs.rejected.n_truncated > 0)
    return Evaluation(
        accuracy=float(correct.mean()),
        ci95=accuracy_interval(correct, pairs.groups),
        n=len(correct),
        n_prompts=len(np.unique(pairs.groups)),
        length_baseline=float(longer.mean()),
        mean_margin=float(margins.mean()),
        n_truncated=int(truncated.sum()),
    )


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


def dense_probe_margins(train: PairRepresentations, test: PairRepresentations, l2: float | None = None) -> np.ndarray:
    """The baseline that knows all of ``h``: Bradley-Terry on the standardised representation.

    Args:
        l2: the ridge penalty; chosen by cross-validation over the training prompts where it is not given.

    Returns:
        ``[n_test]`` margins.
    """
    with one_thread():
        return test.differences @ fit_probe(train.differences, train.groups, l2).weights


def random_settings(settings: FitSettings, draws: int = 5) -> list[FitSettings]:
    """The settings with latents drawn at random, once for each of ``draws`` seeds."""
    return [replace(settings, selection="random", seed=seed) for seed in range(draws)]


def random_directions_accuracy(
    train: PairRepresentations, test: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings
) -> float:
    """Mean accuracy of heads of the same size over latents drawn at random: what selection has to beat."""
    heads = in_threads(lambda one: fit_head(train, sae, one).head, random_settings(settings))
    return float(np.mean([evaluate_head(head, test).accuracy for head in heads]))


def cross_validate(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> Evaluation:
    """Held-out prompts, every pair once: features, L2 and weights are chosen anew on the training part of every fold.

    Raises:
        SparseRMError: a single pair, of which nothing can be held out.
    """
    return evaluate_margins(cross_validated_margins(pairs, sae, settings), pairs)


def cross_validated_margins(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> np.ndarray:
    """``[n]`` margins, each from a head that has not seen the pair's prompt: the heads of :func:`cross_validate`.

    Raises:
        SparseRMError: a single pair, of which nothing can be held out.
    """
    _check_enough(pairs)

    def fold(rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        head, rest = fit_head(pairs.take(rows[0]), sae, settings).head, pairs.take(rows[1])
        return rewards(head, rest.chosen.h) - rewards(head, rest.rejected.h)

    return _over_folds(pairs, fold)


def cross_validate_dense(pairs: PairRepresentations, l2: float | None = None) -> Evaluation:
    """The same for the dense probe."""
    _check_enough(pairs)

    def fold(rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return dense_probe_margins(pairs.take(rows[0]), pairs.take(rows[1]), l2)

    return evaluate_margins(_over_folds(pairs, fold), pairs)


def _over_folds(pairs: PairRepresentations, work: Callable[[tuple[np.ndarray, np.ndarray]], np.ndarray]) -> np.ndarray:
    """``[n]`` from what each fold, its training and its held-out rows, says of the held-out ones."""
    folds = prompt_folds(pairs.groups)
    margins = np.zeros(len(pairs.groups))
    for (_, held_out), found in zip(folds, in_threads(work, folds), strict=True):
        margins[held_out] = found
    return margins


def _check_enough(pairs: PairRepresentations) -> None:
    if len(pairs.groups) < 2:
        raise SparseRMError(
            f"cross-validation needs at least 2 pairs, got {len(pairs.groups)}; give more, or pairs to test on (--test)"
        )

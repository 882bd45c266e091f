"""How good a head is: accuracy with an interval that respects prompts, and the baselines that stand beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from sparserm.evaluation.intervals import accuracy_interval
from sparserm.heads.bradley_terry import fit_probe, prompt_folds
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import RewardHead, reward_margins
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.threads import in_threads, one_thread
from sparserm.types import SparseRMError


@dataclass(frozen=True)
class Evaluation:
    """How often a head ranks chosen above rejected; a tie counts as wrong (RewardBench's strict ``>``).

    ``ci95`` is a percentile bootstrap over prompts; ``length_baseline`` is the accuracy of "longer is better" (tokens).
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    n_prompts: int
    length_baseline: float
    mean_margin: float
    n_truncated: int
    extra: dict[str, float] = field(default_factory=dict)


def evaluate_head(head: RewardHead, pairs: PairRepresentations) -> Evaluation:
    """Accuracy on pairs that the head was not trained on."""
    return evaluate_margins(reward_margins(head, pairs), pairs)


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


def random_latents_accuracy(
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
        return reward_margins(fit_head(pairs.take(rows[0]), sae, settings).head, pairs.take(rows[1]))

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

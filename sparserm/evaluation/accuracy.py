"""Pairwise accuracy of a head: on test pairs and cross-validated over prompts, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.evaluation.baselines import dense_probe_margins, longer_margins
from sparserm.evaluation.intervals import accuracy_interval
from sparserm.heads.bradley_terry import prompt_folds
from sparserm.heads.fitting import FitSettings, fit_each
from sparserm.heads.reward import RewardHead, reward_margins
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.threads import in_threads
from sparserm.types import SparseRMError


@dataclass(frozen=True)
class Evaluation:
    """Pairwise accuracy: share of pairs with the chosen response ranked above the rejected one.

    A tie counts as wrong (RewardBench's strict ``>``).

    Attributes:
        ci95: 95 % interval of the accuracy, see :func:`~sparserm.evaluation.intervals.accuracy_interval`.
        n, n_prompts: number of pairs and of their prompts.
        length_baseline: accuracy of "the longer response is better" (in tokens).
        mean_margin: mean reward of chosen minus rejected.
        n_truncated: pairs with a prompt that was cut.
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    n_prompts: int
    length_baseline: float
    mean_margin: float
    n_truncated: int


def evaluate_head(head: RewardHead, pairs: PairRepresentations) -> Evaluation:
    """Evaluate a head on represented pairs; they should be pairs that it was not trained on."""
    return evaluate_margins(reward_margins(head, pairs), pairs)


def evaluate_margins(margins: np.ndarray, pairs: PairRepresentations) -> Evaluation:
    """Evaluate margins ``[n]`` (chosen minus rejected); a tie counts as wrong, as in RewardBench.

    Raises:
        SparseRMError: there are no pairs.
    """
    if len(margins) == 0:
        raise SparseRMError("there are no pairs to evaluate on; give at least one")
    correct = margins > 0
    truncated = (pairs.chosen.n_truncated > 0) | (pairs.rejected.n_truncated > 0)
    return Evaluation(
        accuracy=float(correct.mean()),
        ci95=accuracy_interval(correct, pairs.groups),
        n=len(correct),
        n_prompts=len(np.unique(pairs.groups)),
        length_baseline=float((longer_margins(pairs) > 0).mean()),
        mean_margin=float(margins.mean()),
        n_truncated=int(truncated.sum()),
    )


def cross_validate(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> Evaluation:
    """Cross-validate over prompts: features, L2 and weights are chosen again on the training part of every fold.

    Raises:
        SparseRMError: fewer than 2 pairs, or fewer latents that fire in a fold than ``settings.k``.
    """
    return evaluate_margins(cross_validated_margins(pairs, sae, settings), pairs)


def cross_validated_margins(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> np.ndarray:
    """``[n]`` margins of :func:`cross_validate`, each from a head that was not trained on the pair's prompt.

    Raises:
        SparseRMError: fewer than 2 pairs, or fewer latents that fire in a fold than ``settings.k``.
    """
    return each_cross_validated(pairs, sae, [settings])[0]


def each_cross_validated(pairs: PairRepresentations, sae: SparseAutoencoder, settings: Sequence[FitSettings]) -> np.ndarray:
    """``[m, n]`` :func:`cross_validated_margins` of ``m`` settings that differ in their selection, size and seed alone.

    Raises:
        SparseRMError: as there.
    """
    _check_enough(pairs)

    def fold(rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        held_out = pairs.take(rows[1])
        return np.stack([reward_margins(one.head, held_out) for one in fit_each(pairs.take(rows[0]), sae, settings)])

    return _over_folds(pairs, fold, len(settings))


def cross_validate_dense(pairs: PairRepresentations, l2: float | None = None) -> Evaluation:
    """:func:`cross_validate` for the dense probe.

    Raises:
        SparseRMError: fewer than 2 pairs.
    """
    _check_enough(pairs)

    def fold(rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return dense_probe_margins(pairs.take(rows[0]), pairs.take(rows[1]), l2)[None]

    return evaluate_margins(_over_folds(pairs, fold, 1)[0], pairs)


def _over_folds(pairs: PairRepresentations, work: Callable[[tuple[np.ndarray, np.ndarray]], np.ndarray], m: int) -> np.ndarray:
    """``[m, n]`` margins; ``work`` maps the training and held-out rows of a fold to ``m`` margins of each held-out row."""
    folds = prompt_folds(pairs.groups)
    margins = np.zeros((m, len(pairs.groups)))
    for (_, held_out), found in zip(folds, in_threads(work, folds), strict=True):
        margins[:, held_out] = found
    return margins


def _check_enough(pairs: PairRepresentations) -> None:
    if len(pairs.groups) < 2:
        raise SparseRMError(
            f"cross-validation needs at least 2 pairs, got {len(pairs.groups)}; give more pairs or separate test pairs (--test)"
        )

"""Evaluation report of a head on a dataset: accuracy, AUROC, calibration, slices, length bias and worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from sparserm.evaluation.accuracy import Evaluation, evaluate_margins
from sparserm.evaluation.intervals import accuracy_interval
from sparserm.evaluation.length import LengthBalanced, LengthCorrelation, length_balanced, length_correlation
from sparserm.explain.contributions import FeatureDifference, compare_responses
from sparserm.heads.bradley_terry import bradley_terry_loss
from sparserm.heads.labels import labels_of
from sparserm.heads.reward import head_scores, rewards
from sparserm.heads.saved import SavedHead
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferenceData, PreferencePair

#: Number of worst mistakes that are explained.
MISTAKES = 20
#: Number of bins of the reliability diagram, between confidences 0.5 and 1.
BINS = 10
#: Pairs are length-matched where neither response has more than 1.25 times the tokens of the other.
LENGTH_MATCHED = 1.25
#: Name of the slice of length-matched pairs.
MATCHED = "about as long"


@dataclass(frozen=True)
class Slice:
    """Accuracy on a part of the pairs.

    Attributes:
        by: what the pairs are sliced by: ``category``, ``length``, ``margin`` or ``training``.
        name: name of the slice.
        ci95: 95 % interval of the accuracy, see :func:`~sparserm.evaluation.intervals.accuracy_interval`.
        length_baseline: accuracy of "longer is better" on the same pairs.
    """

    by: str
    name: str
    n: int
    n_prompts: int
    accuracy: float
    ci95: tuple[float, float]
    length_baseline: float
    mean_margin: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs with similar confidence ``sigmoid(|margin|)``, and the share of them ranked correctly (``correct``)."""

    low: float
    high: float
    n: int
    confidence: float
    correct: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """Calibration of win probabilities ``sigmoid(margin)``.

    The chosen response always wins, so that calibration cannot be tested in one order of the responses alone. Every pair is
    therefore used in both orders, with outcomes ``(p, 1)`` and ``(1 - p, 0)``. The diagram is symmetric about 0.5, so only the
    upper half is kept: confidence ``max(p, 1 - p)`` against the share of pairs ranked correctly.

    Attributes:
        expected_error: expected calibration error (ECE; Naeini et al., 2015).
        brier: Brier score; 0.25 for a constant 0.5.
        log_loss: Bradley-Terry loss in nats; 0.693 for a constant 0.5.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_error: float
    brier: float
    log_loss: float


@dataclass(frozen=True)
class Mistake:
    """A pair that the head ranks incorrectly.

    Attributes:
        index: position of the pair.
        margin: reward of chosen minus rejected, below zero.
        chance: win probability of the chosen response.
        contributions: contributions of the features to the margin.
    """

    index: int
    margin: float
    chance: float
    contributions: tuple[FeatureDifference, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """All measurements of a head on one dataset.

    Attributes:
        auroc: probability that a chosen response has a higher reward than a rejected response to any prompt.
        slices: accuracy by category (where the data has categories), length, margin, and whether the prompt was trained on.
        mistakes: the most negative margins, worst first.
        length: correlation of rewards and margins with length.
        length_balanced: length-balanced accuracy; None where the chosen response is never longer, or never shorter.
        n_seen_in_training: pairs whose prompt the head was trained on; the accuracy on these is optimistic.
        rewards_chosen, rewards_rejected: ``[n]`` rewards in the order of the pairs.
    """

    evaluation: Evaluation
    auroc: float
    calibration: Calibration
    slices: tuple[Slice, ...]
    mistakes: tuple[Mistake, ...]
    length: LengthCorrelation
    length_balanced: LengthBalanced | None
    n_seen_in_training: int
    rewards_chosen: np.ndarray
    rewards_rejected: np.ndarray

    @property
    def margins(self) -> np.ndarray:
        """``[n]`` rewards of chosen minus rejected."""
        return self.rewards_chosen - self.rewards_rejected

    @property
    def length_matched(self) -> Slice | None:
        """The slice of length-matched pairs, on which length helps little; None where there are none."""
        return next((one for one in self.slices if one.name == MATCHED), None)


def evaluation_report(saved: SavedHead, data: PreferenceData, pairs: PairRepresentations) -> EvaluationReport:
    """Evaluate a head on represented pairs.

    Args:
        data: the pairs as text.
        pairs: the representations of the same pairs at the head's hook point, in the same order.

    Raises:
        SparseRMError: there are no pairs.
    """
    from sklearn.metrics import roc_auc_score

    chosen, rejected = rewards(saved.head, pairs.chosen), rewards(saved.head, pairs.rejected)
    evaluation = evaluate_margins(chosen - rejected, pairs)
    seen = saved.trained_on(data.pairs)
    labels, both = np.repeat([1, 0], len(chosen)), np.concatenate([chosen, rejected])
    return EvaluationReport(
        evaluation=evaluation,
        auroc=float(roc_auc_score(labels, both)),
        calibration=calibration(chosen - rejected, pairs.groups),
        slices=slices(chosen - rejected, pairs, [pair.category for pair in data.pairs], seen),
        mistakes=worst_mistakes(saved, chosen - rejected, pairs),
        length=length_correlation(both, chosen - rejected, pairs.log_lengths, pairs.length_gaps),
        length_balanced=length_balanced(chosen - rejected, pairs.length_gaps, pairs.groups),
        n_seen_in_training=int(seen.sum()),
        rewards_chosen=chosen,
        rewards_rejected=rejected,
    )


def calibration(margins: np.ndarray, groups: np.ndarray) -> Calibration:
    """Calibration of ``sigmoid(margin)`` for margins ``[n]``; a tie counts as half correct."""
    confidence = expit(np.abs(margins))
    correct = np.where(margins == 0, 0.5, margins > 0)
    edges = np.linspace(0.5, 1.0, BINS + 1)
    places = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    bins = tuple(
        ReliabilityBin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            n=int(rows.sum()),
            confidence=float(confidence[rows].mean()),
            correct=float(correct[rows].mean()),
            ci95=accuracy_interval(correct[rows], groups[rows]),
        )
        for place in range(BINS)
        if (rows := places == place).any()
    )
    error = sum(one.n * abs(one.confidence - one.correct) for one in bins) / len(margins)
    return Calibration(bins, error, float(np.square(expit(-margins)).mean()), bradley_terry_loss(margins))


def slices(margins: np.ndarray, pairs: PairRepresentations, categories: list[str], seen: np.ndarray) -> tuple[Slice, ...]:
    """Accuracy by category (largest first), response length, size of the margin, and whether the prompt was trained on.

    Args:
        margins: ``[n]``.
        categories: category of each pair; slices by category are left out where there are fewer than two categories.
        seen: ``[n]`` bool, whether the prompt was trained on; these slices are left out where all or none were.
    """
    correct, groups = margins > 0, pairs.groups
    longer = pairs.chosen.n_tokens > pairs.rejected.n_tokens

    def one(by: str, name: str, rows: np.ndarray) -> Slice:
        return Slice(
            by=by,
            name=name,
            n=int(rows.sum()),
            n_prompts=len(np.unique(groups[rows])),
            accuracy=float(correct[rows].mean()),
            ci95=accuracy_interval(correct[rows], groups[rows]),
            length_baseline=float(longer[rows].mean()),
            mean_margin=float(margins[rows].mean()),
        )

    parts = [
        *_by_category(np.array(categories)),
        *_by_length(pairs.chosen.n_tokens, pairs.rejected.n_tokens),
        *_by_margin(margins),
        *_by_training(seen),
    ]
    return tuple(one(by, name, rows) for by, name, rows in parts if rows.any())


def worst_mistakes(saved: SavedHead, margins: np.ndarray, pairs: PairRepresentations) -> tuple[Mistake, ...]:
    """The :data:`MISTAKES` most negative margins, explained by feature."""
    labels = labels_of(saved.card)
    found = []
    for index in np.argsort(margins, kind="stable")[:MISTAKES]:
        if margins[index] >= 0:
            break
        one = pairs.take(np.array([index]))
        both = np.concatenate([head_scores(saved.head, one.chosen), head_scores(saved.head, one.rejected)])
        parts = compare_responses(saved.head, both, labels).contributions
        found.append(Mistake(int(index), float(margins[index]), float(expit(margins[index])), parts))
    return tuple(found)


def summary(report: EvaluationReport, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """The report as plain values for JSON, without the values of ``report.evaluation``."""
    matched = report.length_matched
    return {
        "auroc": report.auroc,
        "calibration": {**asdict(report.calibration), "bins": [asdict(one) for one in report.calibration.bins]},
        "length_matched": asdict(matched) if matched else None,
        "length_balanced": asdict(report.length_balanced) if report.length_balanced else None,
        "length_correlation": report.length.to_dict(),
        "slices": [asdict(one) for one in report.slices],
        "mistakes": [
            {
                "row": pairs[one.index].row,
                "id": pairs[one.index].id,
                "category": pairs[one.index].category,
                **asdict(replace(one, contributions=one.contributions[:5])),
            }
            for one in report.mistakes
        ],
    }


#: What the pairs are sliced by, the name of the slice, and ``[n]`` bool whether each pair is in it.
_Part = tuple[str, str, np.ndarray]


def _by_category(categories: np.ndarray) -> list[_Part]:
    names, counts = np.unique(categories, return_counts=True)
    most_first = names[np.argsort(-counts, kind="stable")] if len(names) > 1 else ()
    return [("category", str(name) or "(none)", categories == name) for name in most_first]


def _by_length(chosen: np.ndarray, rejected: np.ndarray) -> list[_Part]:
    shorter, times = chosen < rejected, np.maximum(chosen, rejected) / np.maximum(np.minimum(chosen, rejected), 1)
    much, matched = times > 2, times <= LENGTH_MATCHED
    some = ~much & ~matched
    return [
        ("length", "chosen less than half as long", much & shorter),
        ("length", "chosen shorter", some & shorter),
        ("length", MATCHED, matched),
        ("length", "chosen longer", some & ~shorter),
        ("length", "chosen more than twice as long", much & ~shorter),
    ]


def _by_margin(margins: np.ndarray) -> list[_Part]:
    near = np.zeros(len(margins), bool)
    near[np.argsort(np.abs(margins), kind="stable")[: len(margins) // 5]] = True
    return [("margin", "near ties (smallest fifth of margins)", near), ("margin", "all others", ~near)] if near.any() else []


def _by_training(seen: np.ndarray) -> list[_Part]:
    known_and_new = seen.any() and not seen.all()
    return [("training", "prompt not trained on", ~seen), ("training", "prompt trained on", seen)] if known_and_new else []

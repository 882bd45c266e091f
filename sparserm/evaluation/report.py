"""How a head does on a dataset, beyond one number: calibration, AUROC, slices, and its worst mistakes with their reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.evaluation.accuracy import Evaluation, evaluate_margins
from sparserm.evaluation.intervals import share_interval
from sparserm.evaluation.length import LengthBalanced, LengthCorrelation, length_balanced, length_correlation
from sparserm.explain.contributions import FeatureDifference, compare_responses
from sparserm.heads.bradley_terry import bradley_terry_loss
from sparserm.heads.labels import labels_of
from sparserm.heads.reward import rewards
from sparserm.heads.saved import SavedHead
from sparserm.pairs.messages import prompt_text
from sparserm.representations.values import PairRepresentations
from sparserm.types import PreferenceData, PreferencePair

if TYPE_CHECKING:
    import pandas as pd

#: Worst mistakes that are taken apart.
MISTAKES = 20
#: Bins of the reliability diagram, between a confidence of one half and of one.
BINS = 10
#: Pairs count as length-matched where neither response has more than 1.25 times the other's tokens.
LENGTH_MATCHED = 1.25
#: The name of their slice.
MATCHED = "about as long"


@dataclass(frozen=True)
class Slice:
    """Accuracy on some of the pairs.

    Attributes:
        by: what the pairs were sorted by: ``category``, ``length``, ``margin`` or ``training``.
        name: which of them these are.
        ci95: bootstrap over prompts; Wilson's where all are right or all wrong, which a bootstrap takes for certain.
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
    """Pairs of about the same confidence ``sigmoid(|margin|)``, and the share of them ranked as labelled."""

    low: float
    high: float
    n: int
    confidence: float
    correct: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """Whether a chance that the head gives is the share of times that it comes true.

    ``sigmoid(margin)`` is the chance that the chosen response wins, and it always does: read from that side alone, no
    forecast could be tested. So every pair is read from both sides, ``(p, 1)`` and ``(1 - p, 0)``. The diagram is then its
    own mirror image about one half, and the upper half says all: confidence against the share ranked as labelled.

    Attributes:
        expected_error: mean distance of confidence and share over pairs (ECE; Naeini et al., 2015).
        brier: mean squared distance of chance and outcome; 0.25 for a coin.
        log_loss: the Bradley-Terry loss in nats; 0.693 for a coin.
    """

    bins: tuple[ReliabilityBin, ...]
    expected_error: float
    brier: float
    log_loss: float


@dataclass(frozen=True)
class Mistake:
    """A pair that the head ranks the other way round: ``contributions`` are chosen minus rejected and sum to ``margin``.

    ``index`` is its place among the pairs, ``chance`` the chance that the head gives to the chosen response.
    """

    index: int
    margin: float
    chance: float
    contributions: tuple[FeatureDifference, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that was measured of a head on one dataset.

    Attributes:
        auroc: chance that a chosen response has a higher reward than a rejected one to any prompt.
        slices: by category where the data has them, length, margin, and whether the prompt was trained on.
        mistakes: the largest wrong margins, worst first.
        length: how far rewards and margins follow length.
        length_balanced: accuracy where preferring the longer response gains nothing; None where length always or never helps.
        n_seen_in_training: pairs whose prompt the head was trained on; they are no test of it.
        rewards_chosen, rewards_rejected: ``[n]`` in the order of the pairs.
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
        """``[n]``, chosen minus rejected."""
        return self.rewards_chosen - self.rewards_rejected

    @property
    def length_matched(self) -> Slice | None:
        """The pairs of about equal length, where the data has any: what is left when length decides nothing."""
        return next((one for one in self.slices if one.name == MATCHED), None)


def evaluation_report(saved: SavedHead, data: PreferenceData, pairs: PairRepresentations) -> EvaluationReport:
    """Measure a head on represented pairs.

    Args:
        data: the pairs as text.
        pairs: the same, represented at the head's hook point, in the same order.

    Raises:
        SparseRMError: there are no pairs.
    """
    from sklearn.metrics import roc_auc_score

    chosen, rejected = rewards(saved.head, pairs.chosen.h), rewards(saved.head, pairs.rejected.h)
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
    """Calibration of ``sigmoid(margin)``, margins ``[n]``; a tie, read from both sides, is right half the time."""
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
            ci95=share_interval(correct[rows], groups[rows]),
        )
        for place in range(BINS)
        if (rows := places == place).any()
    )
    error = sum(one.n * abs(one.confidence - one.correct) for one in bins) / len(margins)
    return Calibration(bins, error, float(np.square(expit(-margins)).mean()), bradley_terry_loss(margins))


def slices(margins: np.ndarray, pairs: PairRepresentations, categories: list[str], seen: np.ndarray) -> tuple[Slice, ...]:
    """Accuracy by category (most pairs first), length of the responses, size of the margin, and known or new prompt.

    Args:
        margins: ``[n]``.
        categories: of each pair; slices by category are left out where there are fewer than two.
        seen: ``[n]`` bool, the prompt was trained on; left out where all or none were.
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
            ci95=share_interval(correct[rows], groups[rows]),
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


#: What the pairs are sorted by, the name of the slice, and ``[n]`` bool which pairs are in it.
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


def worst_mistakes(saved: SavedHead, margins: np.ndarray, pairs: PairRepresentations) -> tuple[Mistake, ...]:
    """The largest wrong margins, each taken apart by feature."""
    labels = labels_of(saved.card)
    found = []
    for index in np.argsort(margins, kind="stable")[:MISTAKES]:
        if margins[index] >= 0:
            break
        both = np.stack([pairs.chosen.h[index], pairs.rejected.h[index]])
        parts = compare_responses(saved.head, both, labels).contributions
        found.append(Mistake(int(index), float(margins[index]), float(expit(margins[index])), parts))
    return tuple(found)


def mistakes_table(report: EvaluationReport, pairs: Sequence[PreferencePair]) -> pd.DataFrame:
    """Every pair that the head does not rank as labelled, the largest wrong margin first, with its texts."""
    import pandas as pd

    margins = report.margins
    wrong = [int(i) for i in np.argsort(margins, kind="stable") if margins[i] <= 0]
    rows = [
        {
            **{name: getattr(pairs[i], name) for name in ("row", "id", "category")},
            "margin": float(margins[i]),
            "chance": float(expit(margins[i])),
            "prompt": prompt_text(pairs[i].prompt),
            "chosen": pairs[i].chosen,
            "rejected": pairs[i].rejected,
        }
        for i in wrong
    ]
    return pd.DataFrame(rows, columns=["row", "id", "category", "margin", "chance", "prompt", "chosen", "rejected"])


def summary(report: EvaluationReport, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Plain values for the command line, beside those of the evaluation itself."""
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

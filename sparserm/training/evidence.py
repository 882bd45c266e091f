"""Evidence on whether a trained head can be trusted: baselines, learning curve, sweep and stability of the selection.

All of it is computed from representations and is deterministic. Accuracies are on test pairs whose prompts are not in the
training pairs; only the sweep is cross-validated over the training prompts, so that choosing a cell does not touch the test
pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sparserm.evaluation.accuracy import evaluate_margins
from sparserm.evaluation.baselines import dense_probe_margins, longer_margins, of_size, random_settings
from sparserm.evaluation.intervals import mean_interval, rank_correlations
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head
from sparserm.heads.reward import RewardHead, reward_margins
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.threads import in_threads
from sparserm.training.sweep import Step, SweepCell, counter
from sparserm.types import Progress, SparseRMError

#: Shares of the training prompts in the learning curve, and the number of draws averaged at each.
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
CURVE_SEEDS = 3
#: Heads trained on shuffled labels.
SHUFFLES = 10
#: Bootstrap resamples of the training prompts for the stability of the selection.
RESAMPLES = 20


@dataclass(frozen=True)
class Measured:
    """Accuracy of one head, or of several averaged, on the test pairs.

    Attributes:
        name: ``head``, ``longer`` (prefers the longer response), ``surface`` (all surface features in one model), ``dense``
            (Bradley-Terry on the whole representation), ``random`` (as many latents, drawn at random) or ``shuffled`` (trained
            on shuffled labels).
        accuracy: of one head, or the mean over several.
        ci95: percentile bootstrap over the test prompts; for several heads it includes the variance between them.
        heads: number of heads that were fitted and averaged.
        lowest, highest: range of their accuracies.
        length_correlation: Spearman correlation of margins with length gaps, mean over heads; None if margins or gaps are
            constant.
    """

    name: str
    accuracy: float
    ci95: tuple[float, float]
    heads: int
    lowest: float
    highest: float
    length_correlation: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Test accuracy of heads trained on a part of the training prompts; the parts are nested."""

    n_prompts: int
    n_pairs: int
    accuracy: float
    ci95: tuple[float, float]
    heads: int


@dataclass(frozen=True)
class FeatureStability:
    """Stability of one feature of the head when the training prompts are resampled.

    Attributes:
        selected: share of resamples in which the feature is selected again.
        same_sign: share of those in which its weight has the same sign.
        nearest: largest absolute cosine between its direction and that of a selected feature, mean over resamples; near 1
            if a near-duplicate is selected instead.
    """

    feature: int
    weight: float
    selected: float
    same_sign: float
    nearest: float


@dataclass(frozen=True)
class Stability:
    """Stability of the feature selection under resampling of the training prompts with replacement.

    Attributes:
        features: the head's features, most stable first.
        jaccard: mean Jaccard overlap of the head's features with those selected in a resample.
        chance: expected overlap of features drawn at random.
        resamples: number of resamples.
    """

    features: tuple[FeatureStability, ...]
    jaccard: float
    chance: float
    resamples: int


@dataclass(frozen=True)
class HeadEvidence:
    """Baselines, learning curve, sweep and stability of one head."""

    baselines: tuple[Measured, ...]
    curve: tuple[CurvePoint, ...]
    cells: tuple[SweepCell, ...]
    stability: Stability

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> HeadEvidence:
        """Read what :meth:`to_dict` wrote."""

        def row(kind: Any, entry: Mapping[str, Any]) -> Any:
            return kind(**{**entry, "ci95": tuple(entry["ci95"])})

        stability = value["stability"]
        return cls(
            baselines=tuple(row(Measured, entry) for entry in value["baselines"]),
            curve=tuple(row(CurvePoint, entry) for entry in value["curve"]),
            cells=tuple(row(SweepCell, entry) for entry in value["cells"]),
            stability=Stability(**{**stability, "features": tuple(FeatureStability(**one) for one in stability["features"])}),
        )


def gather_head_evidence(
    fitted: FittedHead,
    train: PairRepresentations,
    test: PairRepresentations,
    sae: SparseAutoencoder,
    settings: FitSettings,
    cells: tuple[SweepCell, ...] = (),
    progress: Progress | None = None,
) -> HeadEvidence:
    """Compute the evidence of one head.

    Args:
        cells: results of :func:`~sparserm.training.sweep.sweep`, which covers several layers and is run beforehand.
    """
    n_prompts = len(np.unique(train.groups))
    total = 2 + len(random_settings(settings)) + SHUFFLES + CURVE_SEEDS * (len(_sizes(n_prompts)) - 1) + RESAMPLES
    step = counter(total, progress, "Evidence (heads)")
    return HeadEvidence(
        baselines=baselines(fitted, train, test, sae, settings, step),
        curve=learning_curve(fitted, train, test, sae, settings, step),
        cells=cells,
        stability=selection_stability(fitted, train, sae, settings, step),
    )


def baselines(
    fitted: FittedHead,
    train: PairRepresentations,
    test: PairRepresentations,
    sae: SparseAutoencoder,
    settings: FitSettings,
    step: Step = lambda: None,
) -> tuple[Measured, ...]:
    """Accuracy of the head and of its baselines on the same test pairs."""

    def fit(pairs: PairRepresentations, chosen: FitSettings = settings) -> RewardHead:
        return fit_head(pairs, sae, chosen).head

    return (
        measure("head", [fitted.head], test, step),
        longer_baseline(test),
        dense_baseline(train, test, step),
        measure("random", in_threads(lambda one: fit(train, one), random_settings(of_size(settings, fitted))), test, step),
        measure("shuffled", in_threads(lambda seed: fit(shuffled(train, seed)), range(SHUFFLES)), test, step),
    )


def measure(name: str, heads: Iterable[RewardHead], test: PairRepresentations, step: Step = lambda: None) -> Measured:
    """Mean accuracy of one or several heads on the test pairs; a tie counts as wrong."""
    rows = []
    for head in heads:
        rows.append(reward_margins(head, test))
        step()
    margins = np.stack(rows)
    correct = margins > 0
    each = correct.mean(1)
    mean = float(each.mean())
    low, high = mean_interval(correct, test.groups)
    interval = max(0.0, low), min(1.0, high)
    return Measured(name, mean, interval, len(each), float(each.min()), float(each.max()), _length_correlation(margins, test))


def longer_baseline(test: PairRepresentations) -> Measured:
    """Baseline that prefers the longer response, in tokens."""
    return measure_margins("longer", longer_margins(test), test)


def dense_baseline(train: PairRepresentations, test: PairRepresentations, step: Step = lambda: None) -> Measured:
    """Bradley-Terry probe on the whole representation: roughly the best that a head of few features can reach."""
    measured = measure_margins("dense", dense_probe_margins(train, test), test)
    step()
    return measured


def learning_curve(
    fitted: FittedHead,
    train: PairRepresentations,
    test: PairRepresentations,
    sae: SparseAutoencoder,
    settings: FitSettings,
    step: Step = lambda: None,
) -> tuple[CurvePoint, ...]:
    """Test accuracy over the number of training prompts, averaged over draws; the last point is the head itself.

    Parts too small for ``k`` features have no point.
    """
    prompts = np.unique(train.groups)
    points = []
    for size in _sizes(len(prompts))[:-1]:
        parts = [_part(train, prompts, size, seed) for seed in range(CURVE_SEEDS)]
        try:
            heads = in_threads(lambda rows: fit_head(train.take(rows), sae, settings).head, parts)
            measured = measure("part", heads, test, step)
        except SparseRMError:  # fewer latents fire in so few pairs than the head has features
            continue
        n_pairs = round(float(np.mean([len(rows) for rows in parts])))
        points.append(CurvePoint(size, n_pairs, measured.accuracy, measured.ci95, measured.heads))
    whole = measure("whole", [fitted.head], test)
    return (*points, CurvePoint(len(prompts), len(train.groups), whole.accuracy, whole.ci95, whole.heads))


def selection_stability(
    fitted: FittedHead, train: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings, step: Step = lambda: None
) -> Stability:
    """Repeat the selection on training prompts resampled with replacement, and count which features are selected again."""
    features = fitted.head.features
    again = np.zeros(len(features))
    same = np.zeros(len(features))
    nearest = np.zeros(len(features))
    overlaps = []

    def refit(seed: int) -> RewardHead | None:
        try:
            return fit_head(train.take(resample(train.groups, seed)), sae, replace(settings, l2=fitted.l2)).head
        except SparseRMError:  # fewer latents fire in these prompts than the head has features
            return None

    for other in in_threads(refit, range(RESAMPLES)):
        step()
        if other is None:
            overlaps.append(0.0)
            continue
        both, ours, theirs = np.intersect1d(features, other.features, return_indices=True)
        again[ours] += 1
        same[ours] += np.sign(fitted.head.weights[ours]) == np.sign(other.weights[theirs])
        nearest += np.abs(fitted.head.directions @ other.directions.T).max(1)
        overlaps.append(len(both) / len(np.union1d(features, other.features)))
    order = np.argsort(-again, kind="stable")
    n_usable = int(((fitted.stats.f_chosen + fitted.stats.f_rejected) > 0).sum())
    return Stability(
        features=tuple(
            FeatureStability(
                feature=int(features[j]),
                weight=float(fitted.head.weights[j]),
                selected=float(again[j] / RESAMPLES),
                same_sign=float(same[j] / max(1, again[j])),
                nearest=float(nearest[j] / RESAMPLES),
            )
            for j in order
        ),
        jaccard=float(np.mean(overlaps)),
        # Two sets of k out of m share k^2 / m on average.
        chance=len(features) / (2 * n_usable - len(features)),
        resamples=RESAMPLES,
    )


def measure_margins(name: str, margins: np.ndarray, test: PairRepresentations) -> Measured:
    """Accuracy of margins ``[n]`` of the test pairs that come from no head."""
    found = evaluate_margins(margins, test)
    length = _length_correlation(margins[None], test)
    return Measured(name, found.accuracy, found.ci95, 1, found.accuracy, found.accuracy, length)


def _length_correlation(margins: np.ndarray, test: PairRepresentations) -> float | None:
    """Spearman correlation of ``margins [heads, n]`` with length gaps, mean over heads."""
    mean = float(rank_correlations(margins.T, test.length_gaps).mean())
    return None if np.isnan(mean) else mean


def _sizes(n_prompts: int) -> list[int]:
    """Numbers of prompts in the learning curve, 2 or more each."""
    return sorted({n_prompts, *(size for share in SHARES if (size := round(share * n_prompts)) >= 2)})


def _part(train: PairRepresentations, prompts: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Rows of the first ``size`` prompts in the order drawn with ``seed``."""
    return np.flatnonzero(np.isin(train.groups, np.random.default_rng(seed).permutation(prompts)[:size]))


def resample(groups: np.ndarray, seed: int) -> np.ndarray:
    """Rows of a bootstrap resample: as many prompts as there are, drawn with replacement."""
    prompts, numbers = np.unique(groups, return_inverse=True)
    rows = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    return np.concatenate([rows[i] for i in np.random.default_rng(seed).integers(len(prompts), size=len(prompts))])


def shuffled(pairs: PairRepresentations, seed: int) -> PairRepresentations:
    """The pairs with chosen and rejected swapped at random, each with probability 1/2."""
    return pairs.swap(np.random.default_rng(seed).random(len(pairs.groups)) < 0.5)

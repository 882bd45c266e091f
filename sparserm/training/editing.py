"""Manual edits of a head: switch features off, flip or rescale them, and measure the effect on held-out pairs.

A reward is linear in the weights, so alignment scores are computed once and measuring an edit is one matrix-vector product;
the language model is never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparserm.evaluation.accuracy import Evaluation, evaluate_margins
from sparserm.evaluation.intervals import bootstrap_interval, rank_correlations
from sparserm.evaluation.length import LengthCorrelation, length_correlation
from sparserm.heads.reward import RewardHead, head_scores
from sparserm.heads.saved import SavedHead, head_hash
from sparserm.representations.values import PairRepresentations
from sparserm.support.parsing import decimal_number, whole_number
from sparserm.types import PreferenceData, SparseRMError

#: Largest factor on a weight; larger ones only round the other features' contributions away.
MAX_FACTOR = 1e6

#: Minimum reduction of the absolute length correlation for which switching a feature off is suggested.
LENGTH_GAIN = 0.01


@dataclass(frozen=True)
class HeadEdits:
    """Factors on the weights of a head: 0 switches a feature off, -1 flips it, any other number rescales it.

    Attributes:
        factors: ``(feature, factor)`` sorted by feature; factors of 1 are left out, so that equal edits compare equal.
    """

    factors: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, factors: Mapping[int, float]) -> HeadEdits:
        """Build edits from factors by feature.

        Raises:
            SparseRMError: a factor is out of bounds.
        """
        for feature, factor in factors.items():
            if not (factor == 0 or 1 / MAX_FACTOR <= abs(factor) <= MAX_FACTOR):
                raise SparseRMError(
                    f"the factor of feature {feature} is {factor}; expected 0, or a number from {1 / MAX_FACTOR:g} to "
                    f"{MAX_FACTOR:,.0f} or its negative; give another one"
                )
        return cls(tuple(sorted((int(f), float(x) + 0.0) for f, x in factors.items() if x != 1)))

    @classmethod
    def parse(cls, text: str) -> HeadEdits:
        """Parse the output of ``str``, e.g. ``12:0,88:-1,7:0.5``.

        Raises:
            SparseRMError: the text is not in this format.
        """
        try:
            parts = [part.split(":") for part in text.split(",") if part.strip()]
            given = [(whole_number(feature), decimal_number(factor)) for feature, factor in parts]
        except ValueError:
            given = [(None, None)]
        factors = {feature: factor for feature, factor in given if feature is not None and factor is not None}
        if len(factors) < len(given):
            raise SparseRMError(f"edits {text!r} cannot be read; expected feature:factor separated by commas, e.g. 12:0,88:-1")
        return cls.of(factors)

    def __str__(self) -> str:
        return ",".join(f"{feature}:{factor:.10g}" for feature, factor in self.factors)

    def change(self, feature: int, factor: float) -> HeadEdits:
        """The same edits with one feature's factor replaced."""
        return HeadEdits.of({**dict(self.factors), feature: factor})

    def vector(self, features: np.ndarray) -> np.ndarray:
        """``[K]`` float64 factors, one for each of a head's features.

        Raises:
            SparseRMError: the edits name a feature that the head does not have.
        """
        known = {int(feature): j for j, feature in enumerate(features)}
        factors = np.ones(len(features))
        for feature, factor in self.factors:
            if feature not in known:
                raise SparseRMError(f"the head has no feature {feature}; expected one of {', '.join(map(str, sorted(known)))}")
            factors[known[feature]] = factor
        return factors


@dataclass(frozen=True)
class HeldOutScores:
    """Alignment scores of held-out pairs, computed once for a head and a source of pairs.

    Attributes:
        head: the head before any edit.
        data: name of the source.
        rows: ``[n]`` int64 indices of the held-out pairs in the source; the others share a prompt with the training pairs.
        n_seen: number of pairs left out for that reason.
        pairs: the representations of the ``n`` pairs, without latents.
        chosen, rejected: ``[n, K]`` float64 standardised alignment scores.
        differences: ``[n, K]`` float64, chosen minus rejected.
        lengths: ``[2n]`` float64 log lengths of all chosen, then all rejected responses.
        gaps: ``[n]`` float64 log length of chosen minus that of rejected.
    """

    head: RewardHead
    data: str
    rows: np.ndarray
    n_seen: int
    pairs: PairRepresentations
    chosen: np.ndarray
    rejected: np.ndarray
    differences: np.ndarray
    lengths: np.ndarray
    gaps: np.ndarray


@dataclass(frozen=True)
class EditOutcome:
    """Accuracy, length correlation and margins of an edited head on the held-out pairs.

    Attributes:
        margins: ``[n]`` float64, reward of chosen minus reward of rejected.
    """

    evaluation: Evaluation
    length: LengthCorrelation
    margins: np.ndarray


@dataclass(frozen=True)
class EditEffect:
    """Change from the original head to the edited one.

    Attributes:
        accuracy_change, ci95: accuracy after minus before, with a paired 95 % bootstrap interval over prompts.
        regressed, fixed: indices into the held-out pairs of those that regressed (right before, wrong after) and those that
            were fixed, largest change of margin first.
    """

    accuracy_change: float
    ci95: tuple[float, float]
    regressed: np.ndarray
    fixed: np.ndarray


@dataclass(frozen=True)
class FeatureAblation:
    """Ablation of each feature of an edited head, arrays ``[K]`` in the head's order.

    Attributes:
        accuracy_change: change of accuracy when this feature is switched off as well; negative if the head needs it.
        length_correlation: Spearman correlation of the feature's contribution to margins with length gaps; positive if
            it favours longer responses.
        length_without: the head's ``margin_spearman`` when this feature is switched off as well.
    """

    features: np.ndarray
    accuracy_change: np.ndarray
    length_correlation: np.ndarray
    length_without: np.ndarray


def read_factors(off: Sequence[str], flip: Sequence[str], scale: Sequence[str]) -> HeadEdits:
    """Parse command-line options: ``off`` and ``flip`` as ``12,88``, ``scale`` as ``9=0.5,12=2``.

    Raises:
        SparseRMError: an option cannot be parsed, or a feature is named twice.
    """
    factors: dict[int, float] = {}
    given = [("--off", text, "0") for text in off] + [("--flip", text, "-1") for text in flip]
    for option, text, factor in [*given, *(("--scale", text, "") for text in scale)]:
        for part in text.split(","):
            feature, _, value = part.partition("=")
            number, times = whole_number(feature.strip()), decimal_number((factor or value).strip())
            if number is None or times is None or (value and factor):
                example = "9=0.5,12=2" if option == "--scale" else "12,88"
                raise SparseRMError(f"{option} {text!r} cannot be read at {part!r}; expected e.g. {option} {example}")
            if number in factors:
                raise SparseRMError(f"feature {number} is named twice; give it once, in --off, --flip or --scale")
            factors[number] = times
    return HeadEdits.of(factors)


def edit_head(head: RewardHead, edits: HeadEdits) -> RewardHead:
    """The head with its weights multiplied; a feature that is switched off stays in the head with weight zero.

    Raises:
        SparseRMError: the edits name a feature that the head does not have.
    """
    return replace(head, weights=head.weights * edits.vector(head.features) + 0.0)  # + 0.0: no negative zeros


def held_out_scores(saved: SavedHead, data: PreferenceData, pairs: PairRepresentations) -> HeldOutScores:
    """Compute alignment scores of the pairs whose prompts the head was not trained on.

    Args:
        pairs: representations of ``data.pairs``, in the same order.

    Raises:
        SparseRMError: no pair is held out.
    """
    seen = saved.trained_on(data.pairs)
    rows = np.flatnonzero(~seen)
    if len(rows) == 0:
        raise SparseRMError(
            f"all {len(data.pairs):,} pairs of {data.name} have prompts that the head was trained on; expected held-out pairs; "
            "choose pairs with other prompts"
        )
    head = saved.head
    held_out = pairs.take(rows)
    scores = [(head_scores(head, side) - head.mu) / head.sigma for side in (held_out.chosen, held_out.rejected)]
    held_out = replace(
        held_out, chosen=replace(held_out.chosen, latents=None), rejected=replace(held_out.rejected, latents=None)
    )
    return HeldOutScores(
        head=head,
        data=data.name,
        rows=rows,
        n_seen=int(seen.sum()),
        pairs=held_out,
        chosen=scores[0],
        rejected=scores[1],
        differences=scores[0] - scores[1],
        lengths=held_out.log_lengths,
        gaps=held_out.length_gaps,
    )


def measure_edits(held_out: HeldOutScores, edits: HeadEdits) -> EditOutcome:
    """Held-out accuracy, mean margin and length correlation of the edited head."""
    weights = edit_head(held_out.head, edits).weights
    margins = held_out.differences @ weights
    rewards = np.concatenate([held_out.chosen @ weights, held_out.rejected @ weights])
    length = length_correlation(rewards, margins, held_out.lengths, held_out.gaps)
    return EditOutcome(evaluate_margins(margins, held_out.pairs), length, margins)


def compare_edits(held_out: HeldOutScores, before: EditOutcome, after: EditOutcome) -> EditEffect:
    """Change of accuracy, and which pairs regressed or were fixed; a tie counts as wrong."""
    was, now = before.margins > 0, after.margins > 0
    change = now.astype(np.float64) - was
    groups = held_out.pairs.groups
    enough = len(np.unique(groups)) > 1  # one prompt alone gives no interval
    order = np.argsort(-np.abs(after.margins - before.margins), kind="stable")
    return EditEffect(
        accuracy_change=float(change.mean()),
        ci95=bootstrap_interval(change, groups) if enough else (-1.0, 1.0),
        regressed=order[(was & ~now)[order]],
        fixed=order[(~was & now)[order]],
    )


def feature_ablation(held_out: HeldOutScores, edits: HeadEdits) -> FeatureAblation:
    """Leave-one-out ablation of all features at once."""
    parts = held_out.differences * edit_head(held_out.head, edits).weights
    margins = parts.sum(1)
    without = margins[:, None] - parts
    return FeatureAblation(
        features=held_out.head.features,
        accuracy_change=(without > 0).mean(0) - float((margins > 0).mean()),
        length_correlation=rank_correlations(parts, held_out.gaps),
        length_without=rank_correlations(without, held_out.gaps),
    )


def length_suggestions(ablation: FeatureAblation, outcome: EditOutcome, limit: int = 3) -> np.ndarray:
    """Features to switch off to reduce the length correlation, most effective first, as indices into the head's features.

    Empty if the length correlation of the margins is within two standard errors of zero.
    """
    if not abs(outcome.length.margin_spearman) > 2 / np.sqrt(max(1, len(outcome.margins) - 1)):
        return np.zeros(0, np.int64)
    gain = np.abs(outcome.length.margin_spearman) - np.abs(ablation.length_without)
    order = np.argsort(-np.nan_to_num(gain, nan=-1.0), kind="stable")[:limit]
    return order[np.nan_to_num(gain[order], nan=-1.0) >= LENGTH_GAIN]


def summarise_edits(held_out: HeldOutScores, edits: HeadEdits, data: PreferenceData) -> dict[str, Any]:
    """Plain values for the command line; an undefined correlation is None, pairs are given by their rows in the source."""
    before, after = measure_edits(held_out, HeadEdits()), measure_edits(held_out, edits)
    effect = compare_edits(held_out, before, after)

    def rows(which: np.ndarray) -> list[int]:
        return [data.pairs[i].row for i in held_out.rows[which]]

    return {
        "data": held_out.data,
        "n": after.evaluation.n,
        "n_prompts": after.evaluation.n_prompts,
        "n_seen_in_training": held_out.n_seen,
        "accuracy": after.evaluation.accuracy,
        "ci95": list(after.evaluation.ci95),
        "parent_accuracy": before.evaluation.accuracy,
        "accuracy_change": effect.accuracy_change,
        "accuracy_change_ci95": list(effect.ci95),
        "mean_margin": after.evaluation.mean_margin,
        "length_baseline": after.evaluation.length_baseline,
        "length_correlation": after.length.to_dict(),
        "parent_length_correlation": before.length.to_dict(),
        # Names of earlier versions, on which others may rely.
        "broken": rows(effect.regressed),
        "mended": rows(effect.fixed),
    }


def make_edited_head(
    parent: SavedHead, parent_name: str, edits: HeadEdits, name: str, held_out: HeldOutScores | None
) -> SavedHead:
    """The edited head with its lineage, ready to be saved; the parent is not changed.

    A head does not store the rewards of its training responses, so the reward percentiles of the edited head are taken from
    the held-out pairs. Without held-out pairs nothing is measured and the percentiles stay the parent's. The card records
    which.

    Raises:
        SparseRMError: no feature is edited, all are switched off, or the edits name a feature that the head does not have.
    """
    head = edit_head(parent.head, edits)
    if not edits.factors:
        raise SparseRMError("no feature is edited; switch one off, flip it or rescale it before saving a new head")
    if not head.weights.any():
        raise SparseRMError("every feature is off, and every response would get the same reward; leave at least one on")
    # The parent's training accuracy does not hold for the edited head.
    training = {key: value for key, value in parent.card.training.items() if key != "accuracy"}
    training["lineage"] = _lineage(parent, parent_name, edits)
    # The name of earlier versions for what the reference rewards are of; other versions read these heads.
    training["yardstick"] = "the parent's training responses, before the edits"
    edited = replace(parent, head=head, card=replace(parent.card, name=name, training=training, metrics={}))
    if held_out is None:
        return edited
    training["yardstick"] = f"responses of {held_out.data}, {len(held_out.rows):,} held-out pairs"
    percent = np.linspace(0, 100, 101)
    return replace(
        edited,
        card=replace(edited.card, metrics=_metrics(held_out, edits)),
        quantiles_chosen=np.percentile(held_out.chosen @ head.weights + head.bias, percent),
        quantiles_rejected=np.percentile(held_out.rejected @ head.weights + head.bias, percent),
    )


def _lineage(parent: SavedHead, parent_name: str, edits: HeadEdits) -> dict[str, Any]:
    lineage: dict[str, Any] = {
        "parent": parent_name,
        "parent_hash": head_hash(parent),
        "edits": {str(feature): factor for feature, factor in edits.factors},
    }
    earlier = parent.card.training.get("lineage")
    return {**lineage, "parent_lineage": earlier} if earlier else lineage


def _metrics(held_out: HeldOutScores, edits: HeadEdits) -> dict[str, Any]:
    found = measure_edits(held_out, edits).evaluation
    return {
        "accuracy": found.accuracy,
        "ci95": list(found.ci95),
        "n": found.n,
        "measured_on": f"{held_out.data}, also used to choose the edits",
        "length_baseline": found.length_baseline,
        "parent_accuracy": measure_edits(held_out, HeadEdits()).evaluation.accuracy,
    }

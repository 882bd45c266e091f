"""How far the shipped heads follow length: ``python -m benchmarks.length``.

For each task's default head, on its test file: the correlation of margins with length, and the accuracy when length does not
help, of the unchanged head, of the head with the features that track length switched off, and of a head trained with
``avoid_length``. Layer, pooling and K are the head's. Nothing is chosen on the test file: which features track length is
measured on the training responses, and ``avoid_length`` was chosen from several methods by cross-validation over the training
prompts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.common import task_pairs, write_results
from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import cross_validated_margins, evaluate_margins
from sparserm.evaluation.intervals import bootstrap_interval, rank_correlations
from sparserm.evaluation.length import TRACKS, length_balanced, length_correlation
from sparserm.evaluation.report import MATCHED, slices
from sparserm.heads.fitting import fit_head, fit_settings
from sparserm.heads.reward import RewardHead, head_scores, rewards
from sparserm.heads.saved import SavedHead, load_head
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, TASKS
from sparserm.training.editing import HeadEdits, edit_head
from sparserm.types import PreferenceData


def margin_figures(margins: np.ndarray, pairs: PairRepresentations) -> dict[str, Any]:
    """Accuracy on all pairs, on length-matched pairs and balanced by length, and the correlation of margins with length."""
    nothing = np.zeros(len(margins), bool)
    matched = next((one for one in slices(margins, pairs, [""] * len(margins), nothing) if one.name == MATCHED), None)
    balanced = length_balanced(margins, pairs.length_gaps, pairs.groups)
    return {
        **asdict(evaluate_margins(margins, pairs)),
        "margin_spearman": length_correlation(margins, margins, pairs.length_gaps, pairs.length_gaps).margin_spearman,
        "length_matched": asdict(matched) if matched else None,
        "length_balanced": asdict(balanced) if balanced else None,
    }


def head_figures(head: RewardHead, pairs: PairRepresentations, before: RewardHead) -> dict[str, Any]:
    """The same for a head, with the length correlation of its rewards and its change in accuracy from another head."""
    chosen, rejected = rewards(head, pairs.chosen), rewards(head, pairs.rejected)
    both, margins = np.concatenate([chosen, rejected]), chosen - rejected
    found = length_correlation(both, margins, pairs.log_lengths, pairs.length_gaps)
    was = rewards(before, pairs.chosen) > rewards(before, pairs.rejected)
    change = (margins > 0).astype(float) - was
    return {
        **margin_figures(margins, pairs),
        "length_correlation": found.to_dict(),
        "accuracy_change": float(change.mean()),
        "accuracy_change_ci95": list(bootstrap_interval(change, pairs.groups)),
    }


def measure(saved: SavedHead, train: PairRepresentations, test: PairRepresentations) -> dict[str, Any]:
    """Measure the unchanged head, the head without features that track length, and a head trained to avoid length."""
    settings, sae = fit_settings(**saved.card.training["settings"]), load_sae(saved.card.sae)
    avoiding = replace(settings, avoid_length=True)
    tracking = feature_length_correlation(saved.head, train)
    features = saved.head.features[np.abs(tracking) >= TRACKS]
    off = edit_head(saved.head, HeadEdits.of(dict.fromkeys(features.tolist(), 0.0)))
    avoided = fit_head(train, sae, avoiding).head
    validation = {
        name: margin_figures(cross_validated_margins(train, sae, one), train)
        for name, one in (("as_it_is", settings), ("avoid_length", avoiding))
    }
    return {
        "layer": saved.card.hook_point.layer,
        "pooling": saved.head.pooling,
        "k": len(saved.head.features),
        "tracking": {str(f): float(r) for f, r in zip(saved.head.features, tracking, strict=True) if abs(r) >= TRACKS},
        "as_it_is": head_figures(saved.head, test, saved.head),
        "switched_off": head_figures(off, test, saved.head),
        "avoid_length": head_figures(avoided, test, saved.head),
        "shared_features": len(np.intersect1d(saved.head.features, avoided.features)),
        "validation": validation,
    }


def feature_length_correlation(head: RewardHead, train: PairRepresentations) -> np.ndarray:
    """``[K]`` Spearman correlation of each feature's alignment score with length over the training responses.

    NaN for a constant score. Features with ``abs(...) >= TRACKS`` track length.
    """
    scores = np.concatenate([head_scores(head, train.chosen), head_scores(head, train.rejected)])
    return rank_correlations(scores, train.log_lengths)


def _represent(saved: SavedHead, backbone: Backbone, data: PreferenceData) -> PairRepresentations:
    sae = load_sae(saved.card.sae)
    with stored() as store:
        gated = saved.head.score == "gated"
        found = represent_pairs(data.pairs, backbone, {sae.hook: sae}, saved.head.pooling, strengths=gated, store=store)
    return found[sae.hook]


def main() -> None:
    """Measure the default head of every task."""
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(DEFAULT_LAYERS))
    results = {}
    for task in TASKS:
        saved = load_head(task)
        train, test = (_represent(saved, backbone, task_pairs(task, split)) for split in ("train", "test"))
        results[task] = measure(saved, train, test)
        print(task, json.dumps(results[task]), flush=True)
    write_results("length", results)


if __name__ == "__main__":
    main()

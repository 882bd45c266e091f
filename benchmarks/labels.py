"""Automatic labels of the shipped heads' features: ``python -m benchmarks.labels``.

The local rule makes them from the training pairs of each head's task; they are written to ``assets/labels/<SAE>.auto.json``,
which the app shows. For a feature of several heads the better label is used. Counts and detection
scores go to ``benchmarks/results/labels.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import numpy as np

from benchmarks.common import ROOT, task_pairs, write_results
from sparserm.features.auto_labels import Rule, make_labels
from sparserm.heads.labels import AutoLabel, Detection, better_label, shipped_labels, write_auto_labels
from sparserm.heads.saved import list_heads
from sparserm.model import SparseRM
from sparserm.support.defaults import TASKS


def summary(labels: Iterable[AutoLabel]) -> dict[str, float | int | None]:
    """Counts and medians over the features of one head."""
    labels = list(labels)
    proposed = [label.detection for label in labels if label.detection]
    shown = [label.detection for label in labels if label.detection and label.text is not None]
    examples = [label.examples for label in labels if label.examples]
    return {
        "features": len(labels),
        "labelled": len(shown),
        "shown": _median(shown),
        "proposed": len(proposed),
        "proposed_median": _median(proposed),
        "proposed_above_chance": _above_chance(proposed),
        "examples": len(examples),
        "examples_median": _median(examples),
        "examples_above_chance": _above_chance(examples),
    }


def _median(scores: list[Detection]) -> float | None:
    return float(np.median([score.accuracy for score in scores])) if scores else None


def _above_chance(scores: list[Detection]) -> int:
    return sum(score.ci95[0] > 0.5 for score in scores)


def main() -> None:
    """Label the features of all shipped heads."""
    shutil.rmtree(ROOT / "assets" / "labels", ignore_errors=True)
    kept: dict[str, dict[int, AutoLabel]] = {}
    found = {}
    for name in (name for name, folder in list_heads().items() if folder.is_relative_to(ROOT / "assets")):
        model = SparseRM.from_pretrained(name)
        task = next(task for task in TASKS if name.startswith(task))
        labels = dict(make_labels(model, task_pairs(task, "train"), Rule()))
        best = kept.setdefault(model.card.sae_fingerprint, {})
        for feature, label in labels.items():
            best[feature] = better_label(best.get(feature), label)
        if name == task:
            found[task] = summary(labels.values())
        print(name, summary(labels.values()), flush=True)
    for fingerprint, labels in kept.items():
        write_auto_labels(shipped_labels(fingerprint), labels)
    write_results("labels", found)


if __name__ == "__main__":
    main()

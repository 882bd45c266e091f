"""Train and test the shipped heads: ``python -m benchmarks.heads [TASK ...]``.

Heads have the default settings and prefer features with a label (``benchmarks.labels``), unless that costs more than
:data:`TOLERANCE` in cross-validation over the training prompts, on two sets of folds. The head of the default layer is named
after the task, unless that of another layer ranks more than :data:`TIE` better. The test file is used only to test the finished
heads; nothing is chosen on it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import FILES, ROOT, read_results, task_pairs, write_results
from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import cross_validate_dense, evaluate_head, evaluate_margins
from sparserm.evaluation.baselines import dense_probe_margins, of_size, random_latents_accuracy
from sparserm.heads.bradley_terry import bradley_terry_loss
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head, make_saved_head
from sparserm.heads.saved import save_head
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, DEFAULT_LAYERS, MAX_FEATURES, TASKS
from sparserm.training.sweep import sweep_margins
from sparserm.types import PreferenceData

FOLD_SEEDS = (0, 1)
SETTINGS = FitSettings()
#: Loss of accuracy accepted for features that have a label.
TOLERANCE = 0.02
#: Accuracies that differ by no more count as the same: half a point.
TIE = 0.005


def represent(data: PreferenceData, backbone: Backbone, saes: Iterable[SparseAutoencoder]) -> dict[int, PairRepresentations]:
    """Representations of all layers from one pass of the backbone, with latent strengths."""
    with stored() as store:
        found = represent_pairs(
            data.pairs, backbone, {sae.hook: sae for sae in saes}, SETTINGS.pooling, strengths=True, store=store
        )
    return {hook.layer: pairs for hook, pairs in found.items()}


def choose(train: PairRepresentations, sae: SparseAutoencoder) -> tuple[FitSettings, dict[str, Any]]:
    """Choose whether features with a label are preferred; also returns the cross-validated results."""
    found = {}
    for named in (True, False):
        complete = replace(SETTINGS, named=named).for_sae(sae)
        wanted = (complete.selection, complete.k)
        found[named] = _figures([sweep_margins(train, sae, complete, [wanted], seed)[wanted] for seed in FOLD_SEEDS])
    named = found[True]["accuracy"] >= found[False]["accuracy"] - TOLERANCE
    dense = cross_validate_dense(train).accuracy
    return replace(SETTINGS, named=named), {**found[named], "unnamed": found[False], "dense_probe": dense}


def _figures(runs: list[np.ndarray]) -> dict[str, float]:
    """Mean accuracy and loss over the sets of folds."""
    accuracy, loss = [(margins > 0).mean() for margins in runs], [bradley_terry_loss(margins) for margins in runs]
    return {"accuracy": float(np.mean(accuracy)), "loss": float(np.mean(loss))}


def measure(
    fitted: FittedHead, train: PairRepresentations, test: PairRepresentations, sae: SparseAutoencoder
) -> dict[str, Any]:
    """Accuracies of a head and of the baselines on the test pairs; the paper's way has as many features, at most 32."""
    evaluation = evaluate_head(fitted.head, test)
    k = min(len(fitted.head.features), MAX_FEATURES)
    paper = FitSettings(k, SETTINGS.pooling, "frequency", score="projection")
    return {
        "accuracy": evaluation.accuracy,
        "ci95": list(evaluation.ci95),
        "n": evaluation.n,
        "dense_probe": evaluate_margins(dense_probe_margins(train, test), test).accuracy,
        "frequency": evaluate_head(fit_head(train, sae, paper).head, test).accuracy,
        "random_directions": random_latents_accuracy(train, test, sae, of_size(SETTINGS, fitted)),
        "length_baseline": evaluation.length_baseline,
    }


def make_heads(task: str, backbone: Backbone, saes: list[SparseAutoencoder]) -> dict[str, Any]:
    """Fit, test and save the heads of a task, one per layer."""
    train_data, test_data = task_pairs(task, "train"), task_pairs(task, "test")
    train, test = (represent(data, backbone, saes) for data in (train_data, test_data))
    chosen = {sae.hook.layer: choose(train[sae.hook.layer], sae) for sae in saes}
    accuracy = {layer: found["accuracy"] for layer, (_, found) in chosen.items()}
    best = max(accuracy, key=lambda layer: accuracy[layer] + TIE * (layer == DEFAULT_LAYER))
    print(task, "layer", best, chosen, flush=True)
    for folder in (ROOT / "assets" / "heads").glob(f"{task}*"):
        shutil.rmtree(folder)
    layers = {}
    for sae in saes:
        layer = sae.hook.layer
        settings, validation = chosen[layer]
        started = time.perf_counter()
        fitted = fit_head(train[layer], sae, settings)
        seconds = time.perf_counter() - started
        metrics = {"measured_on": test_data.name, **measure(fitted, train[layer], test[layer], sae)}
        saved = make_saved_head(fitted, train_data, backbone, sae, settings, name=task, metrics=metrics, licence=FILES[task][1])
        save_head(saved, ROOT / "assets" / "heads" / (task if layer == best else f"{task}-layer{layer}"))
        layers[layer] = {
            "pooling": SETTINGS.pooling,
            "k": len(fitted.head.features),
            "score": fitted.head.score,
            "fit_seconds": seconds,
            "named": settings.named,
            "validation": validation,
            **metrics,
        }
    return {"layer": best, "layers": layers}


def main() -> None:
    """Make the heads of the tasks given on the command line, or of all; results of other tasks are kept."""
    results = read_results("heads")
    saes = [load_sae(f"{DEFAULT_BACKBONE}/layer_{layer}") for layer in DEFAULT_LAYERS]
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(DEFAULT_LAYERS))
    for task in sys.argv[1:] or TASKS:
        results[task] = make_heads(task, backbone, saes)
        write_results("heads", results)
        print(task, json.dumps(results[task]), flush=True)


if __name__ == "__main__":
    main()

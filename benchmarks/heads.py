"""Train and test the shipped heads: ``python -m benchmarks.heads [TASK ...]``.

Layer, pooling and K are chosen by cross-validation over the training prompts, on two sets of folds: per layer the pooling
with the best head of the largest K, then the smallest K within half a point of that pooling's best. Scores are those of the
SAE's default: gated, with K as a maximum, where it is separable. Of the layers within half a point of the best, the head with
the fewest features is named after the task. The test file
is used only to test the finished heads; nothing is chosen on it.
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
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, MAX_FEATURES, TASKS
from sparserm.training.sweep import SIZES, sweep_margins
from sparserm.types import Pooling, PreferenceData

POOLINGS: tuple[Pooling, ...] = ("mean", "last")
FOLD_SEEDS = (0, 1)
#: Loss of accuracy accepted for fewer features: half a point.
TOLERANCE = 0.005
Represented = dict[Pooling, dict[int, PairRepresentations]]


def represent(data: PreferenceData, backbone: Backbone, saes: Iterable[SparseAutoencoder]) -> Represented:
    """Representations of all layers from one pass of the backbone; the second pooling is read from the store."""
    wanted = {sae.hook: sae for sae in saes}
    gated = any(sae.separable for sae in wanted.values())
    result: Represented = {}
    for pooling in POOLINGS:
        with stored() as store:
            found = represent_pairs(data.pairs, backbone, wanted, pooling, strengths=gated, store=store)
        result[pooling] = {hook.layer: pairs for hook, pairs in found.items()}
    return result


def choose(train: Represented, sae: SparseAutoencoder) -> tuple[FitSettings, dict[str, Any]]:
    """Choose pooling and K for one layer; also returns the cross-validated results."""
    found: dict[Pooling, dict[str, dict[str, float]]] = {}
    default = FitSettings().for_sae(sae)
    sizes = SIZES[default.score][1:]  # heads of four features are too small for every task
    for pooling in POOLINGS:
        pairs = train[pooling][sae.hook.layer]
        settings = replace(default, pooling=pooling)
        wanted = [(settings.selection, k) for k in sizes]
        runs = [sweep_margins(pairs, sae, settings, wanted, seed) for seed in FOLD_SEEDS]
        found[pooling] = {str(k): _figures([run[method, k] for run in runs]) for method, k in wanted}
        found[pooling]["dense_probe"] = {"accuracy": cross_validate_dense(pairs).accuracy}
    accuracy = {pooling: {k: found[pooling][str(k)]["accuracy"] for k in sizes} for pooling in POOLINGS}
    pooling = max(POOLINGS, key=lambda one: accuracy[one][sizes[-1]])
    k = next(k for k in sizes if accuracy[pooling][k] >= max(accuracy[pooling].values()) - TOLERANCE)
    return replace(default, k=k, pooling=pooling), {**found[pooling][str(k)], "by_pooling_and_k": found}


def _figures(runs: list[np.ndarray]) -> dict[str, float]:
    """Mean accuracy and loss over the sets of folds."""
    accuracy, loss = [(margins > 0).mean() for margins in runs], [bradley_terry_loss(margins) for margins in runs]
    return {"accuracy": float(np.mean(accuracy)), "loss": float(np.mean(loss))}


def measure(
    fitted: FittedHead, train: PairRepresentations, test: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings
) -> dict[str, Any]:
    """Accuracies of a head and of the baselines on the test pairs; the paper's way has as many features, at most 32."""
    evaluation = evaluate_head(fitted.head, test)
    k = min(len(fitted.head.features), MAX_FEATURES)
    paper = FitSettings(k, settings.pooling, "frequency", score="projection")
    return {
        "accuracy": evaluation.accuracy,
        "ci95": list(evaluation.ci95),
        "n": evaluation.n,
        "dense_probe": evaluate_margins(dense_probe_margins(train, test), test).accuracy,
        "frequency": evaluate_head(fit_head(train, sae, paper).head, test).accuracy,
        "random_directions": random_latents_accuracy(train, test, sae, of_size(settings, fitted)),
        "length_baseline": evaluation.length_baseline,
    }


def make_heads(task: str, backbone: Backbone, saes: list[SparseAutoencoder]) -> dict[str, Any]:
    """Choose, fit, test and save the heads of a task, one per layer."""
    train_data, test_data = task_pairs(task, "train"), task_pairs(task, "test")
    train = represent(train_data, backbone, saes)
    chosen = {sae.hook.layer: choose(train, sae) for sae in saes}
    good = max(found["accuracy"] for _, found in chosen.values()) - TOLERANCE
    best = min((layer for layer in chosen if chosen[layer][1]["accuracy"] >= good), key=lambda layer: chosen[layer][0].k or 0)
    print(task, "layer", best, {layer: (settings, found) for layer, (settings, found) in chosen.items()}, flush=True)
    test = represent(test_data, backbone, saes)
    for folder in (ROOT / "assets" / "heads").glob(f"{task}*"):
        shutil.rmtree(folder)
    layers = {}
    for sae in saes:
        layer = sae.hook.layer
        settings, validation = chosen[layer]
        pairs = train[settings.pooling][layer]
        started = time.perf_counter()
        fitted = fit_head(pairs, sae, settings)
        seconds = time.perf_counter() - started
        metrics = {"measured_on": test_data.name, **measure(fitted, pairs, test[settings.pooling][layer], sae, settings)}
        saved = make_saved_head(fitted, train_data, backbone, sae, settings, name=task, metrics=metrics, licence=FILES[task][1])
        save_head(saved, ROOT / "assets" / "heads" / (task if layer == best else f"{task}-layer{layer}"))
        layers[layer] = {
            "pooling": settings.pooling,
            "k": len(fitted.head.features),
            "score": fitted.head.score,
            "fit_seconds": seconds,
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

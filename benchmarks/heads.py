"""Train and measure the shipped heads: ``python -m benchmarks.heads [TASK ...]``.

Layer, pooling and K are chosen by cross-validation over the training prompts, the mean over several sets of folds: for every
layer the pooling whose heads rank best on average over K, then the smallest K within half a point of the layer's best; of
the layers within half a point of the best one, that of fewest features gets the task's own name. The test file is read for
the figures of the finished heads, and nothing is chosen by it.
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

from benchmarks.common import FILES, RESULTS, ROOT, task_pairs, write_results
from sparserm.backbone import Backbone
from sparserm.card import save_head
from sparserm.defaults import DEFAULT_BACKBONE, DEFAULT_LAYERS, MAX_FEATURES, TASKS
from sparserm.evaluate import (
    cross_validate,
    cross_validate_dense,
    dense_probe_margins,
    evaluate_head,
    evaluate_margins,
    random_directions_accuracy,
)
from sparserm.fitting import FitSettings, fit_head
from sparserm.representations import represent_pairs
from sparserm.sae import SparseAutoencoder, load_sae
from sparserm.store import stored
from sparserm.training import make_saved_head
from sparserm.types import PairRepresentations, Pooling, PreferenceData

POOLINGS: tuple[Pooling, ...] = ("mean", "last")
SIZES = (8, 12, 16, 24, MAX_FEATURES)
FOLD_SEEDS = (0, 1)
#: Accuracy given up for fewer features: half a point.
TOLERANCE = 0.005
Represented = dict[Pooling, dict[int, PairRepresentations]]


def represent(data: PreferenceData, backbone: Backbone, saes: Iterable[SparseAutoencoder]) -> Represented:
    """Every layer from one pass of the backbone; the second pooling comes from the store."""
    wanted = {sae.hook: sae for sae in saes}
    result: Represented = {}
    for pooling in POOLINGS:
        with stored() as store:
            found = represent_pairs(data.pairs, backbone, wanted, pooling, store=store)
        result[pooling] = {hook.layer: pairs for hook, pairs in found.items()}
    return result


def choose(train: Represented, sae: SparseAutoencoder) -> tuple[FitSettings, dict[str, Any]]:
    """Pooling and K for one layer, and the cross-validated accuracies that speak for them."""
    layer = sae.hook.layer
    found: dict[Pooling, dict[str, float]] = {}
    for pooling in POOLINGS:
        pairs = train[pooling][layer]
        dense = [cross_validate_dense(pairs, 0.1, fold_seed=seed).accuracy for seed in FOLD_SEEDS]
        found[pooling] = {"dense_probe": float(np.mean(dense))}
        for k in SIZES:
            runs = [cross_validate(pairs, sae, FitSettings(k, pooling), fold_seed=seed).accuracy for seed in FOLD_SEEDS]
            found[pooling][str(k)] = float(np.mean(runs))
    pooling = max(POOLINGS, key=lambda one: sum(found[one][str(k)] for k in SIZES))
    best = max(found[pooling][str(k)] for k in SIZES)
    k = next(k for k in SIZES if found[pooling][str(k)] >= best - TOLERANCE)
    return FitSettings(k, pooling), {"accuracy": found[pooling][str(k)], "by_pooling_and_k": found}


def choose_layer(chosen: dict[int, tuple[FitSettings, dict[str, Any]]]) -> int:
    """Of the layers within half a point of the best, that of fewest features; of several such the best."""
    accuracy = {layer: found["accuracy"] for layer, (_, found) in chosen.items()}
    near = [layer for layer in chosen if accuracy[layer] >= max(accuracy.values()) - TOLERANCE]
    return min(near, key=lambda layer: (chosen[layer][0].k, -accuracy[layer]))


def measure(
    train: PairRepresentations, test: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings
) -> dict[str, Any]:
    """Accuracies on the test pairs of a head and of what stands beside it."""
    evaluation = evaluate_head(fit_head(train, sae, settings).head, test)
    return {
        "accuracy": evaluation.accuracy,
        "ci95": list(evaluation.ci95),
        "n": evaluation.n,
        "dense_probe": evaluate_margins(dense_probe_margins(train, test), test).accuracy,
        "frequency": evaluate_head(fit_head(train, sae, replace(settings, selection="frequency")).head, test).accuracy,
        "random_directions": random_directions_accuracy(train, test, sae, settings),
        "length_baseline": evaluation.length_baseline,
    }


def make_heads(task: str, backbone: Backbone, saes: list[SparseAutoencoder]) -> dict[str, Any]:
    """Choose, fit, measure and write the heads of a task, one for each layer."""
    train_data, test_data = task_pairs(task, "train"), task_pairs(task, "test")
    train = represent(train_data, backbone, saes)
    chosen = {sae.hook.layer: choose(train, sae) for sae in saes}
    best = choose_layer(chosen)
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
        metrics = {"measured_on": test_data.name, **measure(pairs, test[settings.pooling][layer], sae, settings)}
        saved = make_saved_head(fitted, train_data, backbone, sae, settings, name=task, metrics=metrics, licence=FILES[task][1])
        save_head(saved, ROOT / "assets" / "heads" / (task if layer == best else f"{task}-layer{layer}"))
        layers[layer] = {
            "pooling": settings.pooling, "k": settings.k, "fit_seconds": seconds, "validation": validation, **metrics
        }  # fmt: skip
    return {"layer": best, "layers": layers}


def main() -> None:
    """Make the heads of the tasks named on the command line, or of all; figures of the others are kept."""
    path = RESULTS / "heads.json"
    results = json.loads(path.read_text())["results"] if path.is_file() else {}
    saes = [load_sae(f"{DEFAULT_BACKBONE}/layer_{layer}") for layer in DEFAULT_LAYERS]
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=max(DEFAULT_LAYERS))
    for task in sys.argv[1:] or TASKS:
        results[task] = make_heads(task, backbone, saes)
        write_results("heads", results)
        print(task, json.dumps(results[task]), flush=True)


if __name__ == "__main__":
    main()

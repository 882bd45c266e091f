"""Train and measure the shipped heads: ``python -m benchmarks.heads [TASK ...]``.

Pooling is chosen by cross-validation over the training prompts: one whose sparse head stays within two points of the dense
probe before one that does not, then the more accurate. The test file is read once, for the last line.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

from benchmarks.common import FILES, RESULTS, ROOT, task_pairs, write_results
from sparserm.card import save_head
from sparserm.defaults import TASKS
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
from sparserm.store import stored
from sparserm.training import load_parts, make_saved_head


def measure(task: str) -> dict[str, Any]:
    """Choose, fit, measure, and write the head of a task."""
    train_data, test_data = task_pairs(task, "train"), task_pairs(task, "test")
    sae, backbone = load_parts("smollm2", None, None)
    validation, represented = {}, {}
    for pooling in ("mean", "last"):
        with stored() as store:
            represented[pooling] = represent_pairs(train_data.pairs, backbone, {sae.hook: sae}, pooling, store=store)[sae.hook]
        sparse = cross_validate(represented[pooling], sae, FitSettings(pooling=pooling)).accuracy
        dense = cross_validate_dense(represented[pooling], 0.1).accuracy
        validation[pooling] = {"sparse": sparse, "dense_probe": dense}
        print(task, pooling, validation[pooling], flush=True)
    best = max(validation, key=lambda one: _rank(**validation[one]))
    settings = FitSettings(pooling=best)
    train = represented[best]
    with stored() as store:
        test = represent_pairs(test_data.pairs, backbone, {sae.hook: None}, best, store=store)[sae.hook]
    started = time.perf_counter()
    fitted = fit_head(train, sae, settings)
    seconds = time.perf_counter() - started
    evaluation = evaluate_head(fitted.head, test)
    metrics: dict[str, Any] = {
        "accuracy": evaluation.accuracy, "ci95": list(evaluation.ci95), "n": evaluation.n, "measured_on": test_data.name,
        "dense_probe": evaluate_margins(dense_probe_margins(train, test), test).accuracy,
        "frequency": evaluate_head(fit_head(train, sae, replace(settings, selection="frequency")).head, test).accuracy,
        "random_directions": random_directions_accuracy(train, test, sae, settings),
        "length_baseline": evaluation.length_baseline, "validation": validation,
    }  # fmt: skip
    saved = make_saved_head(fitted, train_data, backbone, sae, settings, name=task, metrics=metrics, licence=FILES[task][1])
    save_head(saved, ROOT / "assets" / "heads" / task)
    return {"pooling": best, "k": settings.k, "layer": sae.hook.layer, "fit_seconds": seconds, **metrics}


def _rank(sparse: float, dense_probe: float) -> tuple[bool, float]:
    return dense_probe - sparse <= 0.02, sparse


def main() -> None:
    """Measure the tasks named on the command line, or all of them; figures of the others are kept."""
    path = RESULTS / "heads.json"
    results = json.loads(path.read_text())["results"] if path.is_file() else {}
    for task in sys.argv[1:] or TASKS:
        results[task] = measure(task)
        write_results("heads", results)
        print(task, json.dumps(results[task]), flush=True)


if __name__ == "__main__":
    main()

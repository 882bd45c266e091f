"""Accuracy and cost of heads and of the alternatives: ``python -m benchmarks.quality [STAGE ...]``.

Stages, all of them resumable: ``rankers`` (all methods that need only representations), ``costs`` (cost of training a head
from texts), ``frozen`` (a classification head on the frozen backbone), ``full`` (full fine-tuning) and ``lora``. Results go
to ``benchmarks/results/quality.json``. Nothing is chosen here: layer, pooling and K are the package's defaults, learning
rates come from ``benchmarks.tuning``.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import RESULTS, task_pairs
from benchmarks.frozen import frozen_cells
from sparserm.backbone.model import Backbone
from sparserm.benchmark.results import Cell, Cost, Results, Task
from sparserm.benchmark.run import draw, fine_tune_cell, in_own_process, rank_cells, represent_material
from sparserm.finetuning.reward_model import FineTuningSettings
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.pairs.split import prompt_groups
from sparserm.representations.represent import represent_pairs
from sparserm.sae.autoencoder import load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS, home

SAE = f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}"

#: Task, number of pairs and seed of the fine-tuned models. Each takes minutes to hours on two cores, a minute on a GPU.
FULL = [(task, budget, seed) for budget in (100, 300) for seed in range(3) for task in TASKS]
FULL += [(task, 1000, seed) for seed in range(3) for task in TASKS]
LORA = [(task, 300, seed) for seed in range(3) for task in TASKS]
COSTS = [(task, budget) for budget in (100, 300) for task in TASKS] + [("truthfulness", 1000), ("safety", 1000)]


def results() -> Results:
    """The file of all results."""
    return Results(RESULTS / "quality.json")


def load_task(name: str) -> Task:
    """Load a task's training and test pairs."""
    return Task(name, task_pairs(name, "train"), task_pairs(name, "test"))


def rankers() -> Iterator[Cell]:
    """Every ranker at every budget, with five draws of the pairs."""
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER)
    sae = load_sae(SAE)
    for task in map(load_task, TASKS):
        results().describe(task, backbone=backbone.fingerprint, sae=sae.fingerprint, hook=sae.hook.name)
        yield from rank_cells(results(), task.name, represent_material(task, backbone, sae))


def full() -> Iterator[Cell]:
    """Full fine-tuning; the models of 300 pairs are saved for ``benchmarks.shift``."""
    for task, budget, seed in FULL:
        keep = tuned_model(task) if (budget, seed) == (300, 0) else None
        yield from _fine_tune(FineTuningSettings.tuned("full", seed), task, budget, keep=keep)


def lora() -> Iterator[Cell]:
    """Fine-tuning with LoRA."""
    for task, budget, seed in LORA:
        yield from _fine_tune(FineTuningSettings.tuned("lora", seed), task, budget)


def frozen() -> Iterator[Cell]:
    """A classification head on the frozen backbone; the first run computes the last layer for all pairs."""
    backbone = Backbone.load(DEFAULT_BACKBONE)
    for task in map(load_task, TASKS):
        yield from frozen_cells(results(), task, backbone)


def costs() -> Iterator[Cost]:
    """Cost of training a head from texts."""
    for task, budget in COSTS:
        if cost := measure_cost(results(), load_task(task), SAE, budget):
            yield cost


def measure_cost(
    results: Results,
    task: Task,
    sae: str,
    budget: int | None,
    backbone: str = DEFAULT_BACKBONE,
    settings: FitSettings | None = None,
) -> Cost | None:
    """Measure the cost of a head in a separate process and add it to the results; None if it is there already."""
    if any((cost.task, cost.budget) == (task.name, budget) for cost in results.costs()):
        return None
    cost = in_own_process(_measure_cost, task, sae, budget, backbone, settings or FitSettings())
    results.add(cost)
    return cost


def _measure_cost(task: Task, sae: str, budget: int | None, backbone: str, settings: FitSettings) -> Cost:
    import resource

    importlib.import_module("sklearn.model_selection")  # loaded lazily by the fit: not to be timed with it

    pairs = [task.train.pairs[i] for i in draw(prompt_groups(task.train.pairs), budget, 0)]
    dictionary = load_sae(sae)
    model = Backbone.load(backbone, through_layer=dictionary.hook.layer)
    processor, started = time.process_time(), time.perf_counter()
    gated = settings.for_sae(dictionary).score == "gated"
    saes = {dictionary.hook: dictionary}
    represented = represent_pairs(pairs, model, saes, settings.pooling, strengths=gated)[dictionary.hook]
    read = time.perf_counter()
    fit_head(represented, dictionary, settings)
    done = time.perf_counter()
    return Cost(
        task.name,
        budget,
        len(pairs),
        sum(len(model.tokenize(pair.prompt, text).ids) for pair in pairs for text in (pair.chosen, pair.rejected)),
        read - started,
        done - read,
        time.process_time() - processor,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def tuned_model(task: str) -> Path:
    """Folder of the model that was fine-tuned on 300 pairs of a task."""
    return home() / "benchmarks" / f"{task}-full-300"


def _fine_tune(settings: FineTuningSettings, task: str, budget: int, keep: Path | None = None) -> Iterator[Cell]:
    if cell := fine_tune_cell(results(), load_task(task), settings, budget, keep=keep):
        yield cell


STAGES: dict[str, Callable[[], Iterator[Cell | Cost]]] = {
    "frozen": frozen,
    "rankers": rankers,
    "costs": costs,
    "full": full,
    "lora": lora,
}


def main() -> None:
    """Run the stages given on the command line, or all."""
    for stage in sys.argv[1:] or STAGES:
        for row in STAGES[stage]():
            print(" ".join(f"{name}={value}" for name, value in vars(row).items() if name != "correct"), flush=True)


if __name__ == "__main__":
    main()

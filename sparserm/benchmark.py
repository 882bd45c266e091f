"""How good ways to learn from the same few pairs are: cells of task, way, budget and seed, kept as they end.

A run that was stopped goes on where it was: a cell that is in the results is not computed again.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import torch

from sparserm.backbone import Backbone
from sparserm.benchmark_results import Cell, Cost, Results, Task
from sparserm.defaults import DEFAULT_BACKBONE
from sparserm.evaluate import share_interval
from sparserm.fine_tuning import TUNED, FineTunedRewardModel, FineTuningSettings, Way, fine_tune, train_classification_head
from sparserm.fitting import FitSettings, fit_head, gather_evidence
from sparserm.head_facts import head_facts
from sparserm.pairs import prompt_groups
from sparserm.rankers import RANKERS, Material
from sparserm.representations import represent_pairs
from sparserm.sae import SparseAutoencoder, load_sae
from sparserm.store import stored
from sparserm.training import load_parts
from sparserm.types import HookPoint, PairRepresentations, Pooling, PreferencePair, Progress, Representations, SparseRMError

#: Label budgets in pairs; None takes all.
BUDGETS: tuple[int | None, ...] = (100, 300, 1000, None)
SEEDS = 5
_T = TypeVar("_T")


def draw(groups: np.ndarray, budget: int | None, seed: int) -> np.ndarray:
    """Rows of ``budget`` pairs: prompts in the seed's order, with all their pairs, the last one's cut."""
    prompts, numbers = np.unique(groups, return_inverse=True)
    place = np.empty(len(prompts), np.int64)
    place[np.random.default_rng(seed).permutation(len(prompts))] = np.arange(len(prompts))
    return np.argsort(place[numbers], kind="stable")[:budget]


def read_budgets(text: str) -> tuple[int | None, ...]:
    """``100,300,all`` as budgets.

    Raises:
        SparseRMError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (part.isdecimal() and int(part) >= 2) for part in parts):
        raise SparseRMError(f"the budgets are {text!r}; expected numbers of pairs from 2 up, or all, e.g. 100,300,all")
    return tuple(dict.fromkeys(None if part == "all" else int(part) for part in parts))


def run_benchmark(
    results: Results,
    task: Task,
    *,
    sae: str,
    backbone: str = DEFAULT_BACKBONE,
    budgets: Sequence[int | None] = BUDGETS,
    seeds: int = SEEDS,
    fine_tuned: Sequence[str] = (),
    progress: Progress | None = None,
) -> None:
    """Every ranker on a user's pairs, what else there is to know of the head trained on all of them, and fine-tuning where it
    is wanted: one seed, the rates of :data:`TUNED`.

    Raises:
        SparseRMError: SAE and backbone do not go together, or a way of fine-tuning is unknown.
    """
    if unknown := [way for way in fine_tuned if way not in get_args(Way)]:
        raise SparseRMError(f"fine-tuning {unknown[0]!r} is unknown; expected one of {', '.join(get_args(Way))}")
    dictionary, model = load_parts(backbone, sae, None, progress)
    results.describe(task, backbone=model.fingerprint, sae=dictionary.fingerprint, hook=dictionary.hook.name)
    material = represent_material(task, model, dictionary, progress)
    total = len(RANKERS) * seeds * len(fitting_budgets(budgets, len(task.train.pairs)))
    for done, _ in enumerate(rank_cells(results, task.name, material, budgets=budgets, seeds=seeds), 1):
        if progress:
            progress(done, total, "Benchmark (cells)")
    settings = FitSettings(pooling=material.pooling)
    # Where fewer latents fire than a head has features there is none, and its cells are missing too.
    usable = gather_evidence(material.pairs[0], dictionary, settings).usable.sum()
    if results.head(task.name) is None and usable >= settings.k:
        facts = head_facts(*material.pairs, task.test.pairs, dictionary, model, settings, progress)
        results.add_head(task.name, {**asdict(facts), "length": facts.length.to_dict()})
    for way in fine_tuned:
        for budget in fitting_budgets(budgets, len(task.train.pairs)):
            fine_tune_cell(results, task, FineTuningSettings.tuned(cast("Way", way)), budget, backbone=backbone)


def represent_material(task: Task, backbone: Backbone, sae: SparseAutoencoder, progress: Progress | None = None) -> Material:
    """Representations of a task's pairs, both poolings; from the store where they are there."""

    def represent(pairs: Sequence[PreferencePair]) -> dict[Pooling, PairRepresentations]:
        with stored() as store:
            return {
                pooling: represent_pairs(
                    pairs, backbone, {sae.hook: sae}, pooling, strengths=True, store=store, progress=progress
                )[sae.hook]
                for pooling in get_args(Pooling)
            }

    return Material(represent(task.train.pairs), represent(task.test.pairs), sae)


def rank_cells(
    results: Results,
    task: str,
    material: Material,
    *,
    ways: Sequence[str] = tuple(RANKERS),
    budgets: Sequence[int | None] = BUDGETS,
    seeds: int = SEEDS,
) -> Iterator[Cell]:
    """Compute and keep the cells of rankers that are not there yet, and yield them."""
    n = len(material.pairs[0].groups)
    done = {cell.key for cell in results.cells()}
    for budget in fitting_budgets(budgets, n):
        for seed in range(seeds):
            for way in ways:
                needless = budget is None and seed > 0 and not way.startswith("random")  # nothing is drawn
                if (task, way, budget, seed) in done or needless:
                    continue
                if cell := _rank_cell(task, material, way, budget, seed):
                    results.add(cell)
                    yield cell


def _rank_cell(task: str, material: Material, way: str, budget: int | None, seed: int) -> Cell | None:
    rows = draw(material.pairs[0].groups, budget, seed)
    part = material.take(rows)
    started, processor = time.perf_counter(), time.process_time()
    try:
        ranking = RANKERS[way](part, seed)
    except SparseRMError:  # fewer latents fire in so few pairs than the head would have features
        return None
    seconds, cpu = time.perf_counter() - started, time.process_time() - processor
    groups = material.pairs[1].groups
    return _cell(task, way, budget, seed, ranking.margins, groups, len(rows), ranking.n_parameters, seconds, cpu)


def fine_tune_cell(
    results: Results,
    task: Task,
    settings: FineTuningSettings,
    budget: int | None,
    *,
    keep: Path | None = None,
    backbone: str = DEFAULT_BACKBONE,
) -> Cell | None:
    """Compute and keep one cell of fine-tuning in a process of its own, unless it is there.

    Args:
        keep: folder to save the trained model to.
    """
    if (task.name, settings.way, budget, settings.seed) in {cell.key for cell in results.cells()}:
        return None
    cell = _alone(_fine_tune_cell, task, settings, budget, keep, backbone)
    results.add(cell)
    return cell


def frozen_cells(
    results: Results,
    task: Task,
    backbone: Backbone,
    *,
    budgets: Sequence[int | None] = BUDGETS,
    seeds: int = SEEDS,
    progress: Progress | None = None,
) -> Iterator[Cell]:
    """Compute and keep the cells of a classification head on the frozen backbone that are not there yet.

    Args:
        backbone: with all of its layers.
    """
    train, test = (final_states(pairs, backbone, progress) for pairs in (task.train.pairs, task.test.pairs))
    groups, test_groups = prompt_groups(task.train.pairs), prompt_groups(task.test.pairs)
    done = {cell.key for cell in results.cells()}
    for budget in fitting_budgets(budgets, len(groups)):
        for seed in range(seeds):
            if (task.name, "frozen", budget, seed) in done:
                continue
            rows = draw(groups, budget, seed)
            started, processor = time.perf_counter(), time.process_time()
            weights = train_classification_head(train[0][rows], train[1][rows], *TUNED["frozen"], seed)
            seconds, cpu = time.perf_counter() - started, time.process_time() - processor
            margins = (test[0] - test[1]) @ weights
            cell = _cell(task.name, "frozen", budget, seed, margins, test_groups, len(rows), len(weights), seconds, cpu)
            results.add(cell)
            yield cell


def final_states(
    pairs: Sequence[PreferencePair], backbone: Backbone, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``[n, d]`` float32 of chosen and of rejected: what a classification head of Transformers reads, the state of the last
    token after the final norm. The backbone needs all of its layers; they are read once and stored."""
    hook = HookPoint(backbone.n_layers - 1)
    with stored() as store:
        last = represent_pairs(pairs, backbone, {hook: None}, "last", store=store, progress=progress)[hook]

    def normed(side: Representations) -> np.ndarray:
        with torch.inference_mode():
            states = backbone.model.norm(torch.tensor(side.h, dtype=backbone.dtype, device=backbone.device))
        return np.asarray(states.float().cpu().numpy())

    return normed(last.chosen), normed(last.rejected)


def measure_cost(
    results: Results,
    task: Task,
    sae: str,
    budget: int | None,
    backbone: str = DEFAULT_BACKBONE,
    settings: FitSettings = FitSettings(),  # noqa: B008  (frozen)
) -> Cost | None:
    """Measure and keep what a head costs, unless that is known."""
    if any((cost.task, cost.budget) == (task.name, budget) for cost in results.costs()):
        return None
    cost = _alone(_measure_cost, task, sae, budget, backbone, settings)
    results.add(cost)
    return cost


def _measure_cost(task: Task, sae: str, budget: int | None, backbone: str, settings: FitSettings) -> Cost:
    import resource

    import sklearn.model_selection  # noqa: F401  (the figure is of the fit, not of an import)

    pairs = [task.train.pairs[i] for i in draw(prompt_groups(task.train.pairs), budget, 0)]
    dictionary = load_sae(sae)
    model = Backbone.load(backbone, through_layer=dictionary.hook.layer)
    processor, started = time.process_time(), time.perf_counter()
    represented = represent_pairs(pairs, model, {dictionary.hook: dictionary}, settings.pooling)[dictionary.hook]
    read = time.perf_counter()
    fit_head(represented, dictionary, settings)
    done = time.perf_counter()
    return Cost(
        task.name, budget, len(pairs),
        sum(len(model.tokenize(pair.prompt, text).ids) for pair in pairs for text in (pair.chosen, pair.rejected)),
        read - started, done - read, time.process_time() - processor,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )  # fmt: skip


def _alone(work: Callable[..., _T], *given: Any) -> _T:
    """In a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *given).result()


def fitting_budgets(budgets: Sequence[int | None], n: int) -> list[int | None]:
    """Those that there are pairs enough for; all pairs where a budget would take them all."""
    return [budget for budget in budgets if budget is None or budget < n]


def _fine_tune_cell(task: Task, settings: FineTuningSettings, budget: int | None, keep: Path | None, backbone: str) -> Cell:
    import resource

    rows = draw(prompt_groups(task.train.pairs), budget, settings.seed)
    model = fine_tune([task.train.pairs[i] for i in rows], settings, backbone)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if keep is not None:
        model.save(keep)
    found = score_cell(task, settings.way, model, budget, settings.seed, len(rows))
    return replace(found, peak_mb=peak, settings=asdict(settings))


def score_cell(
    task: Task, way: str, model: FineTunedRewardModel, budget: int | None, seed: int, n_train: int | None = None
) -> Cell:
    """The cell of a trained model; ``n_train`` is the budget where it is not given."""
    margins, groups = model.margins(task.test.pairs), prompt_groups(task.test.pairs)
    taken = n_train or budget or len(task.train.pairs)
    return _cell(task.name, way, budget, seed, margins, groups, taken, model.n_parameters, model.seconds, model.cpu_seconds)


def _cell(
    task: str,
    way: str,
    budget: int | None,
    seed: int,
    margins: np.ndarray,
    groups: np.ndarray,
    n_train: int,
    n_parameters: int,
    seconds: float,
    cpu_seconds: float,
) -> Cell:
    correct = margins > 0
    return Cell(
        task, way, budget, seed, float(correct.mean()), share_interval(correct, groups), n_train, len(correct),
        n_parameters, seconds, cpu_seconds, np.packbits(correct).tobytes().hex(),
    )  # fmt: skip

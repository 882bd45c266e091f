"""Run the benchmark: train methods on the same pairs at several label budgets, and measure them on the same test pairs.

A cell is one task, method (``way``), budget and seed. Cells are saved as they are computed, and a run that was stopped resumes
with the missing ones. For the head trained on all pairs, :func:`diagnose_head` adds length correlation, faithfulness of the
explanations and stability of the selection.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.benchmark.rankers import RANKERS, Material
from sparserm.benchmark.results import Cell, Results, Task
from sparserm.evaluation.intervals import accuracy_interval
from sparserm.evaluation.length import LengthBalanced, LengthCorrelation, length_balanced, length_correlation
from sparserm.explain.faithfulness import Faithfulness, measure_faithfulness
from sparserm.finetuning.reward_model import FineTunedRewardModel, FineTuningSettings, Way, fine_tune
from sparserm.heads.fitting import FitSettings, fit_head, fit_statistics
from sparserm.heads.inputs import load_parts
from sparserm.heads.reward import rewards
from sparserm.pairs.split import prompt_groups
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.support.parsing import whole_number
from sparserm.training.evidence import selection_stability
from sparserm.types import Pooling, PreferencePair, Progress, SparseRMError, Text

#: Default label budgets in pairs (None is all), and default number of seeds.
BUDGETS: tuple[int | None, ...] = (100, 300, 1000, None)
SEEDS = 5
#: Faithfulness is measured on the first ``PAIRS`` test pairs, and by steering along ``STEERED`` features, one pass each.
PAIRS, STEERED = 25, 2
_T = TypeVar("_T")


@dataclass(frozen=True)
class HeadDiagnostics:
    """Diagnostics of a head trained on all training pairs.

    Attributes:
        k: number of features.
        length: correlation of rewards and margins with length on the test pairs.
        balanced: length-balanced accuracy; None if no chosen response is longer, or none is shorter.
        faithfulness: faithfulness of the explanations on the first test pairs.
        jaccard: mean overlap of the features with those selected from resampled training prompts.
        chance: expected overlap of features drawn at random.
    """

    k: int
    length: LengthCorrelation
    balanced: LengthBalanced | None
    faithfulness: Faithfulness
    jaccard: float
    chance: float


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
    """Benchmark all rankers on a task, diagnose the head trained on all pairs, and fine-tune reward models if asked.

    Args:
        fine_tuned: ways of fine-tuning to include, each with one seed and the settings that
            :meth:`~sparserm.finetuning.reward_model.FineTuningSettings.tuned` gives.

    Raises:
        SparseRMError: the SAE and the backbone do not match, or a way of fine-tuning is unknown.
    """
    if unknown := [way for way in fine_tuned if way not in get_args(Way)]:
        raise SparseRMError(f"fine-tuning {unknown[0]!r} is unknown; expected one of {', '.join(get_args(Way))}")
    results.check(task)
    dictionary, model = load_parts(backbone, sae, None, progress)
    results.describe(task, backbone=model.fingerprint, sae=dictionary.fingerprint, hook=dictionary.hook.name)
    material = represent_material(task, model, dictionary, progress)
    total = len(RANKERS) * seeds * len(fitting_budgets(budgets, len(task.train.pairs)))
    for done, _ in enumerate(rank_cells(results, task.name, material, budgets=budgets, seeds=seeds), 1):
        if progress:
            progress(done, total, "Benchmark (cells)")
    settings = FitSettings(pooling=material.pooling).for_sae(dictionary)
    # If fewer latents fire than a head has features, no head can be fitted and its cells are missing too.
    usable = fit_statistics(material.pairs[0], dictionary, settings).usable.sum()
    enough = usable >= (settings.k if settings.score == "projection" else 1)
    if results.head(task.name) is None and enough:
        found = diagnose_head(*material.pairs, task.test.pairs, dictionary, model, settings, progress)
        results.add_head(task.name, {**asdict(found), "length": found.length.to_dict()})
    for way in fine_tuned:
        for budget in fitting_budgets(budgets, len(task.train.pairs)):
            fine_tune_cell(results, task, FineTuningSettings.tuned(cast("Way", way)), budget, backbone=backbone)


def read_budgets(text: str) -> tuple[int | None, ...]:
    """Parse budgets such as ``100,300,all``.

    Raises:
        SparseRMError: the text is not in this format.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (whole_number(part) or 0) >= 2 for part in parts):
        raise SparseRMError(f"the budgets are {text!r}; expected numbers of pairs from 2 up, or all, e.g. 100,300,all")
    return tuple(dict.fromkeys(None if part == "all" else int(part) for part in parts))


def fitting_budgets(budgets: Sequence[int | None], n: int) -> list[int | None]:
    """The budgets below ``n`` pairs, and None (all pairs) if it is among them."""
    return [budget for budget in budgets if budget is None or budget < n]


def draw(groups: np.ndarray, budget: int | None, seed: int) -> np.ndarray:
    """Rows of ``budget`` pairs: whole prompts in the order drawn with ``seed``; the last prompt may be cut."""
    prompts, numbers = np.unique(groups, return_inverse=True)
    place = np.empty(len(prompts), np.int64)
    place[np.random.default_rng(seed).permutation(len(prompts))] = np.arange(len(prompts))
    return np.argsort(place[numbers], kind="stable")[:budget]


def represent_material(task: Task, backbone: Backbone, sae: SparseAutoencoder, progress: Progress | None = None) -> Material:
    """Representations of a task's pairs with both poolings, read from the store where available."""

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
    """Compute the ranker cells that are missing from the results; save and yield each."""
    n = len(material.pairs[0].groups)
    done = {cell.key for cell in results.cells()}
    for budget in fitting_budgets(budgets, n):
        for seed in range(seeds):
            for way in ways:
                needless = budget is None and seed > 0 and not way.startswith("random")  # deterministic: one seed is enough
                if (task, way, budget, seed) in done or needless:
                    continue
                if cell := _rank_cell(task, material, way, budget, seed):
                    results.add(cell)
                    yield cell


def fine_tune_cell(
    results: Results,
    task: Task,
    settings: FineTuningSettings,
    budget: int | None,
    *,
    keep: Path | None = None,
    backbone: str = DEFAULT_BACKBONE,
) -> Cell | None:
    """Compute and save one cell of fine-tuning in a separate process; None if it is in the results already.

    Args:
        keep: folder to save the trained model to.
    """
    if (task.name, settings.way, budget, settings.seed) in {cell.key for cell in results.cells()}:
        return None
    cell = in_own_process(_fine_tune_cell, task, settings, budget, keep, backbone)
    results.add(cell)
    return cell


def score_cell(
    task: Task, way: str, model: FineTunedRewardModel, budget: int | None, seed: int, n_train: int | None = None
) -> Cell:
    """The cell of a trained model; ``n_train`` defaults to the budget."""
    margins, groups = model.margins(task.test.pairs), prompt_groups(task.test.pairs)
    taken = n_train or budget or len(task.train.pairs)
    return measured_cell(
        task.name, way, budget, seed, margins, groups, taken, model.n_parameters, model.seconds, model.cpu_seconds
    )


def diagnose_head(
    train: PairRepresentations,
    test: PairRepresentations,
    texts: Sequence[PreferencePair],
    sae: SparseAutoencoder,
    backbone: Backbone,
    settings: FitSettings,
    progress: Progress | None = None,
) -> HeadDiagnostics:
    """Fit a head and compute its diagnostics.

    Args:
        texts: the pairs of ``test``, in the same order.

    Raises:
        SparseRMError: the pairs are too few for the head's features.
    """
    fitted = fit_head(train, sae, settings)
    chosen, rejected = rewards(fitted.head, test.chosen), rewards(fitted.head, test.rejected)
    margins = chosen - rejected
    explained = [Text(pair.prompt, text) for pair in texts[:PAIRS] for text in (pair.chosen, pair.rejected)]
    stability = selection_stability(fitted, train, sae, settings)
    return HeadDiagnostics(
        k=len(fitted.head.features),
        length=length_correlation(np.concatenate([chosen, rejected]), margins, test.log_lengths, test.length_gaps),
        balanced=length_balanced(margins, test.length_gaps, np.asarray(test.groups)),
        faithfulness=measure_faithfulness(
            fitted.head, sae.hook, explained, backbone, features=min(STEERED, len(fitted.head.features)), progress=progress
        ),
        jaccard=stability.jaccard,
        chance=stability.chance,
    )


def _rank_cell(task: str, material: Material, way: str, budget: int | None, seed: int) -> Cell | None:
    rows = draw(material.pairs[0].groups, budget, seed)
    part = material.take(rows)
    started, processor = time.perf_counter(), time.process_time()
    try:
        ranking = RANKERS[way](part, seed)
    except SparseRMError:  # fewer latents fire in these pairs than the head has features
        return None
    seconds, cpu = time.perf_counter() - started, time.process_time() - processor
    groups = material.pairs[1].groups
    return measured_cell(task, way, budget, seed, ranking.margins, groups, len(rows), ranking.n_parameters, seconds, cpu)


def _fine_tune_cell(task: Task, settings: FineTuningSettings, budget: int | None, keep: Path | None, backbone: str) -> Cell:
    import resource

    rows = draw(prompt_groups(task.train.pairs), budget, settings.seed)
    model = fine_tune([task.train.pairs[i] for i in rows], settings, backbone)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if keep is not None:
        model.save(keep)
    found = score_cell(task, settings.way, model, budget, settings.seed, len(rows))
    return replace(found, peak_mb=peak, settings=asdict(settings))


def in_own_process(work: Callable[..., _T], *given: Any) -> _T:
    """Run ``work`` in a separate process, so that its peak memory can be measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *given).result()


def measured_cell(
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
    """The result of one model from its test margins ``[n]``; a tie counts as wrong."""
    correct = margins > 0
    return Cell(
        task,
        way,
        budget,
        seed,
        float(correct.mean()),
        accuracy_interval(correct, groups),
        n_train,
        len(correct),
        n_parameters,
        seconds,
        cpu_seconds,
        np.packbits(correct).tobytes().hex(),
    )

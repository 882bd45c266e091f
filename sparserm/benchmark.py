"""How good ways to learn from the same few pairs are: cells of task, way, budget and seed, kept as they end.

A run that was stopped goes on where it was: a cell that is in the results is not computed again. The results are one JSON
file, written whole after every cell and safe with several processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from sparserm.backbone import Backbone
from sparserm.defaults import DEFAULT_BACKBONE
from sparserm.evaluate import accuracy_interval
from sparserm.fine_tuning import FineTuningSettings, fine_tune
from sparserm.fitting import FitSettings, fit_head
from sparserm.pairs import prompt_key
from sparserm.rankers import RANKERS, Material
from sparserm.representations import represent_pairs
from sparserm.sae import load_sae
from sparserm.types import PreferenceData, SparseRMError

#: Label budgets in pairs; None takes all.
BUDGETS: tuple[int | None, ...] = (100, 300, 1000, None)
SEEDS = 5
_T = TypeVar("_T")


@dataclass(frozen=True)
class Task:
    """Pairs to learn from and pairs of other prompts to be judged on."""

    name: str
    train: PreferenceData
    test: PreferenceData


@dataclass(frozen=True)
class Cell:
    """One way, trained on one draw of pairs and judged on the test pairs.

    Attributes:
        task: name of the data; ``way``: a ranker's or a fine-tuning's name; ``budget``: pairs, None for all.
        seed: of the draw of pairs, and of whatever else is drawn.
        accuracy: on the test pairs; ``ci95``: percentile bootstrap over their prompts.
        n_train, n_test: pairs.
        n_parameters: numbers that were learned.
        seconds: of training: for rankers the fit alone, from representations in memory.
        cpu_seconds: processor time of it, all threads, which other work on the machine moves less.
        peak_mb: largest resident memory of the process, where the cell had one of its own.
        correct: which test pairs were ranked as labelled, as hexadecimal bits: for paired comparisons.
        settings: of the fine-tuning.
        environment: which of the file's environments it was computed in.
    """

    task: str
    way: str
    budget: int | None
    seed: int
    accuracy: float
    ci95: tuple[float, float]
    n_train: int
    n_test: int
    n_parameters: int
    seconds: float
    cpu_seconds: float
    correct: str
    peak_mb: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    environment: str = ""

    @property
    def key(self) -> tuple[str, str, int | None, int]:
        """What makes it this cell and no other."""
        return self.task, self.way, self.budget, self.seed

    @property
    def bits(self) -> np.ndarray:
        """``[n_test]`` bool."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.correct), np.uint8))[: self.n_test].astype(bool)


@dataclass(frozen=True)
class Cost:
    """A head from the texts on: the backbone's pass over the pairs and the fit, in a process of its own, nothing stored.

    Attributes:
        n_tokens: of both responses with their prompts.
        backbone_seconds, fit_seconds: wall clock; ``cpu_seconds``: processor time of both.
        peak_mb: largest resident memory.
    """

    task: str
    budget: int | None
    n_pairs: int
    n_tokens: int
    backbone_seconds: float
    fit_seconds: float
    cpu_seconds: float
    peak_mb: float
    environment: str = ""


class Results:
    """The cells and costs of one JSON file, and of each task what it was made of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cells(self) -> list[Cell]:
        """All that are there.

        Raises:
            SparseRMError: the file is not one of ours.
        """
        return [Cell(**{**row, "ci95": tuple(row["ci95"])}) for row in self._read()["cells"]]

    def costs(self) -> list[Cost]:
        """All that are there."""
        return [Cost(**row) for row in self._read()["costs"]]

    def groups(self, task: str) -> np.ndarray:
        """``[n_test]`` the prompt of each test pair."""
        return np.array(self._read()["tasks"][task]["test"]["groups"])

    def describe(self, task: Task, **made_with: str) -> None:
        """Write what the task's cells are made of: data by name and hash, and fingerprints by name.

        Raises:
            SparseRMError: the file holds cells of other pairs under this name.
        """
        found = {"train": _described(task.train), "test": {**_described(task.test), "groups": _groups(task.test).tolist()}}

        def write(record: dict[str, Any]) -> None:
            known = record["tasks"].setdefault(task.name, {**found, **made_with})
            for part in ("train", "test"):
                if known[part]["hash"] != found[part]["hash"]:
                    raise SparseRMError(
                        f"{self.path} holds cells of {known[part]['name']} in another state for {task.name}; expected the same "
                        "pairs as before; give another --out, or delete the file"
                    )
            known |= made_with

        self._change(write)

    def add(self, row: Cell | Cost) -> None:
        """Write it, with the versions and the hardware that it was computed with."""

        def write(record: dict[str, Any]) -> None:
            name, found = environment()
            record["environments"][name] = found
            record["cells" if isinstance(row, Cell) else "costs"].append({**asdict(row), "environment": name})

        self._change(write)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """All of it or nothing, whoever else writes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            record = self._read()
            change(record)
            parts = [f'"environments": {json.dumps(record["environments"], indent=1)}']
            tasks = _lines(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in record["tasks"].items())
            parts.append(f'"tasks": {{\n{tasks}\n}}')
            for kind in ("costs", "cells"):
                parts.append(f'"{kind}": [\n{_lines(json.dumps(row) for row in record[kind])}\n]')
            temporary = self.path.with_suffix(f".{os.getpid()}")
            temporary.write_text("{" + ",\n".join(parts) + "}\n")
            os.replace(temporary, self.path)

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"environments": {}, "tasks": {}, "costs": [], "cells": []}
        try:
            record = json.loads(self.path.read_text())
            return {kind: record[kind] for kind in ("environments", "tasks", "costs", "cells")}
        except (ValueError, KeyError, TypeError) as error:
            raise SparseRMError(
                f"{self.path} holds no results of a benchmark ({type(error).__name__}); expected the JSON that one wrote; "
                "give another --out"
            ) from error


def environment() -> tuple[str, dict[str, Any]]:
    """What figures were computed with, and a short name for it."""
    import hashlib

    packages = ("sparserm", "torch", "transformers", "trl", "peft", "numpy", "scipy", "scikit-learn")
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8], found


def draw(groups: np.ndarray, budget: int | None, seed: int) -> np.ndarray:
    """Rows of ``budget`` pairs: prompts in the seed's order, with all their pairs, the last one's cut."""
    prompts, numbers = np.unique(groups, return_inverse=True)
    place = np.empty(len(prompts), np.int64)
    place[np.random.default_rng(seed).permutation(len(prompts))] = np.arange(len(prompts))
    return np.argsort(place[numbers], kind="stable")[:budget]


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
    results: Results, task: Task, settings: FineTuningSettings, budget: int | None, keep: Path | None = None
) -> Cell | None:
    """Compute and keep one cell of fine-tuning in a process of its own, unless it is there.

    Args:
        keep: folder to save the trained model to.
    """
    if (task.name, settings.way, budget, settings.seed) in {cell.key for cell in results.cells()}:
        return None
    cell = _alone(_fine_tune_cell, task, settings, budget, keep)
    results.add(cell)
    return cell


def measure_cost(results: Results, task: Task, sae: str, budget: int | None, backbone: str = DEFAULT_BACKBONE) -> Cost | None:
    """Measure and keep what a head of the default settings costs, unless that is known."""
    if any((cost.task, cost.budget) == (task.name, budget) for cost in results.costs()):
        return None
    cost = _alone(_measure_cost, task, sae, budget, backbone)
    results.add(cost)
    return cost


def _measure_cost(task: Task, sae: str, budget: int | None, backbone: str) -> Cost:
    import resource

    import sklearn.model_selection  # noqa: F401  (the figure is of the fit, not of an import)

    pairs = [task.train.pairs[i] for i in draw(_groups(task.train), budget, 0)]
    dictionary = load_sae(sae)
    model = Backbone.load(backbone, through_layer=dictionary.hook.layer)
    processor, started = time.process_time(), time.perf_counter()
    represented = represent_pairs(pairs, model, {dictionary.hook: dictionary}, FitSettings().pooling)[dictionary.hook]
    read = time.perf_counter()
    fit_head(represented, dictionary, FitSettings())
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


def _fine_tune_cell(task: Task, settings: FineTuningSettings, budget: int | None, keep: Path | None) -> Cell:
    import resource

    rows = draw(_groups(task.train), budget, settings.seed)
    model = fine_tune([task.train.pairs[i] for i in rows], settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if keep is not None:
        model.save(keep)
    found = _cell(
        task.name, settings.way, budget, settings.seed, model.margins(task.test.pairs), _groups(task.test), len(rows),
        model.n_parameters, model.seconds, model.cpu_seconds,
    )  # fmt: skip
    return Cell(**{**asdict(found), "peak_mb": peak, "settings": asdict(settings)})


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
        task, way, budget, seed, float(correct.mean()), accuracy_interval(correct, groups), n_train, len(correct),
        n_parameters, seconds, cpu_seconds, np.packbits(correct).tobytes().hex(),
    )  # fmt: skip


def _groups(data: PreferenceData) -> np.ndarray:
    """``[n]`` numbers of the prompts in the order in which they come, as representations have them."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(prompt_key(pair.prompt), len(numbers)) for pair in data.pairs])


def _described(data: PreferenceData) -> dict[str, Any]:
    return {"name": data.name, "hash": data.content_hash, "n": len(data.pairs)}


def _lines(rows: Iterable[str]) -> str:
    return ",\n".join(rows)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

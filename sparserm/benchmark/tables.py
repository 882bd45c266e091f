"""Summary tables of benchmark cells: means over draws of pairs, and paired differences between two methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.benchmark.results import Cell, Record
from sparserm.evaluation.intervals import mean_interval


@dataclass(frozen=True)
class Summary:
    """One method at one budget, aggregated over seeds.

    Attributes:
        accuracy: mean over seeds.
        ci95: bootstrap over the test prompts; includes the variance over draws of training pairs.
        seeds: number of seeds.
        lowest, highest: range of the accuracy over seeds.
        n_train, n_parameters, seconds, cpu_seconds: medians over seeds.
        peak_mb: maximum over seeds, None if not measured.
    """

    task: str
    way: str
    budget: int | None
    accuracy: float
    ci95: tuple[float, float]
    seeds: int
    lowest: float
    highest: float
    n_train: int
    n_parameters: int
    seconds: float
    cpu_seconds: float
    peak_mb: float | None


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus that of another, on the same training and test pairs.

    Attributes:
        mean: over the seeds that both have.
        ci95: bootstrap over the test prompts; includes the variance over draws of training pairs.
        seeds: number of seeds that both have.
    """

    task: str
    budget: int | None
    mean: float
    ci95: tuple[float, float]
    seeds: int


def summarise(record: Record, task: str, way: str, budget: int | None) -> Summary | None:
    """Summarise one method at one budget; None if there are no cells."""
    cells = _cells(record, task, way, budget)
    if not cells:
        return None
    low, high = mean_interval(np.stack([cell.bits for cell in cells]), record.groups[task])
    each = [cell.accuracy for cell in cells]
    peaks = [cell.peak_mb for cell in cells if cell.peak_mb is not None]

    def median(name: str) -> float:
        return float(np.median([getattr(cell, name) for cell in cells]))

    return Summary(
        task,
        way,
        budget,
        float(np.mean(each)),
        (max(0.0, low), min(1.0, high)),
        len(cells),
        min(each),
        max(each),
        round(median("n_train")),
        round(median("n_parameters")),
        median("seconds"),
        median("cpu_seconds"),
        max(peaks, default=None),
    )


def difference(record: Record, task: str, budget: int | None, way: str, other: str) -> Difference | None:
    """Paired difference ``way`` minus ``other``; None if they have no seed in common."""
    ours, theirs = ({cell.seed: cell for cell in _cells(record, task, name, budget)} for name in (way, other))
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    rows = np.stack([ours[seed].bits.astype(np.int8) - theirs[seed].bits.astype(np.int8) for seed in seeds])
    interval = mean_interval(rows, record.groups[task])
    return Difference(task, budget, float(rows.mean()), interval, len(seeds))


def table(record: Record, task: str) -> list[Summary]:
    """Summaries of every method at every budget, in the order in which they were computed."""
    return [
        found
        for way, budget in dict.fromkeys((cell.way, cell.budget) for cell in record.cells if cell.task == task)
        if (found := summarise(record, task, way, budget))
    ]


def _cells(record: Record, task: str, way: str, budget: int | None) -> list[Cell]:
    return [cell for cell in record.cells if (cell.task, cell.way, cell.budget) == (task, way, budget)]

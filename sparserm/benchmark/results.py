"""The cells of a benchmark and the file that keeps them, with what they were computed from and with.

The results are one JSON file, written whole after every cell and safe with several processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sparserm.pairs.split import prompt_groups
from sparserm.support.defaults import default_device
from sparserm.support.files import write_text
from sparserm.types import PreferenceData, SparseRMError


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


@dataclass(frozen=True)
class Record:
    """What tables are made from: all ``cells``, and of each task's test pairs the prompts, ``groups[task] [n_test]``."""

    cells: tuple[Cell, ...]
    groups: Mapping[str, np.ndarray]


class Results:
    """The cells and costs of one JSON file, and of each task what it was made of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cells(self) -> list[Cell]:
        """All that are there.

        Raises:
            SparseRMError: the file is not one of ours.
        """
        return list(self.read().cells)

    def costs(self) -> list[Cost]:
        """All that are there."""
        return [Cost(**row) for row in self._read()["costs"]]

    def environments(self) -> dict[str, dict[str, Any]]:
        """What cells were computed with, by the name that they give."""
        return dict(self._read()["environments"])

    def read(self) -> Record:
        """Cells and prompts in one reading.

        Raises:
            SparseRMError: the file is not one of ours.
        """
        record = self._read()
        groups = {name: np.array(task["test"]["groups"]) for name, task in record["tasks"].items()}
        return Record(tuple(_cell_of(row) for row in record["cells"]), groups)

    def describe(self, task: Task, **made_with: str) -> None:
        """Write what the task's cells are made of: data by name and hash, and fingerprints by name.

        Raises:
            SparseRMError: the file holds cells of other pairs under this name.
        """
        found = {
            "train": _described(task.train),
            "test": {**_described(task.test), "groups": prompt_groups(task.test.pairs).tolist()},
        }

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

    def head(self, task: str) -> dict[str, Any] | None:
        """What :meth:`add_head` wrote of the task."""
        found: dict[str, Any] | None = self._read()["heads"].get(task)
        return found

    def add_head(self, task: str, facts: dict[str, Any]) -> None:
        """Write what was measured of the task's head beside its accuracy."""

        def write(record: dict[str, Any]) -> None:
            name, found = environment()
            record["environments"][name] = found
            record["heads"][task] = {**facts, "environment": name}

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
            parts.append(f'"heads": {json.dumps(record["heads"], indent=1, allow_nan=False)}')
            for kind in ("costs", "cells"):
                parts.append(f'"{kind}": [\n{_lines(json.dumps(row) for row in record[kind])}\n]')
            write_text(self.path, "{" + ",\n".join(parts) + "}\n")

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"environments": {}, "tasks": {}, "heads": {}, "costs": [], "cells": []}
        try:
            record = json.loads(self.path.read_text())
            parts = {kind: record[kind] for kind in ("environments", "tasks", "costs", "cells")}
            return {"heads": record.get("heads", {}), **parts}
        except (ValueError, KeyError, TypeError) as error:
            raise SparseRMError(
                f"{self.path} holds no results of a benchmark ({type(error).__name__}); expected the JSON that one wrote; "
                "give another --out"
            ) from error


def environment() -> tuple[str, dict[str, Any]]:
    """What figures were computed with, the device of ``SPARSERM_DEVICE`` among it, and a short name for it."""
    packages = ("sparserm", "torch", "transformers", "trl", "peft", "numpy", "scipy", "scikit-learn")
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
    }
    if default_device().startswith("cuda"):
        import torch

        found["accelerator"] = torch.cuda.get_device_name(default_device())
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8], found


def _cell_of(row: Mapping[str, Any]) -> Cell:
    low, high = row["ci95"]
    return Cell(**{**row, "ci95": (low, high)})


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

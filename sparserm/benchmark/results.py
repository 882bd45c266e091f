"""Benchmark results: cells, costs and head diagnostics, with the data and the environments that they were computed with.

The results are one JSON file with a checksum, rewritten atomically after every cell; several processes may write to it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from sparserm.pairs.split import prompt_groups
from sparserm.support.defaults import default_device
from sparserm.support.files import one_line, write_text
from sparserm.support.parsing import parse_json
from sparserm.types import PreferenceData, SparseRMError

#: The entries of the file besides its checksum.
_ENTRIES = ("environments", "tasks", "heads", "costs", "cells")


@dataclass(frozen=True)
class Task:
    """Training pairs, and test pairs of other prompts."""

    name: str
    train: PreferenceData
    test: PreferenceData


@dataclass(frozen=True)
class Cell:
    """One method, trained on one draw of pairs and evaluated on the test pairs.

    Attributes:
        task: name of the data.
        way: name of a ranker or of a way of fine-tuning.
        budget: number of training pairs, None for all.
        seed: seed of the draw of pairs and of any other random draw.
        accuracy: on the test pairs.
        ci95: percentile bootstrap over the test prompts.
        n_train, n_test: numbers of pairs.
        n_parameters: number of learned parameters.
        seconds: training time; for rankers that of the fit alone, from representations in memory.
        cpu_seconds: CPU time of training over all threads, less sensitive to other load on the machine.
        correct: which test pairs were ranked as labelled, as hexadecimal bits, for paired comparisons.
        peak_mb: peak resident memory, if the cell was computed in a separate process.
        settings: settings of the fine-tuning.
        environment: name of the environment that it was computed in.
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
        """The fields that identify the cell."""
        return self.task, self.way, self.budget, self.seed

    @property
    def bits(self) -> np.ndarray:
        """``[n_test]`` bool, which test pairs were ranked as labelled."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.correct), np.uint8))[: self.n_test].astype(bool)


@dataclass(frozen=True)
class Cost:
    """Cost of a head from text: the backbone's pass over the pairs and the fit, in a separate process, without the store.

    Attributes:
        n_tokens: tokens of both responses with their prompts.
        backbone_seconds, fit_seconds: wall-clock time.
        cpu_seconds: CPU time of both.
        peak_mb: peak resident memory.
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
    """All ``cells``, and the prompt ids of each task's test pairs, ``groups[task] [n_test]``."""

    cells: tuple[Cell, ...]
    groups: Mapping[str, np.ndarray]


_Row = TypeVar("_Row", Cell, Cost)


class Results:
    """A JSON file of benchmark results."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cells(self) -> list[Cell]:
        """All cells in the file.

        Raises:
            SparseRMError: the file is not a results file.
        """
        return list(self.read().cells)

    def costs(self) -> list[Cost]:
        """All costs in the file."""
        return [Cost(**row) for row in self._read()["costs"]]

    def environments(self) -> dict[str, dict[str, Any]]:
        """Environments (hardware and package versions) by name."""
        return dict(self._read()["environments"])

    def read(self) -> Record:
        """Read cells and prompt ids at once.

        Raises:
            SparseRMError: the file is not a results file.
        """
        record = self._read()
        groups = {name: np.array(task["test"]["groups"]) for name, task in record["tasks"].items()}
        return Record(tuple(_cell_of(row) for row in record["cells"]), groups)

    def describe(self, task: Task, **made_with: str) -> None:
        """Record what the task's cells are computed from: the data by name and hash, and fingerprints by name.

        Raises:
            SparseRMError: the file already holds cells of other pairs, or made with other things, for this task.
        """
        self.check(task, **made_with)
        found = {
            "train": _described(task.train),
            "test": {**_described(task.test), "groups": prompt_groups(task.test.pairs).tolist()},
        }

        def write(record: dict[str, Any]) -> None:
            record["tasks"][task.name] = {**found, **record["tasks"].get(task.name, {}), **made_with}

        self._change(write)

    def check(self, task: Task, **made_with: str) -> None:
        """Check that the task's cells in the file, if any, are of the same pairs and made the same way.

        Raises:
            SparseRMError: they are of others, or the file is not a results file.
        """
        known = self._read()["tasks"].get(task.name)
        if known is None:
            return
        for part, data in (("train", task.train), ("test", task.test)):
            if known[part]["hash"] != data.content_hash:
                raise SparseRMError(
                    f"{self.path} holds results for task {task.name} on other pairs ({known[part]['name']}); "
                    "expected the same pairs; choose another --out, or delete the file"
                )
        for name, value in made_with.items():
            if known.get(name, value) != value:
                raise SparseRMError(
                    f"{self.path} holds results for task {task.name} with {name} {known[name]}, expected {value}; choose "
                    "another --out, or delete the file"
                )

    def head(self, task: str) -> dict[str, Any] | None:
        """Diagnostics of the task's head, or None."""
        found: dict[str, Any] | None = self._read()["heads"].get(task)
        return found

    def add_head(self, task: str, diagnostics: dict[str, Any]) -> None:
        """Add diagnostics of the task's head, with the current environment."""

        def write(record: dict[str, Any]) -> None:
            name, found = environment()
            record["environments"][name] = found
            record["heads"][task] = {**diagnostics, "environment": name}

        self._change(write)

    def add(self, row: Cell | Cost) -> None:
        """Add a cell or a cost, with the current environment; a cell that another process has added is left out."""

        def write(record: dict[str, Any]) -> None:
            if isinstance(row, Cell) and any(_cell_of(one).key == row.key for one in record["cells"]):
                return
            name, found = environment()
            record["environments"][name] = found
            record["cells" if isinstance(row, Cell) else "costs"].append({**asdict(row), "environment": name})

        self._change(write)

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply a change to the file under a lock, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            record = self._read()
            change(record)
            parts = [f'"environments": {json.dumps(record["environments"], indent=1)}']
            tasks = _lines(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in record["tasks"].items())
            parts.append(f'"tasks": {{\n{tasks}\n}}')
            parts.append(f'"heads": {json.dumps(record["heads"], indent=1, allow_nan=False)}')
            for kind in ("costs", "cells"):
                parts.append(f'"{kind}": [\n{_lines(json.dumps(row) for row in record[kind])}\n]')
            parts.append(f'"sha256": "{_checksum(record)}"')
            write_text(self.path, "{" + ",\n".join(parts) + "}\n")

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"environments": {}, "tasks": {}, "heads": {}, "costs": [], "cells": []}
        try:
            return _checked(parse_json(self.path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SparseRMError(
                f"{self.path} is not a file of benchmark results ({type(error).__name__}: {one_line(error)}); expected JSON "
                "as a benchmark wrote it; choose another --out, or delete the file"
            ) from error


def environment() -> tuple[str, dict[str, Any]]:
    """The current environment, including the device of ``SPARSERM_DEVICE``, and a short name for it."""
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file of results, a hidden file next to it."""
    lock = path.with_name(f".{path.name[:60]}.lock")  # files with long names may share a lock
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps open files
                lock.unlink()  # while it is held: others that wait for this file notice that it is gone


def _checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 over the values of all entries."""
    return hashlib.sha256(json.dumps([record[name] for name in _ENTRIES], sort_keys=True).encode()).hexdigest()


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """The entries of a file of results; files of earlier versions have no checksum, and the first ones no heads.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the file is damaged, or of something else.
    """
    record = {"heads": {}, **found}
    given = record.pop("sha256", None)
    if unknown := record.keys() - set(_ENTRIES):
        raise ValueError(f"unknown entry {min(unknown)!r}")
    for name, one in record["tasks"].items():
        _check_task(name, one)
    cells = [_cell_of(row) for row in record["cells"]]
    for cell in cells:
        task = record["tasks"].get(cell.task)
        if task and task["test"]["n"] != cell.n_test:
            raise ValueError(f"a cell has {cell.n_test} test pairs, its task {task['test']['n']}")
    for row in record["costs"]:
        _row_of(Cost, row)
    for head in record["heads"].values():
        _check_head(head)
    _require(all(isinstance(one, dict) for one in record["environments"].values()), "environments", "")
    if given not in (None, _checksum(record)):
        raise ValueError("the content differs from its checksum")
    return record


def _check_task(name: str, task: Mapping[str, Any]) -> None:
    for part in (task["train"], task["test"]):
        _require(isinstance(part["name"], str) and isinstance(part["hash"], str), "data", part)
        _require(_is_count(part["n"]), "n", part["n"])
    groups = task["test"]["groups"]
    _require(isinstance(groups, list) and all(_is_count(one) for one in groups), "groups", groups)
    _require(len(groups) == task["test"]["n"], "the number of groups", len(groups))
    made_with = {key: value for key, value in task.items() if key not in ("train", "test")}
    _require(all(isinstance(value, str) for value in made_with.values()), f"task {name}", made_with)


def _check_head(head: Mapping[str, Any]) -> None:
    """Check the entries that are printed."""
    faithful, balanced, length = head["faithfulness"], head["balanced"], head["length"]["margin_spearman"]
    numbers = [head["jaccard"], head["chance"], faithful["feature_sum"], faithful["steer"], faithful["spread"]]
    numbers += [] if balanced is None else [balanced["accuracy"]]
    _require(all(_is_amount(one) for one in numbers), "head", numbers)
    _require(_is_count(head["k"]), "k", head["k"])
    _require(length is None or _is_number(length), "margin_spearman", length)


def _cell_of(row: Mapping[str, Any]) -> Cell:
    low, high = row["ci95"]
    cell = _row_of(Cell, {**row, "ci95": (low, high)})
    _require(cell.n_test > 0 and len(bytes.fromhex(cell.correct)) == (cell.n_test + 7) // 8, "correct", cell.correct)
    _require(math.isclose(cell.accuracy, cell.bits.mean(), abs_tol=1e-9), "accuracy", cell.accuracy)
    return cell


def _row_of(kind: type[_Row], row: Mapping[str, Any]) -> _Row:
    """A cell or cost from its row; every value must be of its field's type."""
    made = kind(**row)
    for one in fields(kind):
        value = getattr(made, one.name)
        _require(_IS[str(one.type)](value), one.name, value)
    return made


def _require(fits: bool, what: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{what} is {one_line(repr(value), 60)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_amount(value)


#: Whether a value is of a type, by the annotations of :class:`Cell` and :class:`Cost`; all their numbers are 0 or more.
_IS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": _is_count,
    "int | None": lambda value: value is None or _is_count(value),
    "float": _is_amount,
    "float | None": lambda value: value is None or _is_amount(value),
    "tuple[float, float]": lambda value: all(_is_number(one) for one in value) and value[0] <= value[1],
    "dict[str, Any]": lambda value: isinstance(value, dict),
}


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

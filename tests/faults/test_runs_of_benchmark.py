"""Results of a benchmark that are damaged or were edited: they are refused in a line and never give other numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparserm.benchmark.results import Cell, Cost, Results, Task
from sparserm.pairs.parsing import parse_pairs
from sparserm.types import SparseRMError

Change = Callable[[dict[str, Any]], object]
PAIRS = parse_pairs([{"prompt": f"q{i // 2}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(12)], name="p")
FAITHFUL = {"feature_sum": 0.0, "steer": 0.1, "spread": 1.0}
HEAD = {
    "k": 4,
    "length": {"margin_spearman": None},
    "balanced": {"accuracy": 0.5},
    "faithfulness": FAITHFUL,
    "jaccard": 0.5,
    "chance": 0.1,
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two cells, a cost and a head."""
    results = Results(tmp_path / "cells.json")
    results.describe(Task("colours", PAIRS, PAIRS), sae="abc")
    bits = np.arange(12) % 3 > 0
    for seed in (0, 1):
        results.add(Cell("colours", "dense", 8, seed, float(bits.mean()), (0.5, 0.8), 8, 12, 5, 0.1, 0.2, _hex(bits)))
    results.add(Cost("colours", None, 8, 100, 1.0, 2.0, 3.0, 4.0))
    results.add_head("colours", HEAD)
    return results


def _hex(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def _edit(path: Path, change: Change, *, checksum: bool) -> None:
    record = json.loads(path.read_text())
    change(record)
    if not checksum:
        del record["sha256"]
    path.write_text(json.dumps(record))


def _refused(results: Results) -> str:
    with pytest.raises(SparseRMError, match="is not a file of benchmark results") as caught:
        results.read()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def _cell(**changes: Any) -> Change:
    return lambda record: record["cells"][0].update(changes)


def _put(name: str, value: Any) -> Change:
    return lambda record: record.__setitem__(name, value)


def _task(**changes: Any) -> Change:
    return lambda record: record["tasks"]["colours"].update(changes)


def _groups(value: Any) -> Change:
    return lambda record: record["tasks"]["colours"]["test"].update(groups=value)


@pytest.mark.parametrize(
    "change",
    [
        *(_put("cells", value) for value in ([{}], [1], 1, None)),
        *(_put("tasks", value) for value in ([], {"colours": 1}, {"colours": {}})),
        *(_put("heads", value) for value in ([], {"colours": {}}, {"colours": 5})),
        *(_put("costs", value) for value in (5, [5], [{}])),
        *(_put("environments", value) for value in ([], {"a": 1})),
        _put("more", 1),
        *(_task(train=value) for value in (1, {}, None)),
        *(_groups(value) for value in (None, 1, [0], [[0], [1, 2]], ["a"] * 12)),
        *(_cell(ci95=value) for value in ([1], 1, [0.5, None], [0.9, 0.1])),
        *(_cell(accuracy=value) for value in ("x", float("nan"), None, True, 0.01)),
        *(_cell(correct=value) for value in ("zz", "", "00", 1)),
        *(_cell(**{name: value}) for name, value in (("way", [1]), ("seconds", None), ("n_parameters", "x"), ("more", 1))),
        _cell(n_test=13),
        lambda record: record["cells"][0].pop("seed"),
    ],
)
def test_a_damaged_entry_is_refused_in_a_line(results, change) -> None:
    _edit(results.path, change, checksum=False)  # as a file of an earlier version
    before = results.path.read_bytes()
    assert str(results.path) in _refused(results)
    with pytest.raises(SparseRMError, match="is not a file of benchmark results"):
        results.add_head("other", HEAD)
    assert results.path.read_bytes() == before


@pytest.mark.parametrize("change", [_cell(seconds=0.5), _cell(ci95=[0.6, 0.7]), _task(sae="other"), _groups([0] * 12)])
def test_an_edited_number_differs_from_the_checksum(results, change) -> None:
    _edit(results.path, change, checksum=True)
    assert "differs from its checksum" in _refused(results)


def test_a_file_without_a_checksum_is_read_and_gets_one(results) -> None:
    cells = results.cells()
    _edit(results.path, lambda record: record, checksum=False)
    assert results.cells() == cells and len(results.costs()) == 1
    results.add_head("other", HEAD)
    assert results.cells() == cells and "sha256" in json.loads(results.path.read_text())


def test_a_flipped_bit_is_refused_or_changes_nothing(results) -> None:
    def content() -> object:
        return results.cells(), results.costs(), results.head("colours"), results.environments(), _plain(results)

    before, whole, rng = content(), results.path.read_bytes(), random.Random(0)
    for _ in range(500):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        results.path.write_bytes(data)
        try:
            assert content() == before
        except SparseRMError as error:
            assert "is not a file of benchmark results" in str(error)


def _plain(results: Results) -> object:
    return {name: groups.tolist() for name, groups in results.read().groups.items()}


@pytest.mark.parametrize("name", ["r.lock", "cells.json", "x" * 250 + ".json", "日" * 80])
def test_no_lock_is_left_and_none_is_in_the_way(tmp_path, name) -> None:
    results = Results(tmp_path / name)
    results.describe(Task("colours", PAIRS, PAIRS))
    results.add_head("colours", HEAD)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("tiny_backbone")
def test_the_command_refuses_in_a_line(run, parts, results) -> None:
    _edit(results.path, _cell(accuracy=0.01), checksum=True)
    given = ("--sae", parts.sae, "--backbone", parts.backbone)
    assert "is not a file of benchmark results" in run("benchmark", parts.train, "--out", results.path, *given).error


def test_the_results_in_the_repository_are_whole() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    for name in ("quality.json", "shift.json"):
        assert all(asdict(cell) for cell in Results(folder / name).cells())

"""Damaged files of an alignment run: refused in one line that says what to delete, and never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparserm.policy.online_dpo import align
from sparserm.types import SparseRMError
from tests.unit.policy.test_online_dpo import PROMPTS, SETTINGS, Stub

TRAINING, HELD_OUT, SAMPLES, WEIGHTS = (
    f"round_1/{name}" for name in ("training.json", "held_out.json", "samples.jsonl", "policy/model.safetensors")
)


def _run(folder: Path, policy: Path) -> Any:
    judges = Stub("ranker", 1, "a"), [Stub("against", -1, "b")]
    return align(PROMPTS[:4], PROMPTS[4:], *judges, folder, policy=policy, settings=replace(SETTINGS, rounds=1))


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    """The folder of a finished run of one round, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    report = _run(folder, tiny_folder)
    return folder, report


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def _entry(name: str, value: Any, *, old: bool = True) -> Callable[[Path], object]:
    """Another value of an entry, in a file without a checksum as earlier versions wrote it, or in one with its old checksum."""

    def change(path: Path) -> None:
        found = json.loads(path.read_text())
        found[name] = value(found[name]) if callable(value) else value
        if old:
            del found["sha256"]
        path.write_text(json.dumps(found))

    return change


def _row(**values: Any) -> Callable[[Path], object]:
    """Other values in the first sample, in a file of which no checksum was noted."""

    def change(path: Path) -> None:
        first, *others = path.read_text().splitlines(keepends=True)
        path.write_text(json.dumps({**json.loads(first), **values}) + "\n" + "".join(others))
        path.with_suffix(".json").unlink()

    return change


def _nulls(rewards: dict[str, Any]) -> dict[str, Any]:
    return {name: [[None] * len(own) for own in values] for name, values in rewards.items()}


DEEP = "[" * 100_000
DAMAGES = [
    *((TRAINING, _text(text)) for text in ('{"a"', "{}", "[]", "", DEEP)),
    (TRAINING, _entry("loss", 0.5, old=False)),
    (TRAINING, _entry("loss", "0.5")),
    (TRAINING, _entry("pairs", True)),
    (TRAINING, _entry("files", [])),
    *((HELD_OUT, _text(text)) for text in ("{}", DEEP, '{"tokens": 1}')),
    (HELD_OUT, _half),
    (HELD_OUT, _entry("rewards", {})),
    (HELD_OUT, _entry("rewards", _nulls)),
    (HELD_OUT, _entry("rewards", lambda rewards: {name: [["a", 1], [1, 1]] for name in rewards})),
    (HELD_OUT, _entry("tokens", [[1, 2]])),
    (HELD_OUT, _entry("tokens", [[1, 2], [3]])),
    (HELD_OUT, _entry("tokens", [[1, 2], [3, 4]], old=False)),
    (HELD_OUT, _entry("finished", [[0, 2], [1, 1]])),
    (HELD_OUT, _entry("contributions", [[[1.0]]])),
    (HELD_OUT, _entry("responses", None)),
    (HELD_OUT, lambda path: shutil.copyfile(path.parent.parent / "round_0" / "held_out.json", path)),
    *((SAMPLES, _text(text)) for text in ("{}", "[]\n", "")),
    (SAMPLES, _half),
    (SAMPLES, _flip),
    *((SAMPLES, _row(ids=ids)) for ids in ([300], [-1], "1", [1.5], [[1]])),
    *(
        (SAMPLES, _row(**{name: value}))
        for name, value in (("reward", "1"), ("reward", None), ("prompt", "b"), ("finished", 1))
    ),
    (SAMPLES, _row(response=None)),
    (WEIGHTS, _flip),
    (WEIGHTS, _half),
    (WEIGHTS, lambda path: shutil.rmtree(path.parent)),
    ("settings.json", _text(DEEP)),
    ("settings.json", _entry("beta", 0.2, old=False)),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_file_is_refused_by_name(folder, tiny_folder, name, damage) -> None:
    if name == SAMPLES:  # read only until the round is trained
        (folder / TRAINING).unlink()
    damage(folder / name)
    with pytest.raises(SparseRMError) as caught:
        _run(folder, tiny_folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 1000
    assert str(folder / ("round_1/policy/" if name == WEIGHTS else name)) in said
    fix = {"settings.json": "give another folder", WEIGHTS: f"delete {folder / TRAINING} and repeat the command"}
    assert said.endswith(fix.get(name, "delete it and repeat the command"))


@pytest.mark.parametrize("name", [HELD_OUT, SAMPLES, WEIGHTS])
def test_what_the_refusal_says_to_do_leads_to_the_same_run(finished, folder, tiny_folder, name) -> None:
    if name == SAMPLES:
        (folder / TRAINING).unlink()
    _flip(folder / name)
    with pytest.raises(SparseRMError, match=r"delete .* and repeat"):
        _run(folder, tiny_folder)
    (folder / (TRAINING if name == WEIGHTS else name)).unlink()
    assert _run(folder, tiny_folder).measures == finished[1].measures


def test_a_run_of_an_earlier_version_has_no_checksums(finished, folder, tiny_folder) -> None:
    (folder / "round_1" / "samples.json").unlink()
    for path in (folder / "settings.json", folder / TRAINING, *folder.glob("round_*/held_out.json")):
        found = json.loads(path.read_text())
        path.write_text(json.dumps({key: found[key] for key in found if key not in ("sha256", "round", "files")}))
    again = _run(folder, tiny_folder)
    assert (again.measures, again.training) == (finished[1].measures, finished[1].training)
    (folder / TRAINING).rename(folder / "old.json")
    assert _run(folder, tiny_folder).measures == finished[1].measures
    (folder / "old.json").rename(folder / TRAINING)
    shutil.rmtree(folder / "round_1" / "policy")
    with pytest.raises(SparseRMError, match=r"policy is damaged \(it is missing\); .* delete .*training.json and repeat"):
        _run(folder, tiny_folder)

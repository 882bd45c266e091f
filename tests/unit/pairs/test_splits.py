"""Which part of a dataset is read: the split and the configuration that were asked for, or the only ones there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparserm.pairs.files import ChoiceError
from sparserm.pairs.load import load_pairs
from sparserm.pairs.parts import cut
from sparserm.pairs.sources import DataSource
from sparserm.types import SparseRMError
from tests.commands import runner


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def _lines(n: int) -> str:
    return "".join(json.dumps({"prompt": f"{i}?", "chosen": f"Yes {i}", "rejected": f"No {i}"}) + "\n" for i in range(n))


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    """A dataset as on the Hub, with splits of other names than train."""
    folder = tmp_path / "preferences"
    folder.mkdir()
    (folder / "a.jsonl").write_text(_lines(5))
    (folder / "b.jsonl").write_text(_lines(3))
    parts = "  - {split: train_prefs, path: a.jsonl}\n  - {split: test_prefs, path: b.jsonl}"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{parts}\n---\n")
    return folder


@pytest.fixture
def configurations(tmp_path: Path) -> Path:
    """A dataset with two configurations in folders of their own, and no default one."""
    folder = tmp_path / "configurations"
    for name, n in (("one", 2), ("two", 4)):
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text(_lines(n))
    listed = "".join(f"- {{config_name: {name}, data_files: {name}/train.jsonl}}\n" for name in ("one", "two"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    return folder


def test_a_split_is_read_under_its_name(preferences: Path) -> None:
    found = load_pairs(preferences, split="test_prefs")
    assert (found.name, len(found.pairs)) == ("preferences (test_prefs)", 3)
    assert len(DataSource(str(preferences), split="train_prefs").load().pairs) == 5
    assert sum(part.n_rows for part in cut(preferences, split="test_prefs").parts) == 3


def test_a_source_with_its_part_is_kept_as_json() -> None:
    source = DataSource("owner/name", split="test", config="one")
    assert DataSource.from_dict(json.loads(json.dumps(source.to_dict()))) == source
    assert DataSource("owner/name").to_dict() == {"name": "owner/name", "columns": {}, "skip_bad": False}


@pytest.mark.parametrize(("split", "said"), [(None, "has several splits"), ("tset", "has no split 'tset'")])
def test_without_a_choice_the_splits_are_named(preferences: Path, split: str | None, said: str) -> None:
    with pytest.raises(ChoiceError, match=rf"{said}: expected one of train_prefs, test_prefs; .*--split train_prefs") as raised:
        load_pairs(preferences, split=split)
    assert raised.value.options == ("train_prefs", "test_prefs")


def test_a_configuration_is_read_under_its_name(configurations: Path) -> None:
    found = load_pairs(configurations, config="two", split="train")
    assert (found.name, len(found.pairs)) == ("configurations (two, train)", 4)
    with pytest.raises(ChoiceError, match="has several configs: expected one of one, two"):
        load_pairs(configurations)


def test_a_single_file_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(_lines(2))
    with pytest.raises(SparseRMError, match=r"a\.jsonl is one file.*'test' was asked for"):
        load_pairs(tmp_path / "a.jsonl", split="test")


@pytest.mark.parametrize(
    "command", [["audit"], ["evaluate", "truthfulness"], ["insights"], ["train", "--out", "head"], ["sweep"], ["score"]]
)
def test_every_command_says_which_splits_there_are(command, preferences, tmp_path, monkeypatch, capfd) -> None:
    more = ["--head", "truthfulness", "--out", tmp_path / "scores"] if command == ["score"] else []
    command = [tmp_path / one if one == "head" else one for one in command]
    said = runner(monkeypatch, capfd)(*command, preferences, *more)
    assert said.code == 2 and said.out == ""
    assert "has several splits: expected one of train_prefs, test_prefs" in said.err.splitlines()[-1]


def test_the_command_line_reads_the_split(preferences, monkeypatch, capfd) -> None:
    said = runner(monkeypatch, capfd)("audit", preferences, "--split", "test_prefs", "--json")
    result = json.loads(said.out)
    assert (result["data"], result["n"]) == ("preferences (test_prefs)", 3)

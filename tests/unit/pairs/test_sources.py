"""Sources of pairs by name: an upload outlives the session with how it is to be read, and its name cannot lead elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparserm.pairs.sources import (
    DataSource,
    find_sources,
    forget_upload,
    keep_upload,
    list_sources,
    remember_reading,
    rename_upload,
    uploads_dir,
)
from sparserm.types import SparseRMError

ROW = {"question": "How?", "good": "So.", "bad": "No idea."}
COLUMNS = {"prompt": "question", "chosen": "good", "rejected": "bad"}


def test_an_upload_is_offered_again_with_its_columns() -> None:
    label, source = keep_upload(json.dumps(ROW).encode(), "mine.jsonl", columns=COLUMNS)
    assert label == "mine.jsonl (uploaded)"
    offered = list_sources()[label]
    assert offered == source
    (pair,) = offered.load().pairs
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("How?", "So.", "No idea.")


def test_another_file_of_the_same_name_does_not_replace_the_first() -> None:
    _, first = keep_upload(b"one", "a.csv")
    _, same = keep_upload(b"one", "a.csv")
    label, second = keep_upload(b"two", "a.csv")
    assert first == same != second
    assert Path(first.name).read_bytes() == b"one" and Path(second.name).read_bytes() == b"two"
    assert label in list_sources()


@pytest.mark.parametrize("name", ["../../evil.csv", "/etc/evil.csv", "..\\..\\evil.csv", "a b/<script>evil.csv"])
def test_a_name_stays_in_the_folder(name: str) -> None:
    _, source = keep_upload(b"x", name)
    assert Path(source.name).parent == uploads_dir()
    assert Path(source.name).name.endswith("evil.csv") and "<" not in source.name


def test_a_name_without_letters_is_refused() -> None:
    with pytest.raises(SparseRMError, match="rename it"):
        keep_upload(b"x", "...")


def test_the_starter_sets_are_always_there_and_load() -> None:
    starters = [source for label, source in list_sources().items() if "starter" in label]
    assert len(starters) == 4
    assert all(len(source.load().pairs) >= 60 for source in starters)


def test_only_uploads_are_forgotten() -> None:
    label, source = keep_upload(b"x", "a.csv")
    forget_upload(source)
    assert label not in list_sources()
    starter = list_sources()["safety (starter pairs)"]
    with pytest.raises(SparseRMError, match="was not deleted"):
        forget_upload(starter)
    assert Path(starter.name).is_file()


def test_a_source_survives_json() -> None:
    source = DataSource("x.csv", (("prompt", "q"),), True)
    assert DataSource.from_dict(json.loads(json.dumps(source.to_dict()))) == source


def test_how_an_upload_is_read_is_remembered_and_other_files_are_left_alone(tmp_path: Path) -> None:
    label, source = keep_upload(b'{"q": "Why?", "good": "So.", "bad": "No."}', "mine.jsonl")
    named = DataSource(source.name, (("prompt", "q"), ("chosen", "good"), ("rejected", "bad")))
    remember_reading(named)
    assert list_sources()[label] == named
    other = tmp_path / "other.jsonl"
    other.write_text("{}")
    remember_reading(DataSource(str(other), named.columns))
    assert [path.name for path in tmp_path.iterdir()] == ["other.jsonl"]


def test_an_upload_changed_on_the_disk_is_refused() -> None:
    label, source = keep_upload(json.dumps(ROW).encode(), "mine.jsonl", columns=COLUMNS)
    remember_reading(source)
    Path(source.name).write_text(json.dumps({**ROW, "good": "No."}))
    with pytest.raises(SparseRMError, match="damaged or changed"):
        list_sources()[label].load()


def test_a_renamed_upload_keeps_its_columns_and_is_found_by_what_named_it_before() -> None:
    _, source = keep_upload(json.dumps(ROW).encode(), "a.jsonl", columns=COLUMNS)
    label, renamed = rename_upload(source, "my pairs")
    assert label == "my_pairs.jsonl (uploaded)" and list_sources().get(label) == renamed
    assert "a.jsonl (uploaded)" not in list_sources()
    again, _ = rename_upload(renamed, "b.jsonl")
    assert source.load().pairs == list_sources()[again].load().pairs
    assert source.version() == list_sources()[again].version()
    assert find_sources("a.jsonl (train)", list_sources()) == find_sources("my_pairs.jsonl", list_sources()) == [again]
    remember_reading(list_sources()[again])
    assert find_sources("a.jsonl", list_sources()) == [again]


def test_another_upload_of_the_old_name_stands_for_itself() -> None:
    _, source = keep_upload(b"one", "a.csv")
    rename_upload(source, "b")
    _, other = keep_upload(b"two", "a.csv")
    assert source.where() == other.where() == other.name


@pytest.mark.parametrize(("name", "reason"), [("b", "called b.csv already"), ("...", "no letters"), ("  ", "no letters")])
def test_a_new_name_is_as_safe_as_the_first(name: str, reason: str) -> None:
    _, source = keep_upload(b"one", "a.csv")
    keep_upload(b"two", "b.csv")
    with pytest.raises(SparseRMError, match=reason):
        rename_upload(source, name)
    assert Path(source.name).read_bytes() == b"one" and (uploads_dir() / "b.csv").read_bytes() == b"two"


def test_a_new_name_stays_in_the_folder_and_keeps_the_ending() -> None:
    _, source = keep_upload(b"one", "a.csv.gz")
    _, renamed = rename_upload(source, "../../evil.json")
    assert Path(renamed.name) == uploads_dir() / "evil.json.csv.gz"

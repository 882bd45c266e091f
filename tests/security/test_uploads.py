"""The name of an upload is safe on every system, and nothing that is uploaded hides, replaces or deletes something else."""

from __future__ import annotations

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparserm.pairs.sources import DataSource, forget_upload, keep_upload, list_sources, remember_reading, uploads_dir
from sparserm.types import SparseRMError

PAIR = b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n'


@pytest.mark.parametrize("letter", ["a", "é", "語", "😀a"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv.gz"])
def test_a_long_name_is_cut_and_keeps_its_suffix(letter: str, suffix: str) -> None:
    label, source = keep_upload(PAIR, letter * 300 + suffix)
    name = Path(source.name).name
    assert name.endswith(suffix) and len(name.encode()) <= 200
    assert list_sources()[label] == source
    _, other = keep_upload(PAIR + b"\n", letter * 300 + suffix)
    assert other != source and other.name.endswith(suffix)


@pytest.mark.parametrize("name", ["CON.csv", "nul.jsonl", "com1.tar.jsonl.gz", "LPT9.json", "aux", "PRN.CSV", "COM¹.csv"])
def test_names_that_windows_reserves_are_changed(name: str) -> None:
    _, source = keep_upload(PAIR, name)
    assert Path(source.name).name == f"upload_{name}"


def test_marks_and_forms_of_unicode_are_normalised() -> None:
    _, source = keep_upload(PAIR, unicodedata.normalize("NFD", "é\u202elosj.\u200f.hidden.jsonl"))
    name = Path(source.name).name
    assert name == unicodedata.normalize("NFC", name)
    assert not {unicodedata.category(letter) for letter in name} & {"Cf", "Cc", "Mn"}
    _, hidden = keep_upload(PAIR, "...hidden.jsonl")
    assert Path(hidden.name).name == "hidden.jsonl"


def test_uploads_that_are_called_like_reading_options_are_listed() -> None:
    for name in ("x.source.json", "x", "x.jsonl", "x.jsonl.source.json"):
        keep_upload(PAIR + name.encode(), name)
    assert {"x.source.json (uploaded)", "x (uploaded)", "x.jsonl (uploaded)", "x.jsonl.source.json (uploaded)"} <= set(
        list_sources()
    )


def test_reading_options_of_earlier_versions_are_used_and_not_listed() -> None:
    uploads_dir().mkdir(parents=True)
    path = uploads_dir() / "old.jsonl"
    path.write_bytes(b'{"q": "p", "chosen": "a", "rejected": "b"}\n')
    beside = uploads_dir() / "old.jsonl.source.json"
    beside.write_text(json.dumps({"name": "/etc/passwd", "columns": {"prompt": "q"}, "skip_bad": True}))
    uploads = {label: source for label, source in list_sources().items() if "uploaded" in label}
    assert uploads == {"old.jsonl (uploaded)": DataSource(str(path), (("prompt", "q"),), True)}
    remember_reading(DataSource(str(path)))
    assert list_sources()["old.jsonl (uploaded)"] == DataSource(str(path))
    forget_upload(DataSource(str(path)))
    assert not [label for label in list_sources() if "uploaded" in label] and not beside.exists()


@pytest.mark.parametrize(
    "options", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"name": 1, "columns": {"prompt": ["q"]}}', b'{"columns": 5}']
)
def test_garbled_reading_options_are_left_out(options: bytes) -> None:
    label, source = keep_upload(PAIR, "a.jsonl")
    (kept,) = (uploads_dir() / ".reading").iterdir()
    kept.write_bytes(options)
    assert list_sources()[label] == source


def test_uploads_of_one_name_at_once_are_all_kept() -> None:
    contents = [PAIR + b"\n" * i for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: keep_upload(data, "a.jsonl")[1], contents))
    assert [Path(source.name).read_bytes() for source in found] == contents


def test_only_what_was_uploaded_is_deleted(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(PAIR)
    _, source = keep_upload(PAIR, "a.jsonl")
    for name in ("..", ".lock", ".reading", "../other.jsonl", str(other)):
        with pytest.raises(SparseRMError, match="was not deleted"):
            forget_upload(DataSource(str(uploads_dir() / name)))
    link = uploads_dir() / "link.jsonl"
    link.symlink_to(other)
    forget_upload(DataSource(str(link)))
    assert other.read_bytes() == PAIR and not link.is_symlink()
    forget_upload(source)
    assert not Path(source.name).exists() and not list((uploads_dir() / ".reading").iterdir())

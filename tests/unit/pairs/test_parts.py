"""Parts of a file hold its rows, each once, in their order, with the numbers and findings that the whole file gives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparserm.pairs.load import read_source
from sparserm.pairs.parts import PartedSource, cut
from sparserm.types import SparseRMError

ROWS = [{"prompt": f"Is {i} even?", "chosen": "Yes, ünïcode\u2028🥚\n" * (i % 3), "rejected": "no"} for i in range(11)]


def _all_rows(source: PartedSource) -> list:
    return [row for part in source.parts for row in source.read(part)]


def _write(folder: Path, kind: str) -> Path:
    path = folder / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=4)
    elif kind == "csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(f'"{row["prompt"]}","a\nb",c\n' for row in ROWS))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("size", [1, 3, 4, 5, 11, 100])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv", "json", "jsonl.gz"])
def test_the_parts_of_every_kind_of_file_are_its_rows(tmp_path, kind, size):
    path = _write(tmp_path, kind)
    source = cut(path, size)
    assert _all_rows(source) == read_source(path)[1]
    assert source.n_rows == 11
    assert [part.n_rows for part in source.parts] == [size] * (11 // size) + ([11 % size] if 11 % size else [])
    assert [len(source.read(part)) for part in source.parts] == [part.n_rows for part in source.parts]
    assert len(source.read(source.parts[-1])) == source.parts[-1].n_rows  # in any order


@settings(max_examples=50, deadline=None)
@given(
    lines=st.lists(st.sampled_from(['{"a": 1}', "", "   ", "not json", "[1]", '{"b": "\\u00fc"}', "\ufffd{", '{"c": 2}\r'])),
    end=st.sampled_from(["", "\n"]),
    size=st.integers(1, 5),
)
def test_bad_and_blank_lines_keep_their_numbers(tmp_path_factory, lines, end, size):
    path = tmp_path_factory.mktemp("lines") / "pairs.jsonl"
    path.write_bytes(
        "\n".join(['{"first": 0}', *lines]).replace("\ufffd", "\udcff").encode("utf-8", "surrogateescape") + end.encode()
    )
    assert _all_rows(cut(path, size)) == read_source(path)[1]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_of_large_files_are_not_kept_and_their_hash_is_the_files(tmp_path, kind):
    path = _write(tmp_path, kind)
    source = cut(path, 4)
    assert source.path == path and not source._rows
    again = cut(path, 5)
    assert again.content_hash == source.content_hash
    path.write_bytes(path.read_bytes() + b"\n")
    if kind == "jsonl":
        assert cut(path, 4).content_hash != source.content_hash


def test_sources_are_found_by_name_as_everywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSERM_DATA", raising=False)
    assert _all_rows(cut("safety", 3)) == read_source("safety")[1]
    (tmp_path / "data").mkdir()
    _write(tmp_path / "data", "jsonl").rename(tmp_path / "data" / "mine.jsonl")
    monkeypatch.setenv("SPARSERM_DATA", str(tmp_path / "data"))
    assert cut("mine").n_rows == 11


def test_what_cannot_be_cut_says_why(tmp_path):
    with pytest.raises(SparseRMError, match="no preference data called"):
        cut(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(SparseRMError, match=r"empty\.jsonl has no rows"):
        cut(tmp_path / "empty.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SparseRMError, match=r"broken\.parquet is not a readable Parquet file"):
        cut(tmp_path / "broken.parquet")
    (tmp_path / "wide.jsonl").write_bytes('{"a": 1}\n'.encode("utf-16-le"))
    with pytest.raises(SparseRMError, match="not UTF-8"):
        cut(tmp_path / "wide.jsonl")
    path = _write(tmp_path, "jsonl")
    source = cut(path, 4)
    path.unlink()
    with pytest.raises(SparseRMError, match="restore the file"):
        source.read(source.parts[0])


def test_a_nul_in_a_row_is_a_finding_about_that_row(tmp_path):
    path = tmp_path / "nul.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 20_000 + b'{"a": "\0"}\n{"a": 2}\n')
    rows = _all_rows(cut(path, 512))
    assert [row.row for row in rows if row.issue] == [20_001]
    (tmp_path / "early.jsonl").write_bytes(b'{"a": "\0"}\n')  # more likely another kind of file
    with pytest.raises(SparseRMError, match="NUL at byte offset 7"):
        cut(tmp_path / "early.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_behind_links_are_read_as_what_the_link_says(tmp_path, kind):
    """The hub's cache links to files whose names are hashes."""
    path = _write(tmp_path, kind)
    path.rename(tmp_path / "0123abcd")
    path.symlink_to(tmp_path / "0123abcd")
    source = cut(path, 4)
    assert source.name == f"pairs.{kind}" and source.path == path
    assert _all_rows(source) == read_source(path)[1]


def test_a_mark_of_utf8_and_a_bad_first_line_do_not_bring_the_file_into_memory(tmp_path):
    path = _write(tmp_path, "jsonl")
    for name, beginning in (("mark", b"\xef\xbb\xbf"), ("bad", b"not json\n"), ("blank", b"\n\n")):
        other = tmp_path / f"{name}.jsonl"
        other.write_bytes(beginning + path.read_bytes())
        source = cut(other, 4)
        assert source.path == other
        assert _all_rows(source) == read_source(other)[1]


def test_a_file_that_changed_after_it_was_cut_is_refused(tmp_path):
    path = _write(tmp_path, "jsonl")
    source = cut(path, 4)
    path.write_bytes(b"\n" + path.read_bytes())
    with pytest.raises(SparseRMError, match="has changed since it was first read"):
        source.read(source.parts[1])

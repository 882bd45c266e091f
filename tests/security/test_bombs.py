"""A small file that would take gigabytes, or hours, is refused in one line, with little memory and without being read whole."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparserm.audit.flags import audit
from sparserm.pairs.candidates import load_candidates
from sparserm.pairs.load import load_pairs
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.parts import cut
from sparserm.pairs.sources import DataSource
from sparserm.pairs.validation import validate
from sparserm.sae.activations import read_corpus
from sparserm.types import SparseRMError

PAIR = b'{"prompt":"p","chosen":"a","rejected":"b"%s}\n'

#: Reads each file, and prints the errors and the largest memory of the process in MB.
READER = """
import json, re, sys
from pathlib import Path
from sparserm.pairs.load import load_pairs
found = {}
for path in sys.argv[1:]:
    try:
        found[Path(path).name] = f"{len(load_pairs(path, skip_bad=True).pairs)} pairs"
    except ValueError as error:
        found[Path(path).name] = f"{type(error).__name__}: {error}"
peak = re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())  # this process alone
print(json.dumps({"peak": int(peak[1]) / 1024, "found": found}))
"""


def _repeated(text: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), n), pa.array([text]))


def _parquet_bombs(folder: Path) -> None:
    """Equal values, which Parquet stores once, as rows, long texts and a list; many columns."""
    many, ones = 4_000_000, {"prompt": ["p"], "rejected": ["b"]}
    rows = {"prompt": _repeated("p", many), "chosen": _repeated("a", many), "rejected": _repeated("b", many)}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    texts = {"prompt": _repeated("p", 6000), "chosen": _repeated("a" * 1_000_000, 6000), "rejected": _repeated("b", 6000)}
    pq.write_table(pa.table(texts), folder / "texts.parquet")
    one_list = pa.ListArray.from_arrays(pa.array([0, 1_000_000], pa.int32()), _repeated("a" * 10_000, 1_000_000))
    pq.write_table(pa.table({**ones, "chosen": one_list}), folder / "list.parquet")
    pq.write_table(pa.table({f"c{i}": ["x"] for i in range(5000)}), folder / "columns.parquet")


def _text_bombs(folder: Path) -> None:
    letters = gzip.compress(b"a" * (16 << 20))
    (folder / "line.jsonl.gz").write_bytes(gzip.compress(b'{"prompt":"') + letters * 33)
    (folder / "quote.csv.gz").write_bytes(gzip.compress(b'prompt,chosen,rejected\np,"') + letters * 33)
    (folder / "objects.json").write_bytes(b"[" + b"{}," * 4_000_000 + b"{}]")
    (folder / "pairs.jsonl").write_bytes(
        json.dumps({"prompt": "p", "chosen": ["a"] * 10_000, "rejected": ["b"] * 10_000}).encode()
    )
    (folder / "columns.csv").write_text(",".join(f"c{i}" for i in range(40_000)) + "\n" + ",".join(["x"] * 40_000) + "\n")
    (folder / "columns.jsonl").write_text("".join(f'{{"k{i}":1}}\n' for i in range(2000)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
def test_bombs_are_refused_with_little_memory(tmp_path: Path) -> None:
    _parquet_bombs(tmp_path)
    _text_bombs(tmp_path)
    command = [sys.executable, "-c", READER, *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    assert result["peak"] < 1000
    found = result["found"]
    refused = {name: text for name, text in found.items() if text.startswith("SparseRMError: ")}
    too_large = {name for name, text in refused.items() if "MB of memory when it is unpacked" in text and "split" in text}
    assert too_large == {"rows.parquet", "texts.parquet", "list.parquet", "line.jsonl.gz", "objects.json"}
    for name, n in (("columns.csv", "40,000"), ("columns.parquet", "5,000"), ("columns.jsonl", "1,001")):
        assert f"{name} has {n} columns; expected at most 1,000; keep only" in refused[name]
    assert "row of more than 8 MB" in refused["quote.csv.gz"] and "double quotes" in refused["quote.csv.gz"]
    assert "100,000,000 pairs" in refused["pairs.jsonl"]
    assert len(refused) == len(found) and not any("\n" in text for text in refused.values())


@pytest.mark.parametrize("content", [PAIR % (b',"x":[' + b"[]," * 50_000 + b"[]]"), b"0\n" * 10_000, b"{}\n" * 10_000])
def test_objects_of_many_times_their_size_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sparserm.pairs.limits.SMALL", 20 << 20)
    (tmp_path / "a.jsonl").write_bytes(content * 8)
    with pytest.raises(SparseRMError, match="takes more than 20 MB of memory when it is unpacked"):
        load_pairs(tmp_path / "a.jsonl", skip_bad=True)


def test_a_line_that_is_too_long_is_a_finding_and_the_others_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(PAIR % b"" + PAIR % (b',"x":"' + b"a" * (9 << 20) + b'"') + PAIR % b',"id":3')
    data = load_pairs(path, skip_bad=True)
    assert [pair.row for pair in data.pairs] == [1, 3]
    assert "line 2 has 9 MB, expected at most 8" in str(data.issues[0])
    parts = cut(path, 1)
    assert [row.row for part in parts.parts for row in parts.read(part)] == [1, 2, 3]


@pytest.mark.parametrize("extra", [b',"x":' + b"[" * 900 + b"]" * 900, b',"id":1' + b"0" * 100_000])
def test_deep_and_huge_values_are_findings(tmp_path: Path, extra: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(PAIR % b"" + PAIR % extra)
    data = load_pairs(path, skip_bad=True)
    assert (len(data.pairs), data.n_skipped) == (1, 1)
    assert validate(DataSource(str(path))).n_errors == 1
    with pytest.raises(SparseRMError):
        load_pairs(path)


def test_candidates_that_would_give_millions_of_findings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt":"p","responses":[' + b"0," * 200_000 + b"0]}\n")
    with pytest.raises(PairsError, match="more than 100,000 entries cannot be used"):
        load_candidates(path, skip_bad=True)


def test_a_corpus_with_one_endless_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text":"') + gzip.compress(b"a" * (16 << 20)) * 8)
    with pytest.raises(SparseRMError, match=r"line 1 .*more than 8 MB"):
        read_corpus(path)


def test_what_a_file_of_its_size_takes_is_read(tmp_path: Path) -> None:
    """Limits are far from ordinary files: compressed ten times, a thousand columns, commas and brackets all over."""
    rows = [
        {"prompt": f"Write [{i}, {i + 1}, ...] {i}", "chosen": "x, [y], {z}, " * 50, "rejected": "no"} for i in range(6_000)
    ]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows[:5000]))
    assert len(load_pairs(tmp_path / "a.jsonl.gz").pairs) == 6_000
    assert load_pairs(tmp_path / "a.parquet").content_hash == load_pairs(tmp_path / "a.jsonl.gz").content_hash
    assert len(load_pairs(tmp_path / "a.json").pairs) == 5000


def test_an_audit_of_one_large_circle_of_preferences_is_not_quadratic() -> None:
    n = 3_000
    rows = [{"prompt": "p", "chosen": f"a{i}", "rejected": f"a{(i + 1) % n}"} for i in range(n)]
    found = audit(parse_pairs(rows))
    assert found.counts["circle"] == n
    assert found.flags[0].detail == "preferences form a cycle over rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"


def test_a_parquet_footer_that_ends_the_process_that_counts_it_is_refused(tmp_path, monkeypatch):
    pq.write_table(pa.table({"prompt": ["p"], "chosen": [["a", "b"]], "rejected": [["c"]]}), tmp_path / "a.parquet")
    assert len(load_pairs(tmp_path / "a.parquet").pairs) == 2
    monkeypatch.setattr("sparserm.pairs.parquet._COUNT", "import os; os.abort()")
    with pytest.raises(SparseRMError, match="its footer is damaged"):
        load_pairs(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_blank_lines_are_limited(tmp_path, monkeypatch, name):
    monkeypatch.setattr("sparserm.pairs.limits.MAX_BLANK_LINES", 100)
    start = b"prompt,chosen,rejected\np,a,b" if "csv" in name else (PAIR % b"").strip()
    for n, is_refused in ((100, False), (102, True)):
        (tmp_path / name).write_bytes(gzip.compress(start + b"\n" * n + b"\n"))
        if is_refused:
            with pytest.raises(SparseRMError, match="more than 100 blank lines"):
                load_pairs(tmp_path / name)
        else:
            assert len(load_pairs(tmp_path / name).pairs) == 1

"""A text that a spreadsheet would run as a formula is written so that it does not; numbers and pairs stay as they are."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from sparserm.pairs.load import load_pairs
from sparserm.support.files import to_csv, to_jsonl

ROOT = Path(__file__).parents[2] / "sparserm"
FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "＋1+1",
    "－1+1",
    "＠SUM(A1)",
    '=cmd|"/c calc"!A0',
]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_becomes_text_in_cells_and_in_the_header(formula: str) -> None:
    written = to_csv([{"a": formula, formula: "x"}])
    assert cells(written) == [["a", f"'{formula}"], [f"'{formula}", "x"]]
    assert f"\"'{formula[:1]}" in written  # in double quotes


def test_a_formula_after_a_line_break_or_a_comma_stays_inside_its_cell() -> None:
    texts = ["x\r=1+1", "x\n=1+1", "x,=1+1", 'x","=1+1']
    assert cells(to_csv([{"a": text} for text in texts]))[1:] == [[text] for text in texts]


def test_numbers_are_not_touched() -> None:
    rows = [
        {"n": -1.5, "i": -3, "text": "-0.25", "percent": "+12.5%", "mixed": -1},
        {"n": 2.0, "i": 4, "text": "1e-5", "mixed": "-x"},
    ]
    written = cells(to_csv(rows))
    assert written[1] == ["-1.5", "-3", "-0.25", "+12.5%", "-1"]
    assert written[2] == ["2.0", "4", "1e-5", "", "'-x"]
    assert cells(to_csv(pd.DataFrame({"x": [-1.5, float("nan")]})))[1:] == [["-1.5"], [""]]


def test_lists_are_json() -> None:
    assert cells(to_csv([{"prompt": [{"role": "user", "content": "=1"}]}]))[1] == ['[{"role": "user", "content": "=1"}]']


def test_pairs_are_written_and_read_without_change(tmp_path: Path) -> None:
    row = {"prompt": "=1+1", "chosen": "-two", "rejected": "'=three"}
    (tmp_path / "a.jsonl").write_text(to_jsonl([row]))
    (pair,) = load_pairs(tmp_path / "a.jsonl").pairs
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == tuple(row.values())
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n'=1+1,-two,'=three\n")  # no quote is taken off a text
    (pair,) = load_pairs(tmp_path / "a.csv").pairs
    assert (pair.prompt[0].content, pair.chosen) == ("'=1+1", "-two")


def test_every_table_is_written_by_the_same_function() -> None:
    direct = re.compile(r"\.to_csv\b|csv\.writer|csv\.DictWriter")
    found = [
        path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if direct.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["support/files.py"]


def test_the_audit_command_writes_no_formula(run, tmp_path: Path) -> None:
    rows = [{"prompt": "=HYPERLINK(1)", "chosen": "@a", "rejected": "-b"}] * 2
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("audit", tmp_path / "a.jsonl", "--out", tmp_path / "a.csv", "--json").json["n"] == 2
    (found,) = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert (found["prompt"], found["chosen"], found["rejected"]) == ("'=HYPERLINK(1)", "'@a", "'-b")

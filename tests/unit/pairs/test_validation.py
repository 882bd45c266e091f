"""Validation: columns are recognised by what they are called, and every row is used or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparserm.pairs.columns import suggest_columns
from sparserm.pairs.sources import DataSource
from sparserm.pairs.validation import PREVIEW_ROWS, Validation, issue_rows, validate
from sparserm.types import SparseRMError


def _file(path: Path, rows: list[Any]) -> DataSource:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return DataSource(str(path))


def _validated(tmp_path: Path, rows: list[Any]) -> Validation:
    return validate(_file(tmp_path / "pairs.jsonl", rows))


def _row(n: int = 0, **other: Any) -> dict[str, Any]:
    return {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}.", **other}


def test_sound_rows_are_used_as_they_are(tmp_path: Path) -> None:
    found = _validated(tmp_path, [_row(1), _row(2)])
    assert found.data is not None and len(found.data.pairs) == found.n_rows == 2
    assert (found.issues, found.problem, found.guessed, found.n_errors) == ((), "", False, 0)
    assert found.columns == ("prompt", "chosen", "rejected")
    assert found.source.load() == found.data


def test_columns_of_other_names_are_recognised_and_the_source_remembers_them(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer_good": "So.", "answer_bad": "Not so.", "score": 3}
    found = _validated(tmp_path, [row])
    assert found.guessed
    assert dict(found.used) == {"prompt": "question", "chosen": "answer_good", "rejected": "answer_bad"}
    assert "read `question` as the prompt, `answer_good` as chosen" in found.issues[0].problem
    assert found.data is not None and found.source.load() == found.data


def test_columns_that_were_named_are_not_guessed(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.jsonl", [{"good": "Yes.", "better": "Yes!", "bad": "No.", "q": "Why?"}])
    named = DataSource(source.name, (("prompt", "q"), ("chosen", "good"), ("rejected", "bad")))
    found = validate(named)
    assert not found.guessed and found.data is not None and found.data.pairs[0].chosen == "Yes."


def test_unknown_columns_are_a_problem_and_the_rows_can_still_be_seen(tmp_path: Path) -> None:
    found = _validated(tmp_path, [{"a": "x", "b": "y"}])
    assert found.data is None and "no column 'chosen', 'rejected'" in found.problem
    assert found.columns == ("a", "b") and found.preview == ({"a": "x", "b": "y"},)


def test_bad_rows_are_left_out_and_named(tmp_path: Path) -> None:
    found = _validated(tmp_path, [_row(1), _row(2, chosen=""), _row(3, rejected="Yes 3."), _row(1)])
    assert found.data is not None and [pair.row for pair in found.data.pairs] == [1, 4]
    assert (found.n_errors, found.n_warnings) == (2, 1)
    assert [(row["row"], row["column"], row["severity"]) for row in issue_rows(found.issues)] == [
        (2, "chosen", "error"),
        (3, "rejected", "error"),
        (4, "chosen", "warning"),
    ]
    assert found.source.load() == found.data


def test_where_all_rows_are_bad_each_is_named(tmp_path: Path) -> None:
    found = _validated(tmp_path, [_row(1, chosen=""), _row(2, chosen=None)])
    assert found.data is None and "2 of 2 rows cannot be used" in found.problem
    assert found.n_errors == 2


def test_a_single_row_is_valid_and_says_nothing_of_splitting(tmp_path: Path) -> None:
    found = _validated(tmp_path, [_row()])
    assert found.data is not None and not found.problem


def test_the_preview_is_short_and_on_one_line_each(tmp_path: Path) -> None:
    found = _validated(tmp_path, [_row(n, chosen="two\nlines " * 500) for n in range(PREVIEW_ROWS + 10)])
    assert len(found.preview) == PREVIEW_ROWS
    assert all("\n" not in row["chosen"] and len(row["chosen"]) <= 300 for row in found.preview)


def test_what_is_no_preference_file_is_refused(tmp_path: Path) -> None:
    picture = tmp_path / "picture.csv"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)))
    with pytest.raises(SparseRMError, match="is a PNG image"):
        validate(DataSource(str(picture)))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ("question answer_good answer_bad", ("question", "answer_good", "answer_bad")),
        ("instruction preferredResponse dispreferredResponse", ("instruction", "preferredResponse", "dispreferredResponse")),
        ("Prompt Chosen Rejected", ("Prompt", "Chosen", "Rejected")),
        ("input winner loser", ("input", "winner", "loser")),
        ("query best_answer_score best_answer worst_answer", ("query", "best_answer", "worst_answer")),
        ("user_prompt correct incorrect", ("user_prompt", "correct", "incorrect")),
        ("promt choosen rejectd", ("promt", "choosen", "rejectd")),
        ("text label", (None, None, None)),
    ],
)
def test_names_that_mean_the_same(columns: str, found: tuple[str | None, ...]) -> None:
    suggested = suggest_columns(columns.split())
    assert tuple(suggested.get(ours) for ours in ("prompt", "chosen", "rejected")) == found


def test_a_column_of_numbers_holds_no_responses() -> None:
    rows = [{"better": 1, "better_text": "a", "worse_text": "b"}]
    assert suggest_columns(["better", "better_text", "worse_text"], rows) == {"chosen": "better_text", "rejected": "worse_text"}

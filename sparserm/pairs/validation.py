"""What a user should know of preference data before training on it: its columns, its rows, and what is wrong with which.

Nothing is raised for rows that cannot be used: they are the result. Only a source that cannot be read at all is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparserm.pairs.files import RawRow
from sparserm.pairs.load import read_source
from sparserm.pairs.parsing import PairsError, parse_rows
from sparserm.pairs.sources import DataSource
from sparserm.support.files import one_line
from sparserm.types import PairIssue, PreferenceData, SparseRMError

#: What people call our columns, in the words their names are made of.
WORDS = {
    "prompt": ("prompt", "question", "instruction", "input", "query", "context", "conversations", "history", "user"),
    "chosen": ("chosen", "preferred", "better", "good", "best", "winner", "accepted", "positive", "pos", "correct", "win"),
    "rejected": (
        "rejected",
        "dispreferred",
        "worse",
        "bad",
        "worst",
        "loser",
        "refused",
        "negative",
        "neg",
        "incorrect",
        "lose",
    ),
}
PREVIEW_ROWS = 50
_CLOSE = 0.8
_CELL = 300


@dataclass(frozen=True)
class Validation:
    """Preference data as it was read, row by row.

    Attributes:
        source: with the columns that were read, and with unusable rows left out where there are any.
        name: of the data.
        columns: every column of the source.
        guessed: whether the columns were found by their names' meaning, and should be looked at.
        preview: the first rows, every cell as one line of text.
        data: the usable pairs; None where there are none.
        issues: every finding, errors and warnings, in the order of the rows.
        n_rows: of the source.
        problem: why nothing can be used, where that is so.
    """

    source: DataSource
    name: str
    columns: tuple[str, ...]
    guessed: bool
    preview: tuple[Mapping[str, str], ...]
    data: PreferenceData | None
    issues: tuple[PairIssue, ...]
    n_rows: int
    problem: str = ""

    @property
    def n_errors(self) -> int:
        """Rows that cannot be used."""
        return len({issue.row for issue in self.issues if issue.severity == "error"})

    @property
    def n_warnings(self) -> int:
        """Findings that do not stop a row from being used."""
        return sum(issue.severity == "warning" for issue in self.issues)


def validate(source: DataSource) -> Validation:
    """Read a source and say what was found.

    Where its columns have other names, and none were given, those are taken whose names mean the same.

    Raises:
        SparseRMError: it cannot be read as a whole, or holds no rows.
    """
    name, rows = read_source(source.name)
    columns = tuple(dict.fromkeys(key for row in rows for key in row.values or ()))
    mapping = dict(source.columns)
    guess = {} if mapping or {"chosen", "rejected"} <= set(columns) else suggest_columns(columns, _samples(rows))
    mapping = guess if {"chosen", "rejected"} <= set(guess) else mapping
    found = Validation(
        source=replace(source, columns=tuple(mapping.items())),
        name=name,
        columns=columns,
        guessed=bool(guess) and mapping == guess,
        preview=_preview(rows),
        data=None,
        issues=(),
        n_rows=len(rows),
    )
    try:
        data = parse_rows(rows, name, columns=mapping, skip_bad=True)
    except PairsError as error:
        return replace(found, issues=error.issues, problem=str(error))
    except SparseRMError as error:
        if not columns:
            raise
        return replace(found, problem=str(error))
    found = replace(found, data=data, issues=data.issues)
    return replace(found, source=replace(found.source, skip_bad=found.n_errors > 0))


def suggest_columns(columns: Sequence[str], samples: Iterable[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Our columns to those of the source whose names mean the same, e.g. ``{"prompt": "question", "chosen": "answer_good"}``.

    Args:
        samples: some rows; a column that holds neither text nor lists in any of them is left out.
    """
    rows = list(samples)
    usable = [name for name in columns if not rows or any(isinstance(row.get(name), (str, list)) for row in rows)]
    scores = {name: {ours: _likeness(name, words) for ours, words in WORDS.items()} for name in usable}
    found: dict[str, str] = {}
    for ours in WORDS:
        meant = [name for name in usable if scores[name][ours] == max(scores[name].values()) and scores[name][ours] >= _CLOSE]
        if meant:
            found[ours] = max(meant, key=lambda name: scores[name][ours])
    return found


def issue_rows(issues: Iterable[PairIssue]) -> list[dict[str, Any]]:
    """The validation report, one row for each finding."""
    return [{"row": one.row, "column": one.column, "problem": one.problem, "severity": one.severity} for one in issues]


def _likeness(name: str, words: Iterable[str]) -> float:
    """How like one of the words the likest part of a name is, 0 to 1; of two names the shorter one is likelier."""
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    best = max((difflib.SequenceMatcher(a=part, b=word).ratio() for part in parts for word in words), default=0.0)
    return best - 0.02 * (len(parts) - 1)


def _samples(rows: Sequence[RawRow]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows[:PREVIEW_ROWS] if row.values is not None]


def _preview(rows: Sequence[RawRow]) -> tuple[Mapping[str, str], ...]:
    return tuple({key: one_line(cell, _CELL) for key, cell in values.items()} for values in _samples(rows))

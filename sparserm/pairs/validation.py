"""Validates preference data before training: finds its columns and lists the issues of every row.

Rows that cannot be used are reported in the result; an error is raised only if the whole source is unreadable.
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

#: Words that occur in common names for our columns.
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
#: Characters of a column's name that are compared.
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Validation:
    """Result of validating a source.

    Attributes:
        source: the source with the columns that were read; ``skip_bad`` is set if some rows cannot be used.
        name: name of the data.
        columns: all columns of the source.
        guessed: whether the columns were guessed from their names, and should be checked by the user.
        preview: the first rows, every cell as one line of text.
        data: the usable pairs; None if there are none.
        issues: all errors and warnings in row order.
        n_rows: number of rows of the source.
        problem: why no row can be used; empty if some can.
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
        """Number of rows that cannot be used."""
        return len({issue.row for issue in self.issues if issue.severity == "error"})

    @property
    def n_warnings(self) -> int:
        """Number of warnings."""
        return sum(issue.severity == "warning" for issue in self.issues)


def validate(source: DataSource) -> Validation:
    """Read a source and report its columns, pairs and issues.

    If ``chosen`` and ``rejected`` are missing and no mapping is given, the columns are guessed from their names.

    Raises:
        SparseRMError: the source cannot be read, or has no rows.
    """
    name, rows = read_source(source.where())
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
    """Guess from their names which columns hold prompt and responses, e.g. ``{"prompt": "question", "chosen": "answer_good"}``.

    Args:
        columns: all columns of the source.
        samples: some rows; columns without text or lists in any of them are ignored.
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
    """The validation report as table rows, one per issue."""
    return [{"row": one.row, "column": one.column, "problem": one.problem, "severity": one.severity} for one in issues]


def _likeness(name: str, words: Iterable[str]) -> float:
    """Similarity (0 to 1) of the best-matching part of a name to any of the words, minus 0.02 for every further part."""
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name[:_LONGEST_NAME])]
    best = max((difflib.SequenceMatcher(a=part, b=word).ratio() for part in parts for word in words), default=0.0)
    return best - 0.02 * (len(parts) - 1)


def _samples(rows: Sequence[RawRow]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows[:PREVIEW_ROWS] if row.values is not None]


def _preview(rows: Sequence[RawRow]) -> tuple[Mapping[str, str], ...]:
    return tuple({key: one_line(cell, _CELL) for key, cell in values.items()} for values in _samples(rows))

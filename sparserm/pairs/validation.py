"""Validates preference data before training: finds its columns and lists the issues of every row.

Rows that cannot be used are reported in the result; an error is raised only if the whole source is unreadable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparserm.pairs.columns import find_columns
from sparserm.pairs.load import read_source
from sparserm.pairs.parsing import PairsError, parse_rows
from sparserm.pairs.rows import RawRow, columns_of
from sparserm.pairs.sources import DataSource
from sparserm.support.files import one_line
from sparserm.types import PairIssue, PreferenceData, SparseRMError

PREVIEW_ROWS = 50
_CELL = 300


@dataclass(frozen=True)
class Validation:
    """Result of validating a source.

    Attributes:
        source: the source with the columns that were read; ``skip_bad`` is set if some rows cannot be used.
        name: name of the data.
        columns: all columns of the source.
        used: pairs ``(ours, theirs)`` of the columns that were read; none where a label tells which response won.
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
    used: tuple[tuple[str, str], ...]
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
    def n_ties(self) -> int:
        """Number of rows in which no response was preferred."""
        return len({issue.row for issue in self.issues if issue.severity == "tie"})

    @property
    def n_warnings(self) -> int:
        """Number of warnings."""
        return sum(issue.severity == "warning" for issue in self.issues)


def validate(source: DataSource) -> Validation:
    """Read a source and report its columns, pairs and issues.

    Where no mapping is given, columns are found as :func:`~sparserm.pairs.columns.find_columns` does.

    Raises:
        SparseRMError: the source cannot be read, or has no rows.
    """
    name, rows = read_source(source.where(), source.split, source.config)
    columns = tuple(columns_of(rows))
    mapping = dict(source.columns)
    used, guessed = _used(rows, mapping, name)
    found = Validation(source, name, columns, used, guessed, _preview(rows), data=None, issues=(), n_rows=len(rows))
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


def _used(rows: Sequence[RawRow], mapping: Mapping[str, str], name: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    """The columns that are read, and whether they were guessed; those of the mapping where some are missing."""
    try:
        found = find_columns([row for row in rows if row.values is not None], mapping, name)
    except SparseRMError:  # said where the rows are parsed
        return tuple(mapping.items()), False
    if found.layout is not None:
        return (), True
    named = (("prompt", found.prompt), ("chosen", found.chosen), ("rejected", found.rejected))
    return tuple((ours, theirs) for ours, theirs in named if theirs is not None), found.guessed


def issue_rows(issues: Iterable[PairIssue]) -> list[dict[str, Any]]:
    """The validation report as table rows, one per issue."""
    return [{"row": one.row, "column": one.column, "problem": one.problem, "severity": one.severity} for one in issues]


def _samples(rows: Sequence[RawRow]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows[:PREVIEW_ROWS] if row.values is not None]


def _preview(rows: Sequence[RawRow]) -> tuple[Mapping[str, str], ...]:
    return tuple({key: one_line(cell, _CELL) for key, cell in values.items()} for values in _samples(rows))

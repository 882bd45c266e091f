"""Parses raw rows into validated preference pairs.

Supported formats: TRL with explicit prompt (``prompt, chosen, rejected``), TRL with implicit prompt (``chosen, rejected``) and
ShareGPT (``conversations, chosen, rejected``), with strings or message lists; ``chosen`` and ``rejected`` may also be lists of
responses, as in reward benchmarks. Every row gives one or more pairs, or an issue; no row is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparserm.pairs.columns import find_columns
from sparserm.pairs.files import uncollected
from sparserm.pairs.reading import read_rows
from sparserm.pairs.rows import WHOLE_ROW, RawRow, rows_of
from sparserm.pairs.split import preference_data
from sparserm.pairs.verdicts import paired
from sparserm.pairs.warnings import pair_warnings, repeat_warnings, source_warnings, text_warnings
from sparserm.support.files import one_line
from sparserm.types import PairIssue, PreferenceData, PreferencePair, SparseRMError


class PairsError(SparseRMError):
    """Rows of a source cannot be used; ``issues`` lists all errors and warnings in row order."""

    def __init__(self, message: str, issues: Sequence[PairIssue] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)


def parse_pairs(
    rows: Iterable[Any] | Mapping[str, Any],
    name: str = "rows",
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> PreferenceData:
    """Parse preference pairs from rows in memory: dictionaries, a data frame, a ``datasets.Dataset`` or ``DatasetDict``.

    Raises:
        PairsError: rows cannot be used and ``skip_bad`` is not set, or no row can be used.
        SparseRMError: there are no rows, or columns are missing.
    """
    return parse_rows(rows_of(rows), name, columns=columns, skip_bad=skip_bad)


@uncollected()
def parse_rows(rows: Sequence[RawRow], name: str, *, columns: Mapping[str, str] | None, skip_bad: bool) -> PreferenceData:
    """Parse preference pairs from raw rows.

    Raises:
        PairsError, SparseRMError: as for :func:`parse_pairs`.
    """
    if not rows:
        raise SparseRMError(f"{name} has no rows: expected at least one with prompt, chosen and rejected")
    issues = [row.issue for row in rows if row.issue is not None]
    pairs: list[PreferencePair] = []
    readable, left, how = ([row for row in rows if row.values is not None], [], "") if columns else paired(rows)
    readable = [row for row in readable if row.values is not None]
    issues += left
    if readable:
        found = find_columns(readable, columns or {}, name)
        pairs, unusable = read_rows(readable, found)
        issues += unusable
        issues += text_warnings(readable, pairs, found)
        issues += source_warnings(readable, pairs, found)
        issues += pair_warnings(readable, pairs, found)
        issues += repeat_warnings(pairs, found)
        if said := how or found.reading:
            issues.append(PairIssue(readable[0].row, WHOLE_ROW, said, "warning"))
    issues.sort(key=lambda issue: issue.row)
    n_bad = len({issue.row for issue in issues if issue.severity == "error"})
    if (n_bad or not pairs) and not (skip_bad and pairs):
        raise PairsError(_bad_rows_message(name, n_bad, len(rows), issues), issues)
    used = {pair.row for pair in pairs}  # where rows were paired, each pair counts as one, under the number of its chosen one
    n_rows = len(used | {issue.row for issue in issues if issue.severity != "warning"}) if how else len(rows)
    return preference_data(name, pairs, issues, n_rows)


def _bad_rows_message(name: str, n_bad: int, n_rows: int, issues: Sequence[PairIssue]) -> str:
    errors = [str(issue) for issue in issues if issue.severity == "error"]
    if not errors:
        ties = [str(issue) for issue in issues if issue.severity == "tie"]
        said = f"; {ties[0]}" if ties else ""
        return one_line(f"{name}: none of its {n_rows} rows prefers a response to another{said}; add rows that do", 2000)
    shown = "; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
    fix = (
        "fix them, or pass skip_bad=True (--skip-bad on the command line) to leave them out"
        if n_bad < n_rows
        else "no usable rows: fix them, or map the source's columns: columns={'prompt': ...} (--column prompt=...)"
    )
    return one_line(f"{name}: {n_bad} of {n_rows} rows cannot be used ({shown}); {fix}", 2000)

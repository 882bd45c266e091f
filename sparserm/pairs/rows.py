"""Raw rows: a source before it is known which columns hold the prompt and the responses; and those of rows in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sparserm.support.files import one_line
from sparserm.types import PairIssue, SparseRMError

#: The column of an issue that concerns the whole row.
WHOLE_ROW = "(whole row)"
#: The values of a row.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RawRow:
    """One unparsed row: its values, or the issue that made it unreadable; both for a doubtful row with a warning.

    ``row`` is 1-based; header and blank lines are not counted.
    """

    row: int
    values: Mapping[str, Any] | None
    issue: PairIssue | None = None


def rows_of(values: Iterable[Any], first_row: int = 1) -> list[RawRow]:
    """Raw rows from rows in memory; a value that is not a mapping of columns gets an issue.

    Args:
        values: rows, or what holds some: a data frame, a ``datasets.Dataset`` or ``DatasetDict``, or columns by name.

    Raises:
        SparseRMError: several splits, and none of them is ``train``.
    """
    return list(raw_rows(_records(values), first_row))


def _records(values: Any) -> Iterable[Any]:
    if type(values).__module__.partition(".")[0] == "pandas":
        return _frame_records(values)
    if hasattr(values, "to_pylist"):  # a table or a batch of pyarrow
        return cast("Iterable[Any]", values.to_pylist())
    if isinstance(values, (str, Path)) or not isinstance(values, Iterable):
        said = f"{values!s:.100}" if isinstance(values, (str, Path)) else type(values).__name__
        raise SparseRMError(f"got {said}, expected rows, each with prompt, chosen and rejected; read a file with load_pairs")
    if not isinstance(values, Mapping):
        return values
    if (found := _rows_in_mapping(values)) is not None:
        return found
    if "train" not in values and len(values) != 1:
        listed = one_line(", ".join(map(str, values)), 200)
        raise SparseRMError(f"got the splits {listed}, expected one of them, or one called train; give one, e.g. data['test']")
    return cast("Iterable[Any]", values["train"] if "train" in values else next(iter(values.values())))


def _rows_in_mapping(values: Mapping[str, Any]) -> list[Any] | None:
    """The rows of columns by name, or the only row; None for splits by name.

    Raises:
        SparseRMError: the columns have different lengths.
    """
    cells = {name: one.tolist() if hasattr(one, "tolist") else one for name, one in values.items()}
    lists = [one for one in cells.values() if isinstance(one, (list, tuple))]
    is_message = all(isinstance(turn, Mapping) and turn.keys() & {"role", "from"} for one in lists for turn in one)
    if any(isinstance(one, str) for one in cells.values()) or (lists and is_message and len(lists) == len(cells)):
        return [values]
    if len(lists) < len(cells):
        return None
    if len({*map(len, lists)}) > 1:
        counts = ", ".join(f"{name} ({len(one)})" for name, one in cells.items())
        raise SparseRMError(f"got columns of different lengths, {one_line(counts, 200)}; expected a cell of each for every row")
    return [dict(zip(cells, row, strict=True)) for row in zip(*lists, strict=True)]


def _frame_records(values: Any) -> list[Any]:
    """The rows of a data frame, or the values of a series.

    Raises:
        SparseRMError: its columns have no names of their own.
    """
    if not hasattr(values, "columns"):
        return list(values)
    names = list(values.columns)
    if not all(isinstance(name, str) for name in names):
        listed = one_line(", ".join(map(repr, names)), 200)
        raise SparseRMError(
            f"the data frame has the columns {listed}, expected names that are text, such as prompt; set its columns, e.g. "
            "frame.columns = ['prompt', 'chosen', 'rejected']"
        )
    check_names(names, "the data frame")
    return list(values.to_dict("records"))


def check_names(names: Iterable[str], what: str) -> None:
    """Check that no two columns have one name.

    Raises:
        SparseRMError: some have.
    """
    if twice := sorted(name for name, count in Counter(names).items() if name and count > 1):
        raise SparseRMError(f"{what} has more than one column {one_line(', '.join(map(repr, twice)), 400)}: rename all but one")


def columns_of(rows: Iterable[RawRow]) -> list[str]:
    """The names of the columns that any row has, in order of first occurrence."""
    found: dict[str, None] = {}
    for row in rows:
        if row.values and not row.values.keys() <= found.keys():
            found.update(dict.fromkeys(row.values))
    return list(found)


def canonical(name: str) -> str:
    """A column's name in lower case with underscores: ``Response A`` is ``response_a``."""
    return re.sub("[^a-z0-9.]+", "_", name.lower()).strip("_")


def raw_rows(values: Iterable[Any], first_row: int = 1) -> Iterator[RawRow]:
    """Raw rows one by one; a value that is not a mapping of columns gets an issue."""
    return (raw_row(number, value) for number, value in enumerate(values, start=first_row))


def raw_row(number: int, value: Any) -> RawRow:
    """A value as a raw row; it gets an issue if it is not a mapping of columns."""
    if isinstance(value, Mapping):
        return RawRow(number, value) if not is_viewed(value) else _viewed(number, value)
    problem = f"is {type(value).__name__}, expected an object with the columns prompt, chosen and rejected"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def is_viewed(value: Any) -> bool:
    """Whether a row stands inside an object, as the Hub's dataset viewer gives it."""
    return isinstance(value, Mapping) and "row_idx" in value and isinstance(value.get("row"), Mapping)


def _viewed(number: int, value: Mapping[str, Any]) -> RawRow:
    if not value.get("truncated_cells"):
        return RawRow(number, value["row"])
    cut = one_line(value["truncated_cells"], 100)
    problem = f"is cut short in {cut} by the Hub's dataset viewer: give the name of the dataset, or one of its Parquet files"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))

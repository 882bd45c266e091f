"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from sparserm.pairs.limits import MAX_ROW, check_blank_lines, check_columns
from sparserm.pairs.quoting import Quoting, are_surely_rows, holds_quoted
from sparserm.pairs.rows import WHOLE_ROW, RawRow, check_names
from sparserm.pairs.streams import SAVE_AS_UTF8, not_utf8
from sparserm.types import PairIssue, SparseRMError

#: A cell that may be the name of a column.
_NAME = re.compile(r"\s*[^\W\d]\w*(?:[ .-]\w+){0,3}\s*")
#: What makes a CSV file whole again.
_QUOTE = (
    'put cells that hold separators, quotes or line breaks in double quotes, and double the quotes inside (""), or save the '
    "file as JSON Lines"
)


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file is written.

    Attributes:
        quoting: its delimiter, and what its rows show.
        begins: bytes before the header: a line of Excel that names the delimiter.
    """

    quoting: Quoting
    begins: int


def csv_form(data: bytes, suffix: str) -> CsvForm:
    """The most frequent of ``, ; tab |`` in the header line: Excel writes ``;`` in much of Europe, and may say so in a line."""
    named = re.match(rb'[\r\n]*"?sep=(.)"?[,;\t]*\r?\n', data)
    begins = named.end() if named else 0
    header = re.sub(rb'"[^"]*"', b"", data[begins:].lstrip(b"\r\n").split(b"\n", 1)[0]).decode("utf-8", "replace")
    found = max(",;\t|", key=header.count)
    delimiter = named[1].decode("latin-1") if named else "\t" if suffix == ".tsv" and "\t" in header else found
    spaced = delimiter in header and header.count(delimiter) == len(re.findall(f"{re.escape(delimiter)} ", header))
    return CsvForm(Quoting(delimiter, spaced), begins)


def read_csv(stream: BinaryIO, filename: str, offset: int, form: CsvForm) -> Iterator[RawRow]:
    """Rows of a CSV file; Python's ``csv`` keeps every cell as text ("NA" too) and counts all rows, unlike pandas."""
    # The default limit of 128 KiB per cell is too small for long responses; the setting is global.
    csv.field_size_limit(max(csv.field_size_limit(), (1 << 31) - 1))
    lines = _CsvLines(stream, filename, offset, n_before=int(form.begins > 0))
    # Strict: otherwise an unclosed quote silently swallows all rows after it.
    reader = csv.reader(lines, delimiter=form.quoting.delimiter, strict=True, skipinitialspace=form.quoting.spaced)
    header: list[str] | None = None
    number = n_blank = 0
    was_blank = is_spaced = False  # whether the line before was blank, and whether such lines stand between all rows
    try:
        for cells in reader:
            row = lines.next_row()
            if not cells:
                n_blank += 1
                check_blank_lines(n_blank)
            elif header is None:
                header, n_blank = _csv_header(cells, filename), 0
            else:
                number += 1
                is_spaced = is_spaced or (number == 1 and n_blank > 0)
                one = _csv_row(number, header, cells, row, form.quoting)
                yield _second_header(one, cells, row) if was_blank and not is_spaced and number > 1 else one
            was_blank = not any(cell.strip() for cell in cells)
    except csv.Error as error:
        row = lines.next_row()
        raise SparseRMError(
            f"{filename}, line {lines.line}: broken CSV ({error}) in the row that begins on line {row.line}; {_QUOTE}"
        ) from error


@dataclass(frozen=True)
class _CsvText:
    """A row in the file: its lines, the number of the first one, and why it is not UTF-8 (empty if it is)."""

    lines: tuple[str, ...]
    line: int
    broken: str

    @property
    def where(self) -> str:
        last = self.line + len(self.lines) - 1
        return f"line {self.line}" if last == self.line else f"lines {self.line} to {last}"


class _CsvLines:
    """Iterator over lines for ``csv``, with their line ends.

    Raises:
        SparseRMError: a row is longer than :data:`~sparserm.pairs.limits.MAX_ROW`, or contains NUL.
    """

    def __init__(self, stream: BinaryIO, filename: str, offset: int, n_before: int = 0) -> None:
        self._text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        self._filename, self._offset = filename, offset
        self.line = n_before
        self._lines: list[str] = []
        self._length = 0
        self._broken = ""

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self.line += 1
        try:
            n_bytes = len(line.encode())
        except UnicodeEncodeError:
            raw = line.encode("utf-8", "surrogateescape")
            n_bytes = len(raw)
            self._broken = self._broken or f"line {self.line}: {_first_not_utf8(raw, self._offset)}"
        self._offset += n_bytes
        self._length += n_bytes
        if self._length > MAX_ROW:
            raise SparseRMError(
                f"{self._filename} has a row of more than {MAX_ROW >> 20} MB that ends after line {self.line}; expected "
                "shorter rows; close the double quotes around its cells, or shorten its texts"
            )
        if "\0" in line:
            raise SparseRMError(f"{self._filename}, line {self.line}, is not UTF-8 text (NUL); {SAVE_AS_UTF8}")
        self._lines.append(line)
        return line

    def next_row(self) -> _CsvText:
        """Begin the next row, and return the one before."""
        row = _CsvText(tuple(self._lines), self.line - len(self._lines) + 1, self._broken)
        self._lines, self._length, self._broken = [], 0, ""
        return row


def _first_not_utf8(raw: bytes, offset: int) -> str:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(raw[error.start], offset + error.start)
    return ""


def _csv_header(cells: list[str], filename: str) -> list[str]:
    check_columns(len(cells), filename)
    header = [cell.strip() for cell in cells]
    check_names(header, filename)
    return header


def _csv_row(number: int, header: list[str], cells: list[str], row: _CsvText, quoting: Quoting) -> RawRow:
    if row.broken:
        return RawRow(number, None, PairIssue(number, WHOLE_ROW, row.broken))
    if len(cells) < len(header) or any(cells[len(header) :]):
        problem = f"has {len(cells)} cells, the header has {len(header)} ({row.where}): {_QUOTE}"
        return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
    values = dict(zip(header, cells, strict=False))
    if not quoting.may_be_rows(row.lines, len(cells)):
        raw = "".join(row.lines)
        quoting.learn(cells, raw)
        return RawRow(number, values, _quoted_warning(number, row) if holds_quoted(cells, raw) else None)
    problem = f"joins {row.where}, each of which looks like a row: a quote may not be closed or doubled; {_QUOTE}"
    issue = PairIssue(number, WHOLE_ROW, problem)
    return RawRow(number, None if are_surely_rows(cells, len(row.lines)) else values, issue)


def _second_header(one: RawRow, cells: list[str], row: _CsvText) -> RawRow:
    """A row after a blank line, with a warning if its cells are such as names of columns are."""
    if one.issue is not None or len(set(cells)) < len(cells) or not all(map(_NAME.fullmatch, cells)):
        return one
    problem = f"follows a blank line ({row.where}) and may be the header of a second table: read as a pair"
    return replace(one, issue=PairIssue(one.row, WHOLE_ROW, problem, "warning"))


def without_joined(rows: list[RawRow], quoting: Quoting) -> list[RawRow]:
    """Rows whose lines may be several: kept with a warning where the file shows that its quotes are written well."""
    return [_judged(row, row.issue, quoting) if row.values is not None and row.issue is not None else row for row in rows]


def _quoted_warning(number: int, row: _CsvText) -> PairIssue:
    problem = f"has a cell in quotes after a space ({row.where}), read with its quotes: remove the space"
    return PairIssue(number, WHOLE_ROW, problem, "warning")


def _judged(row: RawRow, issue: PairIssue, quoting: Quoting) -> RawRow:
    if issue.severity == "warning":
        return row
    return replace(row, issue=replace(issue, severity="warning")) if quoting.is_kept else replace(row, values=None)

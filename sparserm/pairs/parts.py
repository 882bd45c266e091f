"""Splits a source of pairs into parts of a fixed number of rows that can be read independently, for scoring large files.

A JSONL file is split in one streaming pass, a Parquet file by its footer; any process with access to the file can then read any
part. All other sources that :func:`~sparserm.pairs.load.load_pairs` accepts are read once and held in memory. Row numbers and
issues refer to the whole source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparserm.pairs import parquet
from sparserm.pairs.files import kept
from sparserm.pairs.json_files import json_lines
from sparserm.pairs.limits import MAX_ROW, Budget
from sparserm.pairs.load import find_file, read_source
from sparserm.pairs.rows import RawRow, rows_of
from sparserm.pairs.streams import BOM, COMPRESSED, check_text, lines
from sparserm.types import SparseRMError

#: Rows per part: an interruption loses at most this many; enough to fill batches with texts of similar length.
PART_ROWS = 512

#: A byte of JSON takes at most this many in memory; see :func:`~sparserm.pairs.limits.most_memory`.
_GROWTH = 80


@dataclass(frozen=True)
class Part:
    """Position of one part in its source.

    Attributes:
        index: 0-based number of the part.
        first_row: 1-based number of the first row.
        n_rows: number of rows.
        first_line: 1-based number of the first line, in a JSONL file.
        start, end: byte range in a JSONL file; 0-based row range in other sources.
    """

    index: int
    first_row: int
    n_rows: int
    first_line: int
    start: int
    end: int


@dataclass(frozen=True)
class PartedSource:
    """A source and its parts.

    Attributes:
        name: display name of the source.
        path: the file that parts are read from; None if the rows are in memory.
        parts: the parts in row order.
        content_hash: SHA-256 of the file, or of the rows in memory (64 hex digits).
        state: size in bytes and modification time of the file when it was split.
    """

    name: str
    path: Path | None
    parts: tuple[Part, ...]
    content_hash: str
    state: tuple[int, int] = (0, 0)
    _rows: list[RawRow] = field(default_factory=list, repr=False)

    @property
    def n_rows(self) -> int:
        """Number of rows in all parts."""
        return sum(part.n_rows for part in self.parts)

    def read(self, part: Part) -> list[RawRow]:
        """Read the rows of one part.

        Raises:
            SparseRMError: the file is missing, has changed since it was split, or this part is unreadable or too large.
        """
        if self.path is None:
            return self._rows[part.start : part.end]
        budget = Budget(f"rows {part.first_row:,} to {part.first_row + part.n_rows - 1:,} of {self.name}", 0)
        try:
            if _state(self.path) != self.state:
                raise SparseRMError(f"{self.path} has changed since it was first read; restore the original, or start over")
            if self.path.suffix.lower() == ".parquet":
                with parquet.parquet_errors(self.name):
                    return kept(rows_of(_parquet_rows(self.path, part, budget), part.first_row), budget)
            with self.path.open("rb") as file:
                file.seek(part.start)
                budget.possible = _GROWTH * (part.end - part.start)
                return kept(json_lines(lines(file, part.end), part.start, part.first_line, part.first_row), budget)
        except OSError as error:
            raise SparseRMError(f"cannot read {self.path}: {error.strerror or error}; restore the file") from error


def cut(source: str | Path, rows: int = PART_ROWS, split: str | None = None, config: str | None = None) -> PartedSource:
    """Split a source, as accepted by :func:`~sparserm.pairs.load.load_pairs`, into parts of ``rows`` rows.

    Raises:
        SparseRMError: nothing was found under that name, the source cannot be read, or it has no rows.
    """
    path = find_file(source) if split is None and config is None else None
    try:
        # The path is not resolved: files in the Hub's cache are links to names without a suffix.
        in_file = path is not None and _can_seek(path)
        found = _cut_file(Path(os.path.abspath(path)), rows) if in_file and path else _cut_rows(source, rows, split, config)
    except OSError as error:
        raise SparseRMError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    if not found.parts:
        raise SparseRMError(f"{found.name} has no rows: expected at least one with prompt, chosen and rejected")
    return found


def _can_seek(path: Path) -> bool:
    """Whether parts can be read from the file: Parquet or uncompressed JSON Lines, not a JSON list or another format."""
    if path.suffix.lower() == ".parquet":
        return True
    with path.open("rb") as file:
        start = file.read(1 << 16)
    try:
        check_text(start, path.name)
    except SparseRMError:
        return False
    is_packed = start.startswith(COMPRESSED) or start[:4] == b"PAR1"
    return path.suffix.lower() == ".jsonl" and not is_packed and start.removeprefix(BOM).lstrip()[:1] != b"["


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _cut_file(path: Path, rows: int) -> PartedSource:
    state = _state(path)
    if path.suffix.lower() == ".parquet":
        with parquet.parquet_errors(path.name):
            parts = _parquet_parts(path, rows)
    else:
        parts = list(_line_parts(path, rows))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return PartedSource(path.name, path, tuple(parts), digest.hexdigest(), state)


def _cut_rows(source: str | Path, rows: int, split: str | None, config: str | None) -> PartedSource:
    name, all_rows = read_source(source, split, config)
    digest = hashlib.sha256()
    for row in all_rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    starts = range(0, len(all_rows), rows)
    parts = [Part(i, start + 1, min(rows, len(all_rows) - start), 1, start, start + rows) for i, start in enumerate(starts)]
    return PartedSource(name, None, tuple(parts), digest.hexdigest(), _rows=all_rows)


def _line_parts(path: Path, rows: int) -> Iterator[Part]:
    """The parts of a JSONL file; blank lines count as lines, but not as rows."""
    with path.open("rb") as file:
        index = n_rows = 0
        start = position = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        first_line = line_number = 1
        for line, length in lines(file):
            if length > MAX_ROW or line.strip():
                if n_rows == rows:
                    yield Part(index, index * rows + 1, n_rows, first_line, start, position)
                    index, start, first_line, n_rows = index + 1, position, line_number, 0
                n_rows += 1
            position += length
            line_number += 1
        if n_rows:
            yield Part(index, index * rows + 1, n_rows, first_line, start, position)


def _parquet_parts(path: Path, rows: int) -> list[Part]:
    with parquet.open_parquet(path, path.name) as file:
        total = file.metadata.num_rows
    starts = range(0, total, rows)
    return [Part(i, start + 1, min(rows, total - start), 1, start, min(start + rows, total)) for i, start in enumerate(starts)]


def _parquet_rows(path: Path, part: Part, budget: Budget) -> list[dict[str, Any]]:
    """Read only the row groups of the part, in batches and up to its end: a row group can be the whole file."""
    with parquet.open_parquet(path, path.name) as file:
        before, groups, first = 0, [], 0
        for group in range(file.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            if before < part.end and before + n > part.start:
                groups.append(group)
                first = before if len(groups) == 1 else first
            before += n
            if before >= part.end:
                break
        found: list[dict[str, Any]] = []
        for batch in parquet.batches(file, budget, groups, part.n_rows):
            start, end = max(part.start - first, 0), min(part.end - first, len(batch))
            if start < end:
                found += parquet.unpack(batch.slice(start, end - start))
            first += len(batch)
            if first >= part.end:
                break
        return found

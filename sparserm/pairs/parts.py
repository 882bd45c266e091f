"""A source of pairs cut into parts of so many rows, each of which can be read alone: how large files are scored.

A JSONL file is cut by one pass over its bytes that keeps none of them, a Parquet file by its footer; any process that sees
the file can then read any part. Every other form that :func:`~sparserm.pairs.load.load_pairs` takes is read once and kept in
memory. Row numbers and findings are those of the whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparserm.pairs.files import BOM, RawRow, check_text, json_lines, parquet_errors, rows_of
from sparserm.pairs.load import find_file, read_source
from sparserm.types import SparseRMError

#: Rows of a part: what an interruption can cost, and enough texts of like length to fill batches.
PART_ROWS = 512


@dataclass(frozen=True)
class Part:
    """Where one part lies.

    Attributes:
        index: its 0-based number.
        first_row: the number of its first row, from 1; ``n_rows`` how many it has.
        first_line: the number of its first line, from 1, in a JSONL file.
        start, end: its bytes in a JSONL file; elsewhere its rows, from 0.
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
        name: as people know it.
        path: the file that parts are read from; None where the rows are in memory.
        parts: in the order of the rows.
        content_hash: SHA-256 of the file, or of the rows in memory (64 hex digits).
        state: size in bytes and time of change of the file that was cut.
    """

    name: str
    path: Path | None
    parts: tuple[Part, ...]
    content_hash: str
    state: tuple[int, int] = (0, 0)
    _rows: list[RawRow] = field(default_factory=list, repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of all parts."""
        return sum(part.n_rows for part in self.parts)

    def read(self, part: Part) -> list[RawRow]:
        """The rows of one part.

        Raises:
            SparseRMError: the file is gone, has changed since it was cut, or is broken there.
        """
        if self.path is None:
            return self._rows[part.start : part.end]
        try:
            if _state(self.path) != self.state:
                raise SparseRMError(f"{self.path} has changed since it was first read; put it back as it was, or begin anew")
            if self.path.suffix.lower() == ".parquet":
                with parquet_errors(self.name):
                    return rows_of(_parquet_rows(self.path, part), part.first_row)
            with self.path.open("rb") as file:
                file.seek(part.start)
                data = file.read(part.end - part.start)
        except OSError as error:
            raise SparseRMError(f"cannot read {self.path}: {error.strerror or error}; put the file back") from error
        return list(json_lines(data, part.start, part.first_line, part.first_row))


def cut(source: str | Path, rows: int = PART_ROWS, split: str = "train") -> PartedSource:
    """Find a source as :func:`~sparserm.pairs.load.load_pairs` does, and its parts.

    Raises:
        SparseRMError: nothing of that name was found, it cannot be read, or it holds no row.
    """
    path = find_file(source)
    try:
        # Not resolved: what the hub's cache links to has no suffix.
        in_file = path is not None and _can_seek(path)
        found = _cut_file(Path(os.path.abspath(path)), rows) if in_file and path else _cut_rows(source, rows, split)
    except OSError as error:
        raise SparseRMError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    if not found.parts:
        raise SparseRMError(f"{found.name} holds no rows: expected at least one with prompt, chosen and rejected")
    return found


def _can_seek(path: Path) -> bool:
    """Whether rows can be read from the middle: Parquet, or a row a line (not a JSON list, packed, or another kind of file)."""
    if path.suffix.lower() == ".parquet":
        return True
    with path.open("rb") as file:
        start = file.read(1 << 16)
    try:
        check_text(start, path.name)
    except SparseRMError:
        return False
    is_packed = start[:2] == b"\x1f\x8b" or start[:4] == b"PAR1"
    return path.suffix.lower() == ".jsonl" and not is_packed and start.removeprefix(BOM).lstrip()[:1] != b"["


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _cut_file(path: Path, rows: int) -> PartedSource:
    state = _state(path)
    if path.suffix.lower() == ".parquet":
        with parquet_errors(path.name):
            parts = _parquet_parts(path, rows)
    else:
        parts = list(_line_parts(path, rows))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return PartedSource(path.name, path, tuple(parts), digest.hexdigest(), state)


def _cut_rows(source: str | Path, rows: int, split: str) -> PartedSource:
    name, kept = read_source(source, split)
    digest = hashlib.sha256()
    for row in kept:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    starts = range(0, len(kept), rows)
    parts = [Part(i, start + 1, min(rows, len(kept) - start), 1, start, start + rows) for i, start in enumerate(starts)]
    return PartedSource(name, None, tuple(parts), digest.hexdigest(), _rows=kept)


def _line_parts(path: Path, rows: int) -> Iterator[Part]:
    """Blank lines count as lines, but not as rows."""
    with path.open("rb") as file:
        index = n_rows = 0
        start = position = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        first_line = line_number = 1
        for line in file:
            if line.strip():
                if n_rows == rows:
                    yield Part(index, index * rows + 1, n_rows, first_line, start, position)
                    index, start, first_line, n_rows = index + 1, position, line_number, 0
                n_rows += 1
            position += len(line)
            line_number += 1
        if n_rows:
            yield Part(index, index * rows + 1, n_rows, first_line, start, position)


def _parquet_parts(path: Path, rows: int) -> list[Part]:
    import pyarrow.parquet as pq

    total = pq.ParquetFile(path).metadata.num_rows
    starts = range(0, total, rows)
    return [Part(i, start + 1, min(rows, total - start), 1, start, min(start + rows, total)) for i, start in enumerate(starts)]


def _parquet_rows(path: Path, part: Part) -> list[dict[str, Any]]:
    """Only the row groups that hold the part are read, up to its end and in pieces: a group can be the whole file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        before, groups, first = 0, [], 0
        for group in range(file.num_row_groups):
            n = file.metadata.row_group(group).num_rows
            if before < part.end and before + n > part.start:
                groups.append(group)
                first = before if len(groups) == 1 else first
            before += n
        found: list[dict[str, Any]] = []
        for batch in file.iter_batches(part.n_rows, row_groups=groups):
            start, end = max(part.start - first, 0), min(part.end - first, len(batch))
            if start < end:
                found += batch.slice(start, end - start).to_pylist()
            first += len(batch)
            if first >= part.end:
                break
        return found

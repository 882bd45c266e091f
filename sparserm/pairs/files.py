"""Readers that turn files, saved datasets and Hub datasets into raw rows.

A row that cannot be read keeps its number and gets an issue; an error is raised only if the whole source is unreadable, or
takes more memory than :mod:`sparserm.pairs.limits` allows.
"""

from __future__ import annotations

import gc
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sparserm.pairs import parquet
from sparserm.pairs.csv_files import csv_form, read_csv, without_joined
from sparserm.pairs.json_files import first_character, read_json
from sparserm.pairs.limits import MAX_COLUMNS, Budget, check_columns, size_of
from sparserm.pairs.rows import RawRow, raw_rows
from sparserm.pairs.streams import (
    BLOCK,
    BOM,
    PACKED,
    SUFFIXES,
    UTF16,
    check_text,
    from_utf16,
    suffix_of,
    unpacked,
    unpacked_name,
    whole,
)
from sparserm.types import SparseRMError


def read_bytes(data: bytes, filename: str) -> list[RawRow]:
    """Read the rows of a file from its bytes; the format is detected from the content, then from the file name.

    Raises:
        SparseRMError: the format is unknown, the whole file is unreadable, or it takes too much memory.
    """
    return _read(io.BytesIO(data), filename, len(data))


def _read(file: BinaryIO, filename: str, size: int) -> list[RawRow]:
    budget = Budget(filename, size)
    stream = unpacked(file, budget)
    start = stream.read(BLOCK)
    stream.seek(0)
    if start.startswith(UTF16):
        stream = from_utf16(stream, filename)
        start = stream.read(BLOCK)
        stream.seek(0)
    suffix = suffix_of(filename)
    if start[:4] == b"PAR1" or suffix == ".parquet":
        return kept(_read_parquet(stream, filename, budget), budget)
    check_text(start, filename)
    bom = len(BOM) if start.startswith(BOM) else 0
    stream.seek(bom)
    if suffix in (".csv", ".tsv"):
        form = csv_form(start[bom:], suffix)
        stream.seek(bom + form.begins)
        return without_joined(kept(read_csv(stream, filename, bom + form.begins, form), budget), form.quoting)
    first = first_character(stream, bom)
    if suffix in (".json", ".jsonl") or first in (b"{", b"["):
        return kept(read_json(stream, filename, bom, first, budget), budget)
    raise SparseRMError(
        f"{filename} has an unsupported format: expected one of {', '.join(SUFFIXES)}, or one of these as {', '.join(PACKED)}"
    )


def kept(rows: Iterable[RawRow], budget: Budget) -> list[RawRow]:
    """The rows as a list.

    Raises:
        SparseRMError: they take more memory than the budget, or have too many columns.
    """
    found: list[RawRow] = []
    columns: set[str] = set()
    measured = 0
    for row in rows:
        columns.update(row.values or ())
        if len(columns) > MAX_COLUMNS:
            check_columns(len(columns), budget.name)
        found.append(row)
        if not budget.is_safe:
            for one in found[measured:]:
                budget.add_row(size_of(one.values), has_finding=one.issue is not None)
            measured = len(found)
    return found


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection inside the block.

    Reading creates many small objects, which trigger collections; they took a third of the time to read 10,000 pairs.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@uncollected()
def read_path(path: Path) -> list[RawRow]:
    """Read the rows of a file.

    Raises:
        SparseRMError: the file cannot be opened, or as for :func:`read_bytes`.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.name, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise SparseRMError(f"cannot read {path}: {error.strerror or error}") from error


def data_files() -> dict[str, Path]:
    """Every file of a supported format below ``SPARSERM_DATA``, by its relative path; empty if the variable is not set."""
    root = Path(os.environ.get("SPARSERM_DATA", "")).expanduser()
    if not os.environ.get("SPARSERM_DATA") or not root.is_dir():
        return {}
    found = sorted(path for path in root.rglob("*") if suffix_of(path.name) in SUFFIXES and path.is_file())
    return {path.relative_to(root).as_posix(): path for path in found}


def list_data_files() -> dict[str, Path]:
    """The files below ``SPARSERM_DATA`` that have the columns ``chosen`` and ``rejected``, by relative path.

    Only the beginning of each file is read. Files with other column names are not listed, but can be loaded by name with
    ``columns=``.
    """
    return {name: path for name, path in data_files().items() if _has_preferences(path)}


def find_data_file(name: str) -> Path | None:
    """The file below ``SPARSERM_DATA`` with this relative path or file name, with or without the suffix.

    Raises:
        SparseRMError: several files match.
    """
    matches = {
        relative: path
        for relative, path in data_files().items()
        if name in (relative, _stem(relative), path.name, _stem(path.name))
    }
    if name in matches:
        return matches[name]
    if len(matches) > 1:
        raise SparseRMError(f"{name!r} matches several files under SPARSERM_DATA: choose one of {', '.join(matches)}")
    return next(iter(matches.values()), None)


def has_data_suffix(name: str) -> bool:
    """Whether ``name`` ends with a supported file suffix, and so cannot be a dataset name."""
    return suffix_of(name) in SUFFIXES


def _stem(name: str) -> str:
    name = unpacked_name(name)
    return name.removesuffix(Path(name).suffix)


def _read_parquet(stream: BinaryIO, filename: str, budget: Budget) -> Iterator[RawRow]:
    with parquet.parquet_errors(filename):
        data = whole(stream)
        file = parquet.open_parquet(data, filename)
        budget.possible = 0  # what was counted until here is no text
        parquet.check_whole(file, data.getbuffer(), budget)
        first_row = 1
        for batch in parquet.batches(file, budget):
            yield from raw_rows(parquet.unpack(batch), first_row)
            first_row += batch.num_rows


def _has_preferences(path: Path) -> bool:
    try:
        if suffix_of(path.name) == ".parquet":
            with parquet.parquet_errors(path.name), parquet.open_parquet(path, path.name) as file:
                return {"chosen", "rejected"} <= set(file.schema_arrow.names)
        with path.open("rb") as file:
            start = unpacked(file, Budget(path.name, 0)).read(BLOCK)
    except (OSError, SparseRMError):  # an unreadable file is not listed
        return False
    if suffix_of(path.name) in (".csv", ".tsv"):
        start = start.removeprefix(BOM)
        header = start[csv_form(start, suffix_of(path.name)).begins :].split(b"\n", 1)[0]
        return {b"chosen", b"rejected"} <= set(re.split(rb"[^\w]+", header))
    # The unescaped quote before the colon matches the key itself, not a mention of it inside a text.
    return all(re.search(rb'"%s"\s*:' % key, start) for key in (b"chosen", b"rejected"))

"""Readers that turn files, saved datasets and Hub datasets into raw rows.

A row that cannot be read keeps its number and gets an issue; an error is raised only if the whole source is unreadable, or
takes more memory than :mod:`sparserm.pairs.limits` allows.
"""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import io
import json
import lzma
import math
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from sparserm.pairs import parquet
from sparserm.pairs.limits import (
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_ROW,
    Budget,
    check_blank_lines,
    check_columns,
    most_memory,
    size_of,
)
from sparserm.pairs.quoting import Quoting, are_surely_rows, holds_quoted
from sparserm.support.files import one_line
from sparserm.types import PairIssue, SparseRMError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
#: The column of an issue that concerns the whole row.
WHOLE_ROW = "(whole row)"

#: The UTF-8 byte order mark that some editors write.
BOM = b"\xef\xbb\xbf"

#: Bytes that are read at once, and looked at to detect the format.
_BLOCK = 1 << 20
#: First bytes of compressed files.
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
COMPRESSED = (_GZIP, _BZIP2, _XZ, _ZSTD)
#: Endings of compressed files.
PACKED = (".gz", ".bz2", ".xz", ".zst")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
#: Other file types that users upload by mistake, by their first bytes.
_OTHER_KINDS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive, such as an Excel workbook",
    b"ARROW1": "an Arrow (Feather) file",
    b"\xff\xff\xff\xff": "a stream of Arrow, such as datasets keeps in its folders (give the folder instead)",
}
#: How names of splits begin.
_SPLITS = ("train", "test", "val", "dev", "eval")
_NARROW = "save the file as UTF-8, e.g. `iconv -f UTF-16LE -t UTF-8 old > new`"
#: What makes a CSV file whole again.
_QUOTE = (
    'put cells that hold separators, quotes or line breaks in double quotes, and double the quotes inside (""), or save the '
    "file as JSON Lines"
)
_SAVE_AS_UTF8 = "save the file as UTF-8, e.g. `iconv -f WINDOWS-1252 -t UTF-8 old > new`, or as 'CSV UTF-8' in Excel"


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
    _check_names(names, "the data frame")
    return list(values.to_dict("records"))


def _check_names(names: Iterable[str], what: str) -> None:
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


def read_bytes(data: bytes, filename: str) -> list[RawRow]:
    """Read the rows of a file from its bytes; the format is detected from the content, then from the file name.

    Raises:
        SparseRMError: the format is unknown, the whole file is unreadable, or it takes too much memory.
    """
    return _read(io.BytesIO(data), filename, len(data))


def _read(file: BinaryIO, filename: str, size: int) -> list[RawRow]:
    budget = Budget(filename, size)
    stream = unpacked(file, budget)
    start = stream.read(_BLOCK)
    stream.seek(0)
    if start.startswith(_UTF16):
        stream = _from_utf16(stream, filename)
        start = stream.read(_BLOCK)
        stream.seek(0)
    suffix = _suffix(filename)
    if start[:4] == b"PAR1" or suffix == ".parquet":
        return kept(_read_parquet(stream, filename, budget), budget)
    check_text(start, filename)
    bom = len(BOM) if start.startswith(BOM) else 0
    stream.seek(bom)
    if suffix in (".csv", ".tsv"):
        form = _csv_form(start[bom:], suffix)
        stream.seek(bom + form.begins)
        return _without_joined(kept(_read_csv(stream, filename, bom + form.begins, form), budget), form.quoting)
    first = _first_character(stream, bom)
    if suffix in (".json", ".jsonl") or first in (b"{", b"["):
        return kept(_read_json(stream, filename, bom, first, budget), budget)
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


class _Limited(io.RawIOBase):
    """A file, unpacked if it is compressed, that ends with an error at the limit of a budget."""

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        start = file.read(6)
        file.seek(0)
        self._packed = next((kind for mark, kind in _UNPACK.items() if start.startswith(mark)), "")
        self._file = _opened(file, self._packed, budget)
        self._budget = budget

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if not self._packed:
                raise
            raise SparseRMError(
                f"{self._budget.name} is a broken {self._packed} file ({one_line(error)}): copy or compress it again"
            ) from error
        self._budget.require(self._file.tell())
        self._budget.possible += most_memory(data)
        buffer[: len(data)] = data
        return len(data)


#: Kinds of compressed files by their first bytes.
_UNPACK = {_GZIP: "gzip", _BZIP2: "bzip2", _XZ: "xz", _ZSTD: "Zstandard"}


def _opened(file: BinaryIO, packed: str, budget: Budget) -> BinaryIO:
    """The content of a file that is compressed in this way."""
    if packed == "Zstandard":
        return _zstandard(file, budget)
    readers: dict[str, Any] = {"gzip": partial(gzip.open, mode="rb"), "bzip2": bz2.open, "xz": lzma.open}
    return cast(BinaryIO, readers[packed](file)) if packed else file


def _zstandard(file: BinaryIO, budget: Budget) -> BinaryIO:
    """The whole content: pyarrow's stream cannot go back to its beginning."""
    import pyarrow as pa

    data = io.BytesIO()
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
            while block := stream.read(_BLOCK):
                budget.require(data.tell() + len(block))
                data.write(block)
    except (OSError, pa.ArrowException) as error:
        raise SparseRMError(
            f"{budget.name} is a broken Zstandard file ({one_line(error)}): copy or compress it again"
        ) from error
    data.seek(0)
    return data


def _from_utf16(stream: io.BufferedReader, filename: str) -> io.BufferedReader:
    """The same text in UTF-8."""
    try:
        data = stream.read().decode("utf-16").encode("utf-8")
    except UnicodeError as error:
        raise SparseRMError(f"{filename} begins as UTF-16 text and is none ({one_line(error)}); {_SAVE_AS_UTF8}") from error
    return io.BufferedReader(io.BytesIO(data))


def unpacked(file: BinaryIO, budget: Budget) -> io.BufferedReader:
    """A stream of the content of a file at its beginning, decompressed if it is a gzip, bzip2, xz or Zstandard file.

    Raises:
        SparseRMError: here or while reading, the compressed file is broken, or the content exceeds the budget.
    """
    if not file.seekable():  # a pipe
        file = io.BytesIO(file.read(budget.limit + 1))
    return io.BufferedReader(_Limited(file, budget), _BLOCK)


def check_text(data: bytes, filename: str) -> None:
    """Check that the first bytes of a file can be UTF-8 text.

    Raises:
        SparseRMError: they belong to another type of file.
    """
    for beginning, kind in _OTHER_KINDS.items():
        if data.startswith(beginning):
            raise SparseRMError(
                f"{filename} is {kind}: expected a table of preference pairs as {', '.join(SUFFIXES)}; "
                "export it as one of these"
            )
    if data.startswith(_LFS_POINTER):
        raise SparseRMError(
            f"{filename} is a Git LFS pointer, not the data: expected the file that it stands for; run `git lfs pull` in its "
            "repository, or download the file"
        )
    if b"\0" in data:
        wide = b"\0" in data[:4]  # a header in Latin letters
        where = f"NUL at byte offset {data.index(0)}{', as in UTF-16 or UTF-32 without its mark' if wide else ''}"
        raise SparseRMError(f"{filename} is not UTF-8 text ({where}): expected UTF-8; {_SAVE_AS_UTF8 if not wide else _NARROW}")


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
    found = sorted(path for path in root.rglob("*") if _suffix(path.name) in SUFFIXES and path.is_file())
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
    return _suffix(name) in SUFFIXES


def _suffix(filename: str) -> str:
    return Path(_unpacked_name(filename.lower())).suffix


def _unpacked_name(name: str) -> str:
    return name.removesuffix(next((ending for ending in PACKED if name.endswith(ending)), ""))


def _stem(name: str) -> str:
    name = _unpacked_name(name)
    return name.removesuffix(Path(name).suffix)


def raw_rows(values: Iterable[Any], first_row: int = 1) -> Iterator[RawRow]:
    """Raw rows one by one; a value that is not a mapping of columns gets an issue."""
    return (_raw_row(number, value) for number, value in enumerate(values, start=first_row))


def _raw_row(number: int, value: Any) -> RawRow:
    if isinstance(value, Mapping):
        return RawRow(number, value) if not _is_viewed(value) else _viewed(number, value)
    problem = f"is {type(value).__name__}, expected an object with the columns prompt, chosen and rejected"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def _is_viewed(value: Any) -> bool:
    """Whether a row stands inside an object, as the Hub's dataset viewer gives it."""
    return isinstance(value, Mapping) and "row_idx" in value and isinstance(value.get("row"), Mapping)


def _viewed(number: int, value: Mapping[str, Any]) -> RawRow:
    if not value.get("truncated_cells"):
        return RawRow(number, value["row"])
    cut = one_line(value["truncated_cells"], 100)
    problem = f"is cut short in {cut} by the Hub's dataset viewer: give the name of the dataset, or one of its Parquet files"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def _read_parquet(stream: BinaryIO, filename: str, budget: Budget) -> Iterator[RawRow]:
    with parquet.parquet_errors(filename):
        data = _whole(stream)
        file = parquet.open_parquet(data, filename)
        budget.possible = 0  # what was counted until here is no text
        parquet.check_whole(file, data.getbuffer(), budget)
        first_row = 1
        for batch in parquet.batches(file, budget):
            yield from raw_rows(parquet.unpack(batch), first_row)
            first_row += batch.num_rows


def _whole(stream: BinaryIO) -> io.BytesIO:
    data = io.BytesIO()
    shutil.copyfileobj(stream, data, _BLOCK)
    data.seek(0)
    return data


def _first_character(stream: BinaryIO, start: int) -> bytes:
    """The first character that is not white space; the stream is then at ``start`` again."""
    found = b""
    while not found and (block := stream.read(_BLOCK)):
        found = block.lstrip()[:1]
    stream.seek(start)
    return found


def _read_json(stream: BinaryIO, filename: str, offset: int, first: bytes, budget: Budget) -> Iterator[RawRow]:
    """Rows of a JSON list, a single JSON object, or one object per line (which many tools also save as ``.json``)."""
    is_json = _suffix(filename) == ".json"
    if first == b"[":
        data = _whole(stream).getvalue()
        budget.require(most_memory(data))
        try:
            return raw_rows(json.loads(data.decode("utf-8"), object_pairs_hook=_unique))
        except UnicodeDecodeError as error:
            if is_json:
                line = data.count(b"\n", 0, error.start) + 1
                problem = _not_utf8(data[error.start], offset + error.start)
                raise SparseRMError(f"{filename}, line {line}: {problem}") from error
        except (ValueError, RecursionError) as error:
            if is_json:
                raise SparseRMError(f"{filename} is not valid JSON ({one_line(error)}): fix it there") from error
        stream.seek(offset)
    elif is_json:
        data = stream.read(MAX_ROW + 1)
        stream.seek(offset)
        if len(data) <= MAX_ROW:
            try:
                value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
            except _TwiceError as error:
                raise SparseRMError(f"{filename} is not valid JSON ({one_line(error)}): fix it there") from error
            except (ValueError, RecursionError):  # one object per line
                return json_lines(lines(stream), offset)
            return raw_rows(_rows_in(value, filename))
    return json_lines(lines(stream), offset)


class _TwiceError(ValueError):
    """An object of JSON has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which no key may stand twice: only the last value would be read.

    Raises:
        _TwiceError: one does.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _TwiceError(f"the key {key!r:.60} stands twice in one object")
    return found


def _rows_in(value: Any, filename: str) -> list[Any]:
    """The rows of a JSON object: those in its only list, or of the columns that pandas writes, or the object as one row."""
    if not isinstance(value, dict):
        return [value]
    lists = {
        key: one for key, one in value.items() if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)
    }
    lists = {"rows": lists["rows"]} if all(map(_is_viewed, lists.get("rows", [None]))) else lists
    if not {"chosen", "rejected", "prompt", "messages"} & set(value):
        if len(lists) == 1:
            (rows,) = lists.values()
            return rows
        if lists and all(str(key).lower().startswith(_SPLITS) for key in value):
            raise SparseRMError(f"{filename} holds the splits {', '.join(lists)}, expected one; save each as a file of its own")
    if (found := _split_rows(value, filename) or _rows_of_columns(value, filename)) is not None:
        return found
    inner = list(value.values())
    if not inner or not all(isinstance(one, dict) and one.keys() == inner[0].keys() for one in inner):
        return [value]
    if all(isinstance(key, str) and key.isdigit() for key in inner[0]):  # pandas' default: columns, then rows
        return [{name: cells[row] for name, cells in value.items()} for row in inner[0]]
    return inner if all(key.isdigit() for key in value) else [value]  # orient="index"


def _split_rows(value: Mapping[str, Any], filename: str) -> list[dict[str, Any]] | None:
    """The rows of an object with names in columns and cells in data, as pandas writes it (``orient="split"``); else None.

    Raises:
        SparseRMError: two columns have one name, or a row has more cells than there are columns.
    """
    if not {"columns", "data"} <= set(value) or not all(isinstance(row, list) for row in value["data"]):
        return None
    names = value["columns"]
    _check_names(map(str, names), filename)
    if (long := next((row for row in value["data"] if len(row) > len(names)), None)) is not None:
        raise SparseRMError(
            f"{filename} has a row of {len(long)} cells in data and {len(names)} columns, expected a column for each cell; "
            "name all of them in columns"
        )
    return [dict(zip(names, row, strict=False)) for row in value["data"]]


def _rows_of_columns(value: Mapping[str, Any], filename: str) -> list[dict[str, Any]] | None:
    """The rows of an object that holds a list of cells for each column; None for another object.

    Raises:
        SparseRMError: it may as well be one row of lists.
    """
    cells = list(value.values())
    are_lists = all(isinstance(one, list) and one and not any(isinstance(cell, dict) for cell in one) for one in cells)
    if not cells or not are_lists or len(cells[0]) < 2 or len({*map(len, cells)}) > 1:
        return None
    if len(cells) > 2:
        return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    raise SparseRMError(
        f"{filename} is one object with a list of {len(cells[0])} in each of {', '.join(value)}, which may be one row or "
        f"{len(cells[0])}; expected a list of rows, each an object; write it as one"
    )


def lines(stream: BinaryIO, end: int | None = None) -> Iterator[tuple[bytes, int]]:
    """The lines of a stream with their line ends and lengths, from its position to the byte ``end``.

    Of a line longer than :data:`~sparserm.pairs.limits.MAX_ROW` only the beginning is read into memory.
    """
    left = math.inf if end is None else end - stream.tell()
    while left > 0 and (line := stream.readline(MAX_ROW + 1)):
        length = len(line)
        if length > MAX_ROW:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_ROW)
                length += len(rest)
        left -= length
        yield line, length


def json_lines(
    found: Iterable[tuple[bytes, int]], offset: int = 0, first_line: int = 1, first_row: int = 1
) -> Iterator[RawRow]:
    """Rows of JSON Lines data that begins ``offset`` bytes into its file, at line ``first_line`` and row ``first_row``."""
    number, n_blank = first_row - 1, 0
    for line_number, (line, length) in enumerate(found, start=first_line):
        if length > MAX_ROW:
            number += 1
            problem = f"line {line_number} has {length >> 20:,} MB, expected at most {MAX_ROW >> 20}: write one row per line"
            yield RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
        elif line.strip():
            number += 1
            yield _json_row(line.removesuffix(b"\n"), number, line_number, offset)
        else:
            n_blank += 1
            check_blank_lines(n_blank)
        offset += length


def _json_row(text: bytes, number: int, line_number: int, offset: int) -> RawRow:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        if (problem := _too_deep(text, value)) is None:
            return _raw_row(number, value)
    except UnicodeDecodeError as error:
        problem = f"line {line_number}: {_not_utf8(text[error.start], offset + error.start)}"
    except (ValueError, RecursionError) as error:
        problem = f"line {line_number} is not valid JSON ({one_line(error)}): write one object per line"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def _too_deep(text: bytes | str, value: Any) -> str | None:
    """The problem of a value nested too deeply, parsed from ``text``."""
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, opening)) <= MAX_DEPTH or (depth := size_of(value).depth) <= MAX_DEPTH:  # type: ignore[arg-type]
        return None
    return f"has lists and objects nested {depth} levels deep, expected at most {MAX_DEPTH}"


def _not_utf8(byte: int, offset: int) -> str:
    return f"not UTF-8 (byte 0x{byte:02X} at offset {offset} of the file): {_SAVE_AS_UTF8}"


@dataclass(frozen=True)
class _CsvForm:
    """How a CSV file is written.

    Attributes:
        quoting: its delimiter, and what its rows show.
        begins: bytes before the header: a line of Excel that names the delimiter.
    """

    quoting: Quoting
    begins: int


def _csv_form(data: bytes, suffix: str) -> _CsvForm:
    """The most frequent of ``, ; tab |`` in the header line: Excel writes ``;`` in much of Europe, and may say so in a line."""
    named = re.match(rb'[\r\n]*"?sep=(.)"?[,;\t]*\r?\n', data)
    begins = named.end() if named else 0
    header = re.sub(rb'"[^"]*"', b"", data[begins:].lstrip(b"\r\n").split(b"\n", 1)[0]).decode("utf-8", "replace")
    found = max(",;\t|", key=header.count)
    delimiter = named[1].decode("latin-1") if named else "\t" if suffix == ".tsv" and "\t" in header else found
    spaced = delimiter in header and header.count(delimiter) == len(re.findall(f"{re.escape(delimiter)} ", header))
    return _CsvForm(Quoting(delimiter, spaced), begins)


def _read_csv(stream: BinaryIO, filename: str, offset: int, form: _CsvForm) -> Iterator[RawRow]:
    """Rows of a CSV file; Python's ``csv`` keeps every cell as text ("NA" too) and counts all rows, unlike pandas."""
    # The default limit of 128 KiB per cell is too small for long responses; the setting is global.
    csv.field_size_limit(max(csv.field_size_limit(), (1 << 31) - 1))
    lines = _CsvLines(stream, filename, offset, n_before=int(form.begins > 0))
    # Strict: otherwise an unclosed quote silently swallows all rows after it.
    reader = csv.reader(lines, delimiter=form.quoting.delimiter, strict=True, skipinitialspace=form.quoting.spaced)
    header: list[str] | None = None
    number = n_blank = 0
    try:
        for cells in reader:
            row = lines.next_row()
            if not cells:
                n_blank += 1
                check_blank_lines(n_blank)
                continue
            if header is None:
                header = _csv_header(cells, filename)
            else:
                number += 1
                yield _csv_row(number, header, cells, row, form.quoting)
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
            raise SparseRMError(f"{self._filename}, line {self.line}, is not UTF-8 text (NUL); {_SAVE_AS_UTF8}")
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
        return _not_utf8(raw[error.start], offset + error.start)
    return ""


def _csv_header(cells: list[str], filename: str) -> list[str]:
    check_columns(len(cells), filename)
    header = [cell.strip() for cell in cells]
    _check_names(header, filename)
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


def _without_joined(rows: list[RawRow], quoting: Quoting) -> list[RawRow]:
    """Rows whose lines may be several: kept with a warning where the file shows that its quotes are written well."""
    return [_judged(row, row.issue, quoting) if row.values is not None and row.issue is not None else row for row in rows]


def _quoted_warning(number: int, row: _CsvText) -> PairIssue:
    problem = f"has a cell in quotes after a space ({row.where}), read with its quotes: remove the space"
    return PairIssue(number, WHOLE_ROW, problem, "warning")


def _judged(row: RawRow, issue: PairIssue, quoting: Quoting) -> RawRow:
    if issue.severity == "warning":
        return row
    return replace(row, issue=replace(issue, severity="warning")) if quoting.is_kept else replace(row, values=None)


def _has_preferences(path: Path) -> bool:
    try:
        if _suffix(path.name) == ".parquet":
            with parquet.parquet_errors(path.name), parquet.open_parquet(path, path.name) as file:
                return {"chosen", "rejected"} <= set(file.schema_arrow.names)
        with path.open("rb") as file:
            start = unpacked(file, Budget(path.name, 0)).read(_BLOCK)
    except (OSError, SparseRMError):  # an unreadable file is not listed
        return False
    if _suffix(path.name) in (".csv", ".tsv"):
        start = start.removeprefix(BOM)
        header = start[_csv_form(start, _suffix(path.name)).begins :].split(b"\n", 1)[0]
        return {b"chosen", b"rejected"} <= set(re.split(rb"[^\w]+", header))
    # The unescaped quote before the colon matches the key itself, not a mention of it inside a text.
    return all(re.search(rb'"%s"\s*:' % key, start) for key in (b"chosen", b"rejected"))

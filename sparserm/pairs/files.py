"""Readers that turn files, saved datasets and Hub datasets into raw rows.

A row that cannot be read keeps its number and gets an issue; an error is raised only if the whole source is unreadable.
"""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparserm.support.files import one_line
from sparserm.types import PairIssue, SparseRMError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
#: The column of an issue that concerns the whole row.
WHOLE_ROW = "(whole row)"

#: The UTF-8 byte order mark that some editors write.
BOM = b"\xef\xbb\xbf"

_MAX_UNPACKED = 4 << 30  # a gzip file of a few MB can decompress to more than the machine's memory
_PEEK = 1 << 20
#: Other file types that users upload by mistake, by their first bytes.
_OTHER_KINDS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive, such as an Excel workbook",
}
_SAVE_AS_UTF8 = "save the file as UTF-8, e.g. `iconv -f WINDOWS-1252 -t UTF-8 old > new`, or as 'CSV UTF-8' in Excel"


@dataclass(frozen=True)
class RawRow:
    """One unparsed row: its values, or the issue that made it unreadable.

    ``row`` is 1-based; header and blank lines are not counted.
    """

    row: int
    values: Mapping[str, Any] | None
    issue: PairIssue | None = None


def rows_of(values: Iterable[Any], first_row: int = 1) -> list[RawRow]:
    """Raw rows from rows in memory; a value that is not a mapping of columns gets an issue."""
    return [_raw_row(number, value) for number, value in enumerate(values, start=first_row)]


def read_bytes(data: bytes, filename: str) -> list[RawRow]:
    """Read the rows of a file from its bytes; the format is detected from the content, then from the file name.

    Raises:
        SparseRMError: the format is unknown, or the whole file is unreadable.
    """
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, filename)
    suffix = _suffix(filename)
    if data[:4] == b"PAR1" or suffix == ".parquet":
        return _read_parquet(data, filename)
    check_text(data, filename)
    bom = len(BOM) if data.startswith(BOM) else 0
    if suffix in (".csv", ".tsv"):
        return _read_csv(data[bom:], filename, bom)
    if suffix in (".json", ".jsonl") or data[bom:].lstrip()[:1] in (b"{", b"["):
        return _read_json(data[bom:], filename, bom)
    raise SparseRMError(f"{filename} has an unsupported format: expected one of {', '.join(SUFFIXES)}, or one of these as .gz")


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
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if is_utf16 or b"\0" in data:
        where = "it begins with a UTF-16 byte order mark" if is_utf16 else f"NUL at byte offset {data.index(0)}"
        raise SparseRMError(f"{filename} is not UTF-8 text ({where}): expected UTF-8; {_SAVE_AS_UTF8}")


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
        data = path.read_bytes()
    except OSError as error:
        raise SparseRMError(f"cannot read {path}: {error.strerror or error}") from error
    return read_bytes(data, path.name)


def is_saved_dataset(path: Path) -> bool:
    """Whether ``path`` is a folder written by ``datasets.save_to_disk``."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def read_saved_dataset(path: Path, split: str) -> list[RawRow]:
    """Read the rows of a folder written by ``datasets.save_to_disk``.

    Raises:
        SparseRMError: the folder is broken, or has no such split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                raise SparseRMError(f"{path} has no split {split!r}: choose one of {', '.join(map(str, loaded))}")
            loaded = loaded[split]
        return rows_of(loaded)
    except SparseRMError:
        raise
    except Exception as error:  # from arrow, json or the file system: in each case the folder is broken
        raise SparseRMError(f"cannot read the saved dataset {path}: {_reason(error)}; save it again") from error


def read_hub_dataset(name: str, split: str) -> list[RawRow]:
    """Read a dataset of the Hugging Face Hub by name (or a local folder that ``datasets.load_dataset`` reads).

    Raises:
        SparseRMError: it cannot be loaded; the message includes the reason given by ``datasets``.
    """
    import datasets

    try:
        if not Path(name).is_dir() and not _is_in_hub_cache(name):
            _ask_hub(name)
        return rows_of(datasets.load_dataset(name, split=split))
    except Exception as error:  # errors of datasets, the Hub, httpx or the file system
        raise SparseRMError(
            f"dataset {name!r}, split {split!r}, could not be loaded: {_reason(error)}; check the name and the network, or "
            "use a file"
        ) from error


def _ask_hub(name: str) -> None:
    """Check once that the dataset exists: without network, ``load_dataset`` would retry for half a minute."""
    import huggingface_hub

    huggingface_hub.HfApi().dataset_info(name, timeout=10)


def _is_in_hub_cache(name: str) -> bool:
    """Whether this dataset is in the cache of ``datasets``, so that it loads without network."""
    import datasets

    def plain(text: str) -> str:  # the cache spells owner/MyData as owner___my_data
        return re.sub(r"[^a-z0-9]", "", text.lower())

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return cache.is_dir() and any(plain(folder.name) == plain(name) for folder in cache.iterdir())


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
    name = filename.lower()
    return Path(name.removesuffix(".gz")).suffix


def _stem(name: str) -> str:
    name = name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix)


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")


def _raw_row(number: int, value: Any) -> RawRow:
    if isinstance(value, Mapping):
        return RawRow(number, value)
    problem = f"is {type(value).__name__}, expected an object with the columns prompt, chosen and rejected"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def _unpack(data: bytes, filename: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(_MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SparseRMError(f"{filename} is a broken gzip file ({one_line(error)}): copy or compress it again") from error
    if len(unpacked) > _MAX_UNPACKED:
        raise SparseRMError(f"{filename} decompresses to more than {_MAX_UNPACKED >> 30} GiB: split it into smaller files")
    return unpacked


def _read_parquet(data: bytes, filename: str) -> list[RawRow]:
    with parquet_errors(filename):
        import pyarrow.parquet as pq

        return rows_of(pq.read_table(io.BytesIO(data)).to_pylist())


@contextmanager
def parquet_errors(filename: str) -> Iterator[None]:
    """Turn errors of reading a Parquet file inside the block into one that names the file.

    Raises:
        SparseRMError: the file cannot be read.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SparseRMError(f"{filename} is not a readable Parquet file ({_reason(error)}): write it again") from error


def _read_json(data: bytes, filename: str, offset: int) -> list[RawRow]:
    """Rows of a JSON list, a single JSON object, or one object per line (which many tools also save as ``.json``)."""
    is_list = data.lstrip()[:1] == b"["
    if is_list or _suffix(filename) == ".json":
        try:
            whole = json.loads(data.decode("utf-8"))
            return rows_of(whole if isinstance(whole, list) else [whole])
        except UnicodeDecodeError as error:
            if is_list and _suffix(filename) == ".json":
                line = data.count(b"\n", 0, error.start) + 1
                raise SparseRMError(f"{filename}, line {line}: {_not_utf8(data, error.start, offset)}") from error
        except (ValueError, RecursionError) as error:
            if is_list and _suffix(filename) == ".json":
                raise SparseRMError(f"{filename} is not valid JSON ({one_line(error)}): fix it there") from error
    return list(json_lines(data, offset))


def json_lines(data: bytes, offset: int = 0, first_line: int = 1, first_row: int = 1) -> Iterator[RawRow]:
    """Rows of JSON Lines data that begins ``offset`` bytes into its file, at line ``first_line`` and row ``first_row``."""
    number = first_row - 1
    for line_number, line in enumerate(data.split(b"\n"), start=first_line):
        if line.strip():
            number += 1
            try:
                yield _raw_row(number, json.loads(line.decode("utf-8")))
            except UnicodeDecodeError as error:
                problem = f"line {line_number}: {_not_utf8(line, error.start, offset)}"
                yield RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
            except (ValueError, RecursionError) as error:
                problem = f"line {line_number} is not valid JSON ({one_line(error)}): write one object per line"
                yield RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
        offset += len(line) + 1


def _not_utf8(data: bytes, position: int, offset: int) -> str:
    return f"not UTF-8 (byte 0x{data[position]:02X} at offset {offset + position} of the file): {_SAVE_AS_UTF8}"


def _read_csv(data: bytes, filename: str, offset: int) -> list[RawRow]:
    """Rows of a CSV file; Python's ``csv`` keeps every cell as text ("NA" too) and counts all rows, unlike pandas."""
    # The default limit of 128 KiB per cell is too small for long responses; the setting is global.
    csv.field_size_limit(max(csv.field_size_limit(), (1 << 31) - 1))
    undecoded: dict[int, str] = {}
    # Strict: otherwise an unclosed quote silently swallows all rows after it.
    reader = csv.reader(_csv_lines(data, offset, undecoded), delimiter=_delimiter(data), strict=True)
    header: list[str] | None = None
    rows: list[RawRow] = []
    first_line = 1
    try:
        for cells in reader:
            broken = [undecoded[line] for line in range(first_line, reader.line_num + 1) if line in undecoded]
            first_line = reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _csv_header(cells, filename)
            else:
                rows.append(_csv_row(len(rows) + 1, header, cells, broken))
    except csv.Error as error:
        raise SparseRMError(
            f"{filename}, line {reader.line_num}: broken CSV ({error}); put cells that contain commas, quotes or line "
            'breaks in double quotes, and double the quotes inside ("")'
        ) from error
    return rows


def _csv_lines(data: bytes, offset: int, undecoded: dict[int, str]) -> Iterator[str]:
    """Lines for ``csv``, with their line ends; errors of lines that are not UTF-8 are put in ``undecoded`` by line number."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape", newline="")
    for line_number, line in enumerate(text, start=1):
        raw = line.encode("utf-8", "surrogateescape")
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            undecoded[line_number] = f"line {line_number}: {_not_utf8(raw, error.start, offset)}"
        offset += len(raw)
        yield line


def _delimiter(data: bytes) -> str:
    """The most frequent of ``, ; tab`` in the header line: Excel writes ``;`` in much of Europe."""
    header = data.lstrip(b"\r\n").split(b"\n", 1)[0]
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _csv_header(cells: list[str], filename: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SparseRMError(f"{filename} has more than one column {', '.join(map(repr, twice))}: rename all but one")
    return header


def _csv_row(number: int, header: list[str], cells: list[str], broken: list[str]) -> RawRow:
    if broken:
        return RawRow(number, None, PairIssue(number, WHOLE_ROW, broken[0]))
    if len(cells) < len(header) or any(cells[len(header) :]):
        problem = f"has {len(cells)} cells, the header has {len(header)}: put cells that contain a separator in double quotes"
        return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
    values = dict(zip(header, cells, strict=False))
    for name, cell in values.items():
        if re.match(r"\s*\[\s*\{'(role|content|from|value)'", cell):
            problem = "contains messages in Python's print format: write them as JSON with json.dumps, or save as Parquet"
            return RawRow(number, None, PairIssue(number, name, problem))
    return RawRow(number, {name: _csv_cell(cell) for name, cell in values.items()})


def _csv_cell(cell: str) -> Any:
    """The messages of a cell that contains messages as JSON; the text of any other cell."""
    if not re.match(r"\s*[\[{]", cell):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    first = value[0] if isinstance(value, list) and value else value
    is_message = isinstance(first, dict) and ({"role", "content"} <= set(first) or {"from", "value"} <= set(first))
    return value if is_message else cell


def _has_preferences(path: Path) -> bool:
    try:
        if _suffix(path.name) == ".parquet":
            import pyarrow.parquet as pq

            return {"chosen", "rejected"} <= set(pq.read_schema(path).names)
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            start = file.read(_PEEK)
    except (OSError, EOFError, zlib.error, ValueError):  # an unreadable file is not listed
        return False
    if _suffix(path.name) in (".csv", ".tsv"):
        header = start.removeprefix(BOM).split(b"\n", 1)[0]
        return {b"chosen", b"rejected"} <= set(re.split(rb"[^\w]+", header))
    # The unescaped quote before the colon matches the key itself, not a mention of it inside a text.
    return all(re.search(rb'"%s"\s*:' % key, start) for key in (b"chosen", b"rejected"))

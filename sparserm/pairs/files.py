"""The files and names that preference pairs come from, read into raw rows: the first half of the stage ``pairs``.

A row that cannot be read keeps its number and becomes a finding, so that ``pairs`` can count it; only what makes the
whole source unreadable is raised.
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

STARTER_SETS = ("truthfulness", "safety", "redteam", "helpfulness")
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
#: The column named where a finding concerns the row as a whole.
WHOLE_ROW = "(whole row)"

#: The mark that some editors begin a file of UTF-8 with.
BOM = b"\xef\xbb\xbf"

_MAX_UNPACKED = 4 << 30  # a gzip file of a few MB can unpack to more than the machine's memory
_PEEK = 1 << 20
#: What is often handed in under another name, by how its bytes begin.
_OTHER_KINDS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive, as Excel's own format is",
}
_SAVE_AS_UTF8 = "save the file as UTF-8, e.g. `iconv -f WINDOWS-1252 -t UTF-8 old > new`, or as 'CSV UTF-8' in Excel"


@dataclass(frozen=True)
class RawRow:
    """Row ``row`` (1-based, header and blank lines not counted) as found: its values, or why they cannot be read."""

    row: int
    values: Mapping[str, Any] | None
    issue: PairIssue | None = None


def rows_of(values: Iterable[Any], first_row: int = 1) -> list[RawRow]:
    """Number rows that are in memory; what is not a mapping of columns becomes a finding."""
    return [_raw_row(number, value) for number, value in enumerate(values, start=first_row)]


def read_bytes(data: bytes, filename: str) -> list[RawRow]:
    """Read the rows of a file from its bytes; the format follows from the content first, then from the name.

    Raises:
        SparseRMError: an unknown format, or a file that is broken as a whole.
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
    raise SparseRMError(f"{filename} is not a preference file this reads: expected one of {', '.join(SUFFIXES)} or .gz of it")


def check_text(data: bytes, filename: str) -> None:
    """That a file which begins so can be text in UTF-8.

    Raises:
        SparseRMError: they are of another kind of file.
    """
    for beginning, kind in _OTHER_KINDS.items():
        if data.startswith(beginning):
            raise SparseRMError(
                f"{filename} is {kind}, whatever its name says: expected a table of preference pairs as {', '.join(SUFFIXES)}; "
                "export it as one of these"
            )
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if is_utf16 or b"\0" in data:
        where = "it begins with a UTF-16 mark" if is_utf16 else f"NUL at byte offset {data.index(0)}"
        raise SparseRMError(f"{filename} is not UTF-8 text ({where}): expected UTF-8; {_SAVE_AS_UTF8}")


@contextmanager
def uncollected() -> Iterator[None]:
    """Without looking for garbage among the many small objects that are made here, and the many that libraries hold, whenever
    there are some more: that took a third of the time in which 10,000 pairs are read.
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
        SparseRMError: the file cannot be opened, or as for `read_bytes`.
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
    except Exception as error:  # arrow, json, the file system: whatever was broken, the folder is what to mend
        raise SparseRMError(f"cannot read the saved dataset {path}: {_reason(error)}; save it again") from error


def read_hub_dataset(name: str, split: str) -> list[RawRow]:
    """Read a dataset by its name on the Hugging Face hub (or a local folder that ``datasets.load_dataset`` reads).

    Raises:
        SparseRMError: it cannot be loaded; the message holds the reason that ``datasets`` gave.
    """
    import datasets

    try:
        if not Path(name).is_dir() and not _is_in_hub_cache(name):
            _ask_hub(name)
        return rows_of(datasets.load_dataset(name, split=split))
    except Exception as error:  # it raises its own, the hub's, httpx's and the file system's errors
        raise SparseRMError(
            f"datasets.load_dataset({name!r}, split={split!r}) failed: {_reason(error)}; check the name and the network, or "
            "give a file"
        ) from error


def _ask_hub(name: str) -> None:
    """One question whether the dataset exists: without network, `load_dataset` itself retries for half a minute."""
    import huggingface_hub

    huggingface_hub.HfApi().dataset_info(name, timeout=10)


def _is_in_hub_cache(name: str) -> bool:
    """Whether `datasets` has prepared this dataset before, so that it loads without network."""
    import datasets

    def plain(text: str) -> str:  # the cache spells owner/MyData as owner___my_data
        return re.sub(r"[^a-z0-9]", "", text.lower())

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return cache.is_dir() and any(plain(folder.name) == plain(name) for folder in cache.iterdir())


def data_files() -> dict[str, Path]:
    """Every file of a readable format below ``SPARSERM_DATA``, by its path relative to it; none where it is not set."""
    root = Path(os.environ.get("SPARSERM_DATA", "")).expanduser()
    if not os.environ.get("SPARSERM_DATA") or not root.is_dir():
        return {}
    found = sorted(path for path in root.rglob("*") if _suffix(path.name) in SUFFIXES and path.is_file())
    return {path.relative_to(root).as_posix(): path for path in found}


def list_data_files() -> dict[str, Path]:
    """The preference files below ``SPARSERM_DATA``: those whose beginning has the columns ``chosen`` and ``rejected``.

    Files with other column names are not listed, but can still be loaded by name with ``columns=``.
    """
    return {name: path for name, path in data_files().items() if _has_preferences(path)}


def find_data_file(name: str) -> Path | None:
    """The file below ``SPARSERM_DATA`` called ``name``: its relative path or bare name, with or without the suffix.

    Raises:
        SparseRMError: several files are called so.
    """
    matches = {
        relative: path
        for relative, path in data_files().items()
        if name in (relative, _stem(relative), path.name, _stem(path.name))
    }
    if name in matches:
        return matches[name]
    if len(matches) > 1:
        raise SparseRMError(f"{name!r} names several files under SPARSERM_DATA: choose one of {', '.join(matches)}")
    return next(iter(matches.values()), None)


def has_data_suffix(name: str) -> bool:
    """Whether ``name`` can only mean a file."""
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
        raise SparseRMError(f"{filename} is a broken gzip file ({one_line(error)}): copy or pack it again") from error
    if len(unpacked) > _MAX_UNPACKED:
        raise SparseRMError(f"{filename} unpacks to more than {_MAX_UNPACKED >> 30} GiB: split it into smaller files")
    return unpacked


def _read_parquet(data: bytes, filename: str) -> list[RawRow]:
    with parquet_errors(filename):
        import pyarrow.parquet as pq

        return rows_of(pq.read_table(io.BytesIO(data)).to_pylist())


@contextmanager
def parquet_errors(filename: str) -> Iterator[None]:
    """What can go wrong with a Parquet file, as a finding about it.

    Raises:
        SparseRMError: something did.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise SparseRMError(f"{filename} is not a readable Parquet file ({_reason(error)}): write it again") from error


def _read_json(data: bytes, filename: str, offset: int) -> list[RawRow]:
    """A JSON list of rows, one JSON object, or one object a line (which many tools also call ``.json``)."""
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
                raise SparseRMError(f"{filename} is not valid JSON ({one_line(error)}): mend it there") from error
    return list(json_lines(data, offset))


def json_lines(data: bytes, offset: int = 0, first_line: int = 1, first_row: int = 1) -> Iterator[RawRow]:
    """Rows of one JSON object a line; the data begins ``offset`` bytes into its file, with that line and that row."""
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
                problem = f"line {line_number} is not valid JSON ({one_line(error)}): write one object a line"
                yield RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
        offset += len(line) + 1


def _not_utf8(data: bytes, position: int, offset: int) -> str:
    return f"not UTF-8 (byte 0x{data[position]:02X} at offset {offset + position} of the file): {_SAVE_AS_UTF8}"


def _read_csv(data: bytes, filename: str, offset: int) -> list[RawRow]:
    """Python's ``csv``, not pandas: every cell stays the text it is ("NA" is an answer), and every row is counted."""
    # The limit is 128 KiB a cell by default, and global; long responses are longer.
    csv.field_size_limit(max(csv.field_size_limit(), (1 << 31) - 1))
    undecoded: dict[int, str] = {}
    # Strict: otherwise a quote that is never closed swallows all rows after it without a word.
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
            f"{filename}, line {reader.line_num}: broken CSV ({error}); put cells that hold commas, quotes or line "
            'breaks in double quotes, and double the quotes inside ("")'
        ) from error
    return rows


def _csv_lines(data: bytes, offset: int, undecoded: dict[int, str]) -> Iterator[str]:
    """Lines as ``csv`` wants them (line ends kept); where one is not UTF-8, ``undecoded`` says so by line number."""
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
    """The one of ``, ; tab`` that the header line has most of: Excel writes ``;`` in much of Europe."""
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
        problem = f"has {len(cells)} cells, the header {len(header)}: put cells that hold a separator in double quotes"
        return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))
    values = dict(zip(header, cells, strict=False))
    for name, cell in values.items():
        if re.match(r"\s*\[\s*\{'(role|content|from|value)'", cell):
            problem = "holds messages as Python prints them: write them as JSON, with json.dumps, or save as Parquet"
            return RawRow(number, None, PairIssue(number, name, problem))
    return RawRow(number, {name: _csv_cell(cell) for name, cell in values.items()})


def _csv_cell(cell: str) -> Any:
    """A cell that holds messages as JSON text gives the messages; any other cell is its own text."""
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
    except (OSError, EOFError, zlib.error, ValueError):  # not readable: nothing to offer
        return False
    if _suffix(path.name) in (".csv", ".tsv"):
        header = start.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
        return {b"chosen", b"rejected"} <= set(re.split(rb"[^\w]+", header))
    # An unescaped quote before the colon: the key itself, not a mention of it in a text.
    return all(re.search(rb'"%s"\s*:' % key, start) for key in (b"chosen", b"rejected"))

"""Rows of JSON and JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from sparserm.pairs.limits import MAX_DEPTH, MAX_ROW, Budget, check_blank_lines, most_memory, size_of
from sparserm.pairs.rows import WHOLE_ROW, RawRow, check_names, is_viewed, raw_row, raw_rows
from sparserm.pairs.streams import BLOCK, lines, not_utf8, suffix_of, whole
from sparserm.support.files import one_line
from sparserm.types import PairIssue, SparseRMError

#: How names of splits begin.
_SPLITS = ("train", "test", "val", "dev", "eval")


def first_character(stream: BinaryIO, start: int) -> bytes:
    """The first character that is not white space; the stream is then at ``start`` again."""
    found = b""
    while not found and (block := stream.read(BLOCK)):
        found = block.lstrip()[:1]
    stream.seek(start)
    return found


def read_json(stream: BinaryIO, filename: str, offset: int, first: bytes, budget: Budget) -> Iterator[RawRow]:
    """Rows of a JSON list, a single JSON object, or one object per line (which many tools also save as ``.json``)."""
    is_json = suffix_of(filename) == ".json"
    if first == b"[":
        data = whole(stream).getvalue()
        budget.require(most_memory(data))
        try:
            return raw_rows(json.loads(data.decode("utf-8"), object_pairs_hook=_unique))
        except UnicodeDecodeError as error:
            if is_json:
                line = data.count(b"\n", 0, error.start) + 1
                problem = not_utf8(data[error.start], offset + error.start)
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
    lists = {"rows": lists["rows"]} if all(map(is_viewed, lists.get("rows", [None]))) else lists
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
    check_names(map(str, names), filename)
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
            return raw_row(number, value)
    except UnicodeDecodeError as error:
        problem = f"line {line_number}: {not_utf8(text[error.start], offset + error.start)}"
    except (ValueError, RecursionError) as error:
        problem = f"line {line_number} is not valid JSON ({one_line(error)}): write one object per line"
    return RawRow(number, None, PairIssue(number, WHOLE_ROW, problem))


def _too_deep(text: bytes | str, value: Any) -> str | None:
    """The problem of a value nested too deeply, parsed from ``text``."""
    opening = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, opening)) <= MAX_DEPTH or (depth := size_of(value).depth) <= MAX_DEPTH:  # type: ignore[arg-type]
        return None
    return f"has lists and objects nested {depth} levels deep, expected at most {MAX_DEPTH}"

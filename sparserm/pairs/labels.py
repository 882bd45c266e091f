"""Cells that name a response instead of holding it, and columns that look like a verdict on two responses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sparserm.pairs.cells import is_blank
from sparserm.pairs.layouts import VERDICTS
from sparserm.pairs.messages import is_missing, plain
from sparserm.pairs.preferences import says_verdict
from sparserm.pairs.rows import RawRow, canonical, columns_of
from sparserm.support.files import one_line
from sparserm.types import SparseRMError

#: How a column with one of several responses is called, and what names it in another column.
_RESPONSE = r"(?:response|answer|model|output|option|completion)[ _]?[abn012]"
_LABEL = rf"{_RESPONSE}|[ab012]"
#: Parts of a name by which two columns differ that hold two responses.
_SIDES = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
#: Parts of a name of a column that holds what a label may name.
_NAMES = {"model", "id", "name", "label"}
#: How columns end that hold several responses.
_PLURALS = ("answers", "responses", "completions", "outputs", "generations", "candidates")


def pointers(rows: Sequence[RawRow], chosen: str, rejected: str, name: str) -> dict[str, str]:
    """The columns that the cells of chosen and rejected name, by what names them; empty if the cells are the responses.

    Raises:
        SparseRMError: the cells of all rows are labels of some kind, and it is not certain which responses they name.
    """
    present = [one for one in columns_of(rows) if one not in (chosen, rejected)]
    found = partial(_given, rows, chosen, rejected)  # the first rows show in most sources that they are responses
    if next(found(), None) is None:
        return {}
    named = {canonical(one): one for one in present}
    if all(_name_texts(values, cells, named) for values, cells in found()):
        return named
    ends = {canonical(one).split("_")[-1] for one in present}
    are_sides = any(re.fullmatch(_RESPONSE, one, re.IGNORECASE) for one in present)
    if all(_are_labels(values, cells, present, ends | set(named), are_sides) for values, cells in found()):
        shown = one_line(", ".join(sorted({cell for _, cells in found() for cell in cells})), 60)
        raise SparseRMError(
            f"{name}: {chosen} and {rejected} hold {shown}, which name the responses in other columns; expected the responses "
            f"themselves; write the texts that are named into {chosen} and {rejected}"
        )
    return {}


def _given(rows: Iterable[RawRow], chosen: str, rejected: str) -> Iterator[tuple[Mapping[str, Any], list[str]]]:
    """The rows with two cells of chosen and rejected, one by one, and these as text."""
    for row in rows:
        if row.values is not None and (cells := _cells(row.values, chosen, rejected)):
            yield row.values, cells


def _cells(values: Mapping[str, Any], chosen: str, rejected: str) -> list[str]:
    """The cells of chosen and rejected as text; empty where one is missing or is longer than a name."""
    cells = [plain(values.get(one)) for one in (chosen, rejected)]
    return [] if any(is_missing(one) for one in cells) else [str(one).strip()[:1000] for one in cells]


def _name_texts(values: Mapping[str, Any], cells: Sequence[str], named: Mapping[str, str]) -> bool:
    """Whether two cells name two columns that hold texts."""
    names = [named.get(canonical(cell)) if canonical(cell) else None for cell in cells]
    texts = [plain(values.get(name)) if name is not None else None for name in names]
    return names[0] != names[1] and all(isinstance(one, (str, list)) and one and not is_blank(one) for one in texts)


def _are_labels(values: Mapping[str, Any], cells: Sequence[str], present: Sequence[str], known: set[str], sides: bool) -> bool:
    """Whether two cells are the names of columns or their ends, values of columns with names, or numbers in a list."""
    if all(canonical(cell) in known for cell in cells):
        return True
    if sides and all(re.fullmatch(_LABEL, cell, re.IGNORECASE) for cell in cells):
        return True
    others = {str(plain(values.get(one))).strip() for one in present if _NAMES & set(canonical(one).split("_"))}
    if len(set(cells)) > 1 and set(cells) <= others:
        return True
    several = (plain(values.get(one)) for one in present if canonical(one).endswith(_PLURALS))
    lengths = [len(value) for value in several if isinstance(value, (list, tuple))]
    return bool(lengths) and all(cell.isdecimal() and int(cell) <= max(lengths) for cell in cells)


def sides(present: Iterable[str]) -> tuple[str, str] | None:
    """Two columns with two responses of which a verdict says which won, such as ``reply_A`` and ``reply_B``."""
    named = {tuple(re.findall("[a-z]+|[0-9]+", canonical(one))): one for one in present}
    for parts, name in named.items():
        if _NAMES & set(parts) or "score" in parts:
            continue
        for i, (a, b) in ((i, side) for i in range(len(parts)) for side in _SIDES):
            other = named.get((*parts[:i], b, *parts[i + 1 :]))
            if parts[i] == a and other is not None:
                return name, other
    return None


def verdict_beside(rows: Sequence[RawRow], names: tuple[str, str]) -> str | None:
    """A column that says in every row which of two responses won, as far as one can see."""
    for one in columns_of(rows):
        values = [plain((row.values or {}).get(one)) for row in rows]
        said = {str(value).strip().lower() for value in values if not is_missing(value)}
        is_number = said in ({"0", "1"}, {"1", "2"}, {"true", "false"})
        if one not in names and said and (is_number or all(says_verdict(value, names) for value in said)):
            return one
    return None


def verdict_hint(rows: Sequence[RawRow], present: Sequence[str]) -> str:
    """What to do about two responses beside a verdict of an unknown name; empty where there are none."""
    if (found := sides(present)) is None or (verdict := verdict_beside(rows, found)) is None:
        return ""
    return (
        f"where {verdict!r} says which of {found[0]!r} and {found[1]!r} won, call the responses response_a and response_b and "
        f"their verdict {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]} (a, b or tie), or write the response that won into a "
        "column chosen and the other into rejected"
    )

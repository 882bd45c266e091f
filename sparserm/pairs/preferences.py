"""What a cell says about which response won: numbers, words, letters and ties."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from sparserm.pairs.messages import RowError, is_missing, plain
from sparserm.pairs.rows import Row, canonical

#: What the letter of a response may follow in a verdict.
_NUMBERED = ("model", "response", "assistant", "answer", "option", "conversation")
#: Words of a verdict that say tie; and those that may stand beside them.
_TIE = {"tie", "tied", "draw", "both", "bothbad", "bothgood", "neither", "same", "equal", "equally", "a=b", "b=a", "a==b"}
_BESIDE_TIE = {"a", "about", "all", "are", "bad", "good", "is", "it", "the"}


class LabelError(Exception):
    """A label that does not mean what it means in its layout, so that all labels of the source may mean something else."""


class TieError(Exception):
    """No response of a row was preferred."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column, self.problem = column, problem


def number(row: Row, column: str) -> float:
    """The number in a cell, also written as text; 1 and 0 for true and false.

    Raises:
        RowError: there is none.
    """
    value = plain(row.get(column))
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    if (number := grade_of(value)) is not None:
        return number
    said = "empty" if is_missing(value) or value == "nan" else f"{value!r:.60}"
    raise RowError(column, f"is {said}, expected a number that says which response was preferred")


def either(first: float, second: float) -> Callable[[Row, str], int]:
    """What tells from a number which response won; it raises :class:`LabelError` for any but these two."""

    def won(row: Row, column: str) -> int:
        value = number(row, column)
        if value not in (first, second):
            raise LabelError(f"{column} is {value:g}, expected {first:g} or {second:g}")
        return int(value == second)

    return won


def strength(row: Row, column: str) -> int:
    """0 if the first response is better (below zero), 1 if the second one is."""
    value = number(row, column)
    if abs(value) > 3:
        raise LabelError(f"{column} is {value:g}, expected -3 to 3")
    if value == 0:
        raise TieError(column, "is 0: neither response was preferred")
    return int(value > 0)


def letter(row: Row, column: str, names: Sequence[str] = ()) -> int:
    """0 if a verdict in words says that the first response won (``a``, ``model_a``, ``response_a``, ``A>B``), 1 if the second.

    Args:
        names: the columns of the two responses, which a verdict may name, too.

    Raises:
        TieError: it says that neither did.
        RowError: it says neither, such as a number, of which nobody knows what it counts.
    """
    value = plain(row.get(column))
    said = value.strip().lower() if isinstance(value, str) else ""
    models = [one.strip().lower() if isinstance(one := plain(row.get(name)), str) else "" for name in ("model_a", "model_b")]
    if said and said in models:  # arenas may name the model that won
        if models[0] == models[1]:
            raise RowError(column, f"is {value!r:.40}, and so are model_a and model_b: expected model_a, model_b or a tie")
        return models.index(said)
    if said and canonical(said) in (named := [canonical(name) for name in names]):
        return named.index(canonical(said))
    if says_tie(said):
        raise TieError(column, f"is {value!r:.40}: neither response was preferred")
    said = re.sub(r"[^a-z0-9>= ]+", " ", said).strip()
    for won, letter in enumerate("ab"):
        other, word = "ba"[won], (("left", "first"), ("right", "second"))[won]
        if said in (letter, *word, *(f"{name} {letter}" for name in _NUMBERED), f"{letter}>{other}", f"{letter}>>{other}"):
            return won
    unclear = " (a number may mean either response)" if grade_of(value) is not None else ""
    raise RowError(column, f"is {value!r:.40}, expected model_a, model_b, a, b or a tie{unclear}")


def letter_or_one(row: Row, column: str) -> int:
    """0 if a verdict in words, or a label of 1, says that the first response won, 1 if the second."""
    is_written = isinstance(plain(row.get(column)), str) and re.search("[A-Za-z]", str(row[column])) is not None
    return letter(row, column) if is_written else either(1, 0)(row, column)  # JudgeBench writes A>B


def says_verdict(value: Any, names: Sequence[str] = ()) -> bool:
    """Whether a cell says in words which of two responses won, or that neither did."""
    try:
        letter({"verdict": value}, "verdict", names)
    except RowError:
        return False
    except TieError:
        pass
    return True


def says_tie(verdict: Any) -> bool:
    """Whether a verdict in words says that neither response was preferred, and nothing else."""
    said = re.sub("[^a-z0-9=]+", " ", verdict.lower()).strip() if isinstance(verdict, str) else ""
    words = set(said.split())
    return said == "no preference" or bool(words & _TIE and words <= _TIE | _BESIDE_TIE)


def grade_of(value: Any) -> float | None:
    """A grade as a number, also if it is written as text, in Europe with a comma; None if it is none."""
    value = plain(value)
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value) and not re.search(r",\d{3}\s*$", value):
        value = value.replace(",", ".")  # three digits may be thousands
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(found) else found

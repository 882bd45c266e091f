"""Data sets that do not say `chosen` and `rejected`: a label, ratings or ranks tell which response won.

Each :class:`Layout` turns a row into rows with `prompt`, `chosen` and `rejected`. Ties are left out by name. What a label means
is what the card of its data set says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sparserm.pairs.files import RawRow
from sparserm.pairs.messages import RowError, plain
from sparserm.types import PairIssue

#: A row, and what it becomes.
Row = Mapping[str, Any]


class TieError(Exception):
    """No response of a row was preferred."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column, self.problem = column, problem


@dataclass(frozen=True)
class Layout:
    """One way of telling which response won.

    Attributes:
        about: how a source is read, e.g. ``` `better_response_id` as the number of the chosen response```.
        columns: that a source must have.
        read: the pairs of a row, as rows with ``prompt``, ``chosen`` and ``rejected``.
    """

    about: str
    columns: frozenset[str]
    read: Callable[[Row], list[dict[str, Any]]]


def find_layout(present: Sequence[str]) -> Layout | None:
    """The first layout whose columns are all there; None if chosen and rejected are."""
    columns = set(present)
    if {"chosen", "rejected"} <= columns:
        return None
    return next((one for one in LAYOUTS if one.columns <= columns), None)


def paired(rows: Sequence[RawRow]) -> tuple[list[RawRow], list[PairIssue], str]:
    """Rows that each hold one response with a verdict or a rating, as rows of pairs of one prompt.

    Returns:
        The rows, an entry for each row that is in no pair, and how the source was read; the rows themselves and an empty text
        where they are of another form.
    """
    present = {key for row in rows for key in row.values or ()}
    for columns, grade, about in _SINGLE:
        if columns <= present and not {"chosen", "rejected"} & present:
            found, left = _grouped(rows, *grade)
            return found, left, about
    return list(rows), [], ""


def _grouped(rows: Sequence[RawRow], response: str, grade: str) -> tuple[list[RawRow], list[PairIssue]]:
    """Each response of a prompt with each that has a lower grade."""
    groups: dict[str, list[tuple[int, Row, float]]] = {}
    issues = []
    for row in rows:
        if row.values is None:
            continue
        try:
            value = _number(row.values, grade)
        except RowError as problem:
            issues.append(PairIssue(row.row, problem.column, problem.problem))
            continue
        groups.setdefault(repr(plain(row.values.get("prompt"))), []).append((row.row, row.values, value))
    found = [row for row in rows if row.values is None]
    for group in groups.values():
        used = set()
        for (i, one, high), (j, other, low) in combinations(group, 2):
            if high == low:
                continue
            better, worse = (one, other) if high > low else (other, one)
            used |= {i, j}
            values = {**better, "chosen": better.get(response), "rejected": worse.get(response)}
            found.append(RawRow(i if high > low else j, values))
        alone = f"is like that of every other response to this prompt: no response was preferred ({grade})"
        issues += [PairIssue(i, grade, alone, "tie") for i, _, _ in group if i not in used]
    return sorted(found, key=lambda row: row.row), issues


def _pair(prompt: Any, responses: Sequence[Any], won: int, row: Row) -> list[dict[str, Any]]:
    """The pair of two responses of which the one at index ``won`` was chosen."""
    return [{**row, "prompt": prompt, "chosen": responses[won], "rejected": responses[1 - won]}]


def _number(row: Row, column: str) -> float:
    value = plain(row.get(column))
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowError(column, f"is {value!r:.60}, expected a number that says which response was preferred") from None
    if math.isnan(number):
        raise RowError(column, "is empty, expected a number that says which response was preferred")
    return number


def _either(row: Row, column: str, first: float, second: float) -> int:
    """0 if the label is that of the first response, 1 if it is that of the second."""
    value = _number(row, column)
    if value not in (first, second):
        raise RowError(column, f"is {value:g}, expected {first:g} or {second:g}")
    return int(value == second)


def _strength(row: Row, column: str) -> int:
    """0 if the first response is better (below zero), 1 if the second one is."""
    value = _number(row, column)
    if value == 0:
        raise TieError(column, "is 0: neither response was preferred")
    return int(value > 0)


def _shp(row: Row) -> list[dict[str, Any]]:
    won = _either(row, "labels", 1, 0)
    return _pair(row.get("history"), [row.get("human_ref_A"), row.get("human_ref_B")], won, row)


def _pku(row: Row) -> list[dict[str, Any]]:
    won = _either(row, "better_response_id", 0, 1)
    return _pair(row.get("prompt"), [row.get("response_0"), row.get("response_1")], won, row)


def _safer(row: Row) -> list[dict[str, Any]]:
    won = _either(row, "safer_response_id", 0, 1)
    return _pair(row.get("prompt"), [row.get("response_0"), row.get("response_1")], won, row)


def _wimhf(row: Row) -> list[dict[str, Any]]:
    return _pair(row.get("prompt"), [row.get("response_A"), row.get("response_B")], _either(row, "label", 1, 0), row)


def _winner(row: Row, names: tuple[str, str]) -> int:
    value = plain(row.get("winner"))
    said = value.strip().lower() if isinstance(value, str) else value
    for won, accepted in enumerate(((names[0], "a", "response_a"), (names[1], "b", "response_b"))):
        if said in accepted:
            return won
    if isinstance(said, str) and (said.startswith("tie") or "both" in said):
        raise TieError("winner", f"is {value!r:.40}: neither response was preferred")
    raise RowError("winner", f"is {value!r:.40}, expected {names[0]}, {names[1]} or a tie")


def _arena(row: Row) -> list[dict[str, Any]]:
    responses = [row.get("conversation_a"), row.get("conversation_b")]
    won = _winner(row, ("model_a", "model_b"))
    return [{**row, "chosen": responses[won], "rejected": responses[1 - won]}]


def _arena_flags(row: Row) -> list[dict[str, Any]]:
    """Kaggle's form: one column for each outcome, and prompt and responses as lists with one entry for each turn."""
    flags = [_number(row, name) for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if flags[2]:
        raise TieError("winner_tie", "is 1: neither response was preferred")
    if flags[0] == flags[1]:
        raise RowError("winner_model_a", "and winner_model_b are equal, expected one winner")
    return _pair(row.get("prompt"), [row.get("response_a"), row.get("response_b")], int(flags[1] > flags[0]), row)


def _helpsteer2(row: Row) -> list[dict[str, Any]]:
    won = _strength(row, "preference_strength")
    return _pair(row.get("prompt"), [row.get("response_1"), row.get("response_2")], won, row)


def _helpsteer3(row: Row) -> list[dict[str, Any]]:
    won = _strength(row, "overall_preference")
    return _pair(row.get("context"), [row.get("response1"), row.get("response2")], won, row)


def _swift(row: Row) -> list[dict[str, Any]]:
    """The answer is the last message; the other one stands beside it."""
    turns = plain(row.get("messages"))
    if not isinstance(turns, (list, tuple)) or len(turns) < 2:
        raise RowError("messages", "has no question and answer, expected a list of two messages or more")
    return [{**row, "prompt": list(turns[:-1]), "chosen": [turns[-1]], "rejected": row.get("rejected_response")}]


def _graded(row: Row, prompt: str, entries: str, text: str, grade: Callable[[Row], float | None]) -> list[dict[str, Any]]:
    """Of several responses in a list each with each that has a lower grade."""
    found = plain(row.get(entries))
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, Mapping) for one in found):
        raise RowError(entries, "is not a list of responses, each with its text and its rating")
    graded = [(one.get(text), value) for one in found if (value := grade(one)) is not None]
    pairs = [
        {**row, "prompt": row.get(prompt), "chosen": better, "rejected": worse}
        for (one, high), (other, low) in combinations(graded, 2)
        if high != low
        for better, worse in ([(one, other)] if high > low else [(other, one)])
    ]
    if not pairs:
        raise TieError(entries, "has no two responses with different ratings")
    return pairs


def _rating(*names: str) -> Callable[[Row], float | None]:
    def read(one: Row) -> float | None:
        for name in names:
            value = plain(one.get(name))
            if isinstance(value, (int, float)) and not math.isnan(value):
                return float(value)
        return None

    return read


def _ultrafeedback(row: Row) -> list[dict[str, Any]]:
    grade = _rating("fine-grained_score", "overall_score", "score", "rating")
    return _graded(row, "instruction", "completions", "response", grade)


def _nectar(row: Row) -> list[dict[str, Any]]:
    rank = _rating("rank")
    return _graded(row, "prompt", "answers", "answer", lambda one: None if (value := rank(one)) is None else -value)


def _summaries(row: Row) -> list[dict[str, Any]]:
    info, summaries = plain(row.get("info")), plain(row.get("summaries"))
    if not isinstance(info, Mapping) or not isinstance(summaries, (list, tuple)) or len(summaries) != 2:
        raise RowError("summaries", "is not a list of two summaries beside the post in info")
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in summaries]
    return _pair(info.get("post") or info.get("article"), texts, _either(row, "choice", 0, 1), row)


#: The first layout whose columns a source has is used.
LAYOUTS = (
    Layout("`labels` as SHP does: 1 if `human_ref_A` was preferred", frozenset({"human_ref_A", "human_ref_B", "labels"}), _shp),
    Layout(
        "`better_response_id` as the number of the chosen response",
        frozenset({"response_0", "response_1", "better_response_id"}),
        _pku,
    ),
    Layout(
        "`safer_response_id` as the number of the chosen response",
        frozenset({"response_0", "response_1", "safer_response_id"}),
        _safer,
    ),
    Layout("`label`: 1 if `response_A` was preferred", frozenset({"response_A", "response_B", "label"}), _wimhf),
    Layout("`winner` of two conversations", frozenset({"conversation_a", "conversation_b", "winner"}), _arena),
    Layout(
        "`winner_model_a`, `winner_model_b` and `winner_tie`",
        frozenset({"response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"}),
        _arena_flags,
    ),
    Layout(
        "`preference_strength`: below zero if `response_1` is better",
        frozenset({"response_1", "response_2", "preference_strength"}),
        _helpsteer2,
    ),
    Layout(
        "`overall_preference`: below zero if `response1` is better",
        frozenset({"response1", "response2", "overall_preference"}),
        _helpsteer3,
    ),
    Layout("the last message as chosen, `rejected_response` as rejected", frozenset({"messages", "rejected_response"}), _swift),
    Layout("`completions` by their scores", frozenset({"instruction", "completions"}), _ultrafeedback),
    Layout("`answers` by their ranks", frozenset({"prompt", "answers"}), _nectar),
    Layout("`choice` as the number of the chosen summary", frozenset({"info", "summaries", "choice"}), _summaries),
)

#: Forms with one response in a row: their columns, those of the response and of its grade, and how they are read.
_SINGLE: tuple[tuple[frozenset[str], tuple[str, str], str], ...] = (
    (
        frozenset({"prompt", "completion", "label"}),
        ("completion", "label"),
        "read each `completion` with the label true with each of the same prompt with the label false",
    ),
    (
        frozenset({"prompt", "response", "helpfulness", "correctness", "coherence"}),
        ("response", "helpfulness"),
        "read each `response` with each of the same prompt with a lower `helpfulness`",
    ),
)


def pairs_of(layout: Layout, row: RawRow) -> Iterable[RawRow]:
    """The rows of pairs that a row gives.

    Raises:
        RowError: it cannot be read.
        TieError: no response was preferred.
    """
    return [RawRow(row.row, values) for values in layout.read(row.values or {})]

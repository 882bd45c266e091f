"""Rows that each hold one response with a verdict or a rating (KTO, HelpSteer): pairs are made of those of one prompt."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

from sparserm.pairs.forms import BEFORE, alpaca_prompt
from sparserm.pairs.limits import MAX_LISTED_PAIRS
from sparserm.pairs.messages import RowError, plain
from sparserm.pairs.preferences import number
from sparserm.pairs.rows import RawRow, Row, canonical, columns_of
from sparserm.types import PairIssue, SparseRMError


@dataclass(frozen=True)
class _Form:
    """A form with one response in a row.

    Attributes:
        columns: that a source must have.
        grade: the columns of the response and of its grade.
        about: how a source is read.
    """

    columns: frozenset[str]
    grade: tuple[str, str]
    about: str


def paired(rows: Sequence[RawRow]) -> tuple[list[RawRow], list[PairIssue], str]:
    """Rows that each hold one response with a verdict or a rating, as rows of pairs of one prompt.

    Returns:
        The rows, an entry for each row that is in no pair, and how the source was read; the rows themselves and an empty text
        where they are of another form.
    """
    present = set(columns_of(rows))
    form = _form_of(present)
    if form is None and (form := _form_of(set(map(canonical, present)))) is not None:
        rows = [replace(row, values={canonical(key): value for key, value in (row.values or {}).items()}) for row in rows]
    if form is None:
        return list(rows), [], ""
    found, left = _grouped([row for row in rows if row.values is not None], *form.grade)
    return found, left, form.about


def check_both_responses(rows: Sequence[RawRow], name: str) -> None:
    """Check that rows can be read one by one.

    Raises:
        SparseRMError: each holds one response, so that the two of a pair stand in different rows.
    """
    if form := _form_of({*map(canonical, columns_of(rows))}):
        raise SparseRMError(
            f"{name} has one response in each row ({', '.join(sorted(form.columns))}), and is read in parts, in which the "
            "two responses of a pair need not stand together; expected prompt, chosen and rejected in every row; make pairs of "
            "it first, with load_pairs in Python"
        )


def _form_of(present: Set[str]) -> _Form | None:
    found = (one for one in _FORMS if one.columns <= present and not {"chosen", "rejected"} & present)
    return next(found, None)


def _grouped(rows: Sequence[RawRow], response: str, grade: str) -> tuple[list[RawRow], list[PairIssue]]:
    """Each response of a prompt with each that has a lower grade.

    Raises:
        SparseRMError: that gives too many pairs.
    """
    groups: dict[str, list[tuple[int, Row, float]]] = {}
    issues = []
    for row in rows:
        if row.values is None:
            continue
        try:
            value = number(row.values, grade)
        except RowError as problem:
            issues.append(PairIssue(row.row, problem.column, problem.problem))
            continue
        values = _answered(row.values, response)
        asked = repr([plain(values.get(name)) for name in ("prompt", *_ASKED_WITH)])
        groups.setdefault(asked, []).append((row.row, values, value))
    found: list[RawRow] = []
    for group in groups.values():
        used = set()
        for (i, one, high), (j, other, low) in combinations(group, 2):
            if high == low:
                continue
            better, worse = (one, other) if high > low else (other, one)
            used |= {i, j}
            if len(found) >= MAX_LISTED_PAIRS:
                raise SparseRMError(
                    f"the responses to one prompt (row {i}) are {len(group):,}, and with those to others give more than "
                    f"{MAX_LISTED_PAIRS:,} pairs, each liked one with each other; expected fewer; split the file by prompt"
                )
            values = {**better, "chosen": better.get(response), "rejected": worse.get(response)}
            found.append(RawRow(i if high > low else j, values))
        alone = f"is like that of every other response to this prompt: no response was preferred ({grade})"
        issues += [PairIssue(i, grade, alone, "tie") for i, _, _ in group if i not in used]
    return sorted(found, key=lambda row: row.row), issues


def _answered(row: Row, response: str) -> Row:
    """A row with one response, with its prompt under that name: of a conversation, all but the last message."""
    turns = plain(row.get(response))
    if response in ("messages", "conversations") and isinstance(turns, (list, tuple)) and len(turns) > 1:
        return {**row, "prompt": list(turns[:-1]), response: [turns[-1]]}
    asked = next((row[name] for name in ("prompt", "question") if row.get(name) is not None), alpaca_prompt(row))
    return {**row, "prompt": asked}


#: Columns that belong to what was asked: responses are compared only where these are the same, too.
_ASKED_WITH = ("system", "system_prompt", "system_message", *BEFORE, "input", "tools")

#: The first form whose columns a source has is used.
_FORMS = (
    *(
        _Form(
            frozenset({prompt, response, label}),
            (response, label),
            f"read each `{response}` with the `{label}` true with each of the same prompt with the `{label}` false",
        )
        for prompt, response, label in (
            ("prompt", "completion", "label"),
            ("instruction", "completion", "label"),
            ("question", "completion", "label"),
            ("instruction", "output", "kto_tag"),
            ("messages", "messages", "label"),
            ("messages", "messages", "kto_tag"),
            ("conversations", "conversations", "kto_tag"),
        )
    ),
    _Form(
        frozenset({"prompt", "response", "helpfulness", "correctness", "coherence"}),
        ("response", "helpfulness"),
        "read each `response` with each of the same prompt with a lower `helpfulness`",
    ),
)

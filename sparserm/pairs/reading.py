"""Reads the pairs of raw rows, once it is known which columns hold the prompt and the responses.

Every row gives one or more pairs, or an issue; no row is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparserm.pairs.cells import is_blank, texts_in, written_lone_text
from sparserm.pairs.columns import TIES, FoundColumns, listed
from sparserm.pairs.forms import WON
from sparserm.pairs.layouts import pairs_of
from sparserm.pairs.limits import MAX_LISTED_PAIRS
from sparserm.pairs.messages import (
    RowError,
    answer,
    begun,
    check_prompt,
    is_missing,
    plain,
    plain_turns,
    same_turns,
    templated,
    text_beside,
    text_or_messages,
    turns_beside,
    turns_in,
)
from sparserm.pairs.preferences import LabelError, TieError, says_tie
from sparserm.pairs.rows import WHOLE_ROW, RawRow, canonical
from sparserm.pairs.templates import begins_templated
from sparserm.pairs.transcripts import continued, transcript
from sparserm.support.files import one_line
from sparserm.types import Message, PairIssue, PreferencePair, Prompt, SparseRMError

#: Columns that may hold the turns before the prompt.
_TURNS = ("history", "context")
#: Rows from which on it is odd that a label always prefers the same side.
_MANY = 8


def read_rows(rows: Iterable[RawRow], columns: FoundColumns) -> tuple[list[PreferencePair], list[PairIssue]]:
    """The pairs of the usable rows and the errors of the others, including rows that could not be read.

    Raises:
        SparseRMError: lists of responses give too many pairs, or labels do not mean what they mean in this layout.
    """
    pairs: list[PreferencePair] = []
    issues: list[PairIssue] = []
    sides: list[int] = []
    n_listed = 0
    for row in rows:
        if row.issue is not None and row.values is None:
            issues.append(row.issue)
        else:
            try:
                _check_tie(row.values or {}, columns)
                for one in pairs_of(columns.layout, row) if columns.layout else [_pointed(row, columns)]:
                    responses = _listed_responses(one.values or {}, columns)
                    n_listed += len(responses[0]) * len(responses[1])
                    _check_listed(n_listed, row, columns)
                    pairs += _read_row(one, columns, *responses)
                    sides += [side] if isinstance(side := (one.values or {}).get(WON), int) else []
            except LabelError as problem:  # the rows before it may have been read the wrong way round
                raise SparseRMError(
                    f"row {row.row}: {problem}; so the labels of this source mean something else than in the form that its "
                    "columns have, and none of its rows is read; write the responses into the columns chosen and rejected"
                ) from problem
            except RowError as problem:
                issues.append(PairIssue(row.row, problem.column, problem.problem))
            except TieError as problem:
                issues.append(PairIssue(row.row, problem.column, problem.problem, "tie"))
    if len(sides) >= _MANY and len(set(sides)) == 1:
        said = f"the label prefers the {('first', 'second')[sides[0]]} response in all {len(sides):,} rows: check its meaning"
        issues.append(PairIssue(pairs[0].row, WHOLE_ROW, said, "warning"))
    return pairs, issues


def _pointed(row: RawRow, columns: FoundColumns) -> RawRow:
    """A row with the responses that the cells of chosen and rejected name."""
    if not columns.pointers:
        return row
    values = dict(row.values or {})
    for name in (columns.chosen, columns.rejected):
        cell = plain(values.get(name))
        named = columns.pointers.get(canonical(str(cell)))
        if named is None:
            raise RowError(name, f"is {str(cell)!r:.40}, expected the name of a column with a response, as in the other rows")
        values[name] = values.get(named)
    return replace(row, values=values)


def _check_tie(values: Mapping[str, Any], columns: FoundColumns) -> None:
    """Raise :class:`TieError` if a column says, by true or in words, that neither response was preferred."""
    for name in columns.verdicts:
        value = plain(values.get(name))
        is_tie = canonical(name) in TIES
        if says_tie(value) or (is_tie and _is_true(value)):
            raise TieError(name, f"is {value!r:.40}: neither response was preferred")
        if is_tie and not is_false(value):
            raise RowError(name, f"is {value!r:.40}, expected true for a tie, or false")


def _is_true(value: Any) -> bool:
    """Whether a cell is true, 1, yes or a mark, also as text."""
    return str(plain(value)).strip().lower() in ("true", "1", "1.0", "yes", "t", "y", "x", "✓")


def is_false(value: Any) -> bool:
    """Whether a cell is false, 0, no or empty, also as text."""
    value = plain(value)
    return is_missing(value) or is_blank(str(value)) or str(value).strip().lower() in ("false", "0", "0.0", "no", "f", "n")


def _check_listed(n_listed: int, row: RawRow, columns: FoundColumns) -> None:
    if n_listed > MAX_LISTED_PAIRS:
        raise SparseRMError(
            f"the lists of {columns.chosen} and {columns.rejected} up to row {row.row} give {n_listed:,} pairs, each "
            f"response with each; expected at most {MAX_LISTED_PAIRS:,}; shorten the lists, or split the file"
        )


def _listed_responses(values: Mapping[str, Any], columns: FoundColumns) -> tuple[list[str], list[str]]:
    """The responses of a row in which a side has several in a list; empty for two single responses."""
    if columns.turns:
        return [], []
    names = (columns.chosen, columns.rejected)
    chosen, rejected = (_several(values.get(name), name, name in columns.lists) for name in names)
    if chosen and rejected:
        asked = chosen[0] if columns.prompt is None else plain(values.get(columns.prompt))
        if len(chosen) > 1 and len(rejected) > 1 and chosen[0] == rejected[0] == asked:
            raise RowError(
                columns.chosen,
                f"and {columns.rejected} are lists that begin with the same text, as turns of a conversation do: give "
                "messages with role and content",
            )
        return chosen, rejected
    one, other = (text if isinstance(text := plain(values.get(name)), str) else "" for name in names)
    if chosen or rejected:  # the other side has one response, which need not stand in a list
        return chosen or ([one] if one else []), rejected or ([other] if other else [])
    return [], []


def _read_row(row: RawRow, columns: FoundColumns, chosen: Sequence[str], rejected: Sequence[str]) -> list[PreferencePair]:
    """The pairs of a row: every chosen response in a list with every rejected one, grouped by chosen response."""
    values = row.values or {}
    if columns.lone and isinstance(asked := values.get(columns.prompt or ""), str):
        text = written_lone_text(asked)  # rows of a later part of a large file may be written otherwise
        values = {**values, str(columns.prompt): asked if text is None else text}
    if columns.turns:
        told = {name: _told(listed(values.get(name), name in columns.lists)) for name in (columns.chosen, columns.rejected)}
        return [_read_pair(row, {**values, **told}, replace(columns, prompt=None))]
    if not chosen or not rejected:
        return [_read_pair(row, values, columns)]
    one_each = ({**values, columns.chosen: a, columns.rejected: b} for a in chosen for b in rejected)
    return [_read_pair(row, each, columns, may_be_equal=True) for each in one_each]


def read_response(row: RawRow, columns: FoundColumns) -> tuple[Prompt, str]:
    """The prompt of a row with one response, and the response: as a pair is read that has it on both sides.

    Raises:
        RowError: they cannot be read.
    """
    value = (row.values or {}).get(columns.chosen)
    (pair,) = _read_row(row, columns, [value], [value])  # type: ignore[list-item]  # messages are read as well
    return pair.prompt, pair.chosen


def _told(texts: Sequence[str]) -> list[dict[str, str]]:
    """The turns of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def _several(value: Any, column: str, is_written: bool) -> list[str]:
    """The responses of a cell that contains a list of strings; empty for a single response (text or messages).

    Args:
        is_written: whether the cells of the column are lists written as text.
    """
    value = plain(value)
    if is_written and isinstance(value, str):
        value = texts_in(value)
        if value is None:
            raise RowError(column, "is not a list of texts in JSON or in Python's print format, as the other cells are")
    return value if isinstance(value, list) and all(isinstance(one, str) for one in value) else []


def _read_pair(row: RawRow, values: Mapping[str, Any], columns: FoundColumns, *, may_be_equal: bool = False) -> PreferencePair:
    chosen, rejected = _without_prompt(values, columns)
    if columns.prompt is None or _whole(values, chosen, rejected, columns):
        prompt, chosen, rejected = _implied_prompt(chosen, rejected, columns)
        prompt_column = columns.chosen
    else:
        asked = _prompt_of(values, columns)
        if columns.guessed and not isinstance(asked, str):
            asked = _without_answer(asked, chosen, rejected)
        prompt, chosen, rejected = _explicit_prompt(asked, chosen, rejected)
        prompt_column = columns.prompt
    check_prompt(prompt, prompt_column)
    prompt = _with_system(plain_turns(prompt), values, columns)
    chosen_text = answer(chosen, prompt, columns.chosen)
    rejected_text = answer(rejected, prompt, columns.rejected)
    # In a list of responses two may be equal: benchmarks count such a pair as a tie.
    if chosen_text.strip() == rejected_text.strip() and not may_be_equal:
        raise RowError(columns.rejected, f"equals {columns.chosen}: a pair needs two different responses")
    category = _mark(values.get(columns.category)) if columns.category else ""
    return PreferencePair(prompt, chosen_text, rejected_text, row.row, category, _mark(values.get("id")))


def _without_prompt(values: Mapping[str, Any], columns: FoundColumns) -> tuple[str | Prompt, str | Prompt]:
    """Both responses; where those of all rows begin with the prompt, without it."""
    chosen, rejected = (text_or_messages(values, name) for name in (columns.chosen, columns.rejected))
    if columns.repeats and columns.prompt is not None:
        asked = str(values.get(columns.prompt)).strip()
        chosen, rejected = (
            one.lstrip()[len(asked) :].lstrip() if isinstance(one, str) and one.lstrip().startswith(asked) else one
            for one in (chosen, rejected)
        )
    begun = plain(values.get(columns.begun)) if columns.begun else None
    if columns.begun and isinstance(begun, str) and not is_blank(begun):
        chosen, rejected = (_continued(begun, one, columns.begun) for one in (chosen, rejected))
    return chosen, rejected


def _continued(begun: str, response: str | Prompt, column: str) -> str:
    """A response with its beginning, which stands in another column."""
    if not isinstance(response, str):
        raise RowError(column, "is the beginning of responses that are messages: expected texts")
    space = "" if begun[-1].isspace() or response[:1].isspace() else " "
    return response if response.startswith(begun) else f"{begun}{space}{response}"


def _whole(values: Mapping[str, Any], chosen: str | Prompt, rejected: str | Prompt, columns: FoundColumns) -> bool:
    """Whether the responses are whole conversations, of which the prompt is a part.

    Rows of one source may differ: some with a prompt, some without. A column that was guessed to be the prompt gives way.
    """
    if columns.prompt in values and not (columns.guessed and columns.layout is None):
        return False
    if isinstance(chosen, str) and isinstance(rejected, str):
        return both_transcripts(chosen, rejected) is not None
    return not isinstance(chosen, str) and not isinstance(rejected, str) and min(len(chosen), len(rejected)) > 1


def _prompt_of(values: Mapping[str, Any], columns: FoundColumns) -> str | Prompt:
    """The prompt, with what belongs to it in other columns: texts that have some, each on lines of its own."""
    assert columns.prompt is not None
    if columns.otherwise and not holds_something(values.get(columns.prompt)):
        return text_or_messages(values, columns.otherwise)
    if not columns.joined:
        return text_or_messages(values, columns.prompt)
    value = text_or_messages(values, columns.prompt)
    beside = [one for one in columns.joined if one == columns.prompt or not _turns_before(values, one)]
    texts = {name: text for name in beside if name != columns.prompt and (text := text_beside(values, name))}
    if not texts:
        return value
    if isinstance(value, str):
        asked = "" if is_blank(value) else value.strip()
        return "\n\n".join(filter(None, (asked if name == columns.prompt else texts.get(name) for name in beside)))
    raise RowError(columns.prompt, f"is messages, and a text stands beside it in {', '.join(texts)}: expected one of them")


def _turns_before(values: Mapping[str, Any], column: str) -> Prompt:
    """The turns before the prompt that a column beside it holds."""
    return turns_beside(values, column) if column in _TURNS else ()


def _with_system(prompt: Prompt, values: Mapping[str, Any], columns: FoundColumns) -> Prompt:
    """The prompt with the system message of its row and the turns before it, where other columns hold them.

    Raises:
        RowError: they are of another form, or the prompt has another system message.
    """
    system = next((text for name in columns.system if (text := _system_text(values, name))), "")
    history = _history(values, columns)
    own = prompt[0].content if prompt[0].role == "system" else ""
    if system and own and system.strip() != own.strip():
        raise RowError(columns.system[0], "differs from the system message in the prompt: expected one")
    turns = (*history, *(prompt[1:] if own else prompt)) if own or system else (*history, *prompt)
    return (Message("system", own or system), *turns) if own or system else turns


def _system_text(values: Mapping[str, Any], column: str) -> str:
    """The system message in a cell: text, a message or a list with one; empty if there is none."""
    value = plain(values.get(column))
    if isinstance(value, Mapping) and "parts" in value:  # Gemini
        value = plain(value["parts"])
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("content", "value", "text") if key in value), None)
    if is_missing(value) or value in ([], (), {}):
        return ""
    if not isinstance(value, str):
        raise RowError(column, "is neither a text nor one message: expected the system message")
    return "" if is_blank(value) else value


def _history(values: Mapping[str, Any], columns: FoundColumns) -> Prompt:
    """The turns before the prompt, as in the column ``history`` of LLaMA-Factory and ms-swift."""
    names = [name for name in _TURNS if name != columns.prompt and (name == "history" or name in columns.joined)]
    return next((turns for name in names if (turns := turns_beside(values, name))), ())


def _mark(value: Any) -> str:
    """A category or an id as one line of text; empty if there is none."""
    value = plain(value)
    return one_line(value, 80) if isinstance(value, (str, int)) else ""


def _explicit_prompt(
    prompt: str | Prompt, chosen: str | Prompt, rejected: str | Prompt
) -> tuple[Prompt, str | Prompt, str | Prompt]:
    if not isinstance(prompt, str):
        return prompt, chosen, rejected
    if (whole := _whole_texts(prompt, chosen, rejected)) is not None:
        return whole[0][:-1], *whole  # which say the prompt again, with what stands before it
    if (turns := turns_in(prompt)) is not None:
        chosen, rejected = (
            begun(prompt, value.removeprefix(prompt).strip()) if isinstance(value, str) else value
            for value in (chosen, rejected)
        )
        return turns, chosen, rejected
    turn = Message("user", prompt)
    repeats = not isinstance(chosen, str) and not isinstance(rejected, str) and chosen[:-1] == rejected[:-1]
    if repeats and same_turns(chosen[-2:-1], (turn,)):  # type: ignore[arg-type]
        # UltraFeedback: the prompt as a string and again in the messages, which also include any system turn.
        return chosen[:-1], chosen, rejected  # type: ignore[return-value]
    return (turn,), chosen, rejected


def _without_answer(prompt: Prompt, *responses: str | Prompt) -> Prompt:
    """The turns of a conversation that was found to be the prompt, without a last one that is one of the responses."""
    said = {one.strip() if isinstance(one, str) else one[-1].content.strip() for one in responses}
    answered = len(prompt) > 1 and prompt[-1].role == "assistant" and prompt[-1].content.strip() in said
    return prompt[:-1] if answered else prompt


def _whole_texts(prompt: str, chosen: str | Prompt, rejected: str | Prompt) -> tuple[Prompt, Prompt] | None:
    """The turns of two texts in a template, or of two transcripts, that differ in the last answer; None for other responses."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        return None
    if begins_templated(chosen) and begins_templated(rejected):
        whole: tuple[Prompt, Prompt] | None = templated(chosen, "chosen"), templated(rejected, "rejected")
    elif (begun := (continued(prompt, chosen), continued(prompt, rejected))) and begun[0] and begun[1]:
        whole = begun[0], begun[1]
    else:
        whole = both_transcripts(chosen, rejected)
        if whole is not None and not _says(whole[0], prompt):  # somebody asked for a transcript
            return None
    if whole is None or whole[0][:-1] != whole[1][:-1]:
        return None
    return whole if all(len(one) > 1 and one[-1].role == "assistant" for one in whole) else None


def _says(turns: Prompt, prompt: str) -> bool:
    """Whether a prompt stands in a conversation: as the user's last turn or its first, or as all turns before the answer."""
    if (told := turns_in(prompt)) is not None:
        return same_turns(told, turns[:-1])
    said = [turn.content.split() for turn in turns if turn.role == "user"]
    return prompt.split() in (said[0], said[-1])


def _implied_prompt(
    chosen: str | Prompt, rejected: str | Prompt, columns: FoundColumns
) -> tuple[Prompt, str | Prompt, str | Prompt]:
    if isinstance(chosen, str) and isinstance(rejected, str) and begins_templated(chosen) and begins_templated(rejected):
        chosen, rejected = templated(chosen, columns.chosen), templated(rejected, columns.rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        transcripts = both_transcripts(chosen, rejected)
        if transcripts is None:
            n = _common_beginning(chosen, rejected)
            if not chosen[:n].strip():
                raise RowError(columns.chosen, f"and {columns.rejected} begin with no words in common: add a prompt column")
            return (Message("user", chosen[:n].rstrip()),), chosen[n:].lstrip(), rejected[n:].lstrip()
        chosen, rejected = transcripts
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise RowError(columns.chosen, f"and {columns.rejected} differ in form: give both as text or both as messages")
    n = 0
    while n < min(len(chosen), len(rejected)) - 1 and chosen[n] == rejected[n]:
        n += 1
    if n == 0:
        raise RowError(columns.chosen, f"and {columns.rejected} share no first message as prompt: add a prompt column")
    return chosen[:n], chosen[n:], rejected[n:]


def both_transcripts(chosen: str, rejected: str) -> tuple[Prompt, Prompt] | None:
    if (turns_chosen := transcript(chosen)) is None or (turns_rejected := transcript(rejected)) is None:
        return None
    return turns_chosen, turns_rejected


def _common_beginning(a: str, b: str) -> int:
    """Length of the longest common beginning that ends between words: ``A cat`` and ``A car`` share ``A``, not ``A ca``."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while n and not (a[n - 1].isspace() or (a[n : n + 1].isspace() and b[n : n + 1].isspace())):
        n -= 1
    return n


def holds_something(cell: Any) -> bool:
    value = plain(cell)
    return (
        not is_missing(value)
        and not is_blank(value)
        and value not in ([], (), {})
        and not isinstance(value, (bool, int, float))
    )

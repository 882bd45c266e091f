"""Parses raw rows into validated preference pairs.

Supported formats: TRL with explicit prompt (``prompt, chosen, rejected``), TRL with implicit prompt (``chosen, rejected``) and
ShareGPT (``conversations, chosen, rejected``), with strings or message lists; ``chosen`` and ``rejected`` may also be lists of
responses, as in reward benchmarks. Every row gives one or more pairs, or an issue; no row is dropped silently.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sparserm.pairs.cells import is_blank, is_mark, is_unread_data, looks_like_messages, texts_in, written_lone_text
from sparserm.pairs.columns import TIES, FoundColumns, find_columns, listed, may_be_asked
from sparserm.pairs.files import WHOLE_ROW, RawRow, columns_of, rows_of, uncollected
from sparserm.pairs.labels import sides, verdict_beside
from sparserm.pairs.layouts import WON, LabelError, Layout, TieError, canonical, grade_of, pairs_of, says_tie, verdicts_beside
from sparserm.pairs.limits import MAX_LISTED_PAIRS
from sparserm.pairs.messages import (
    RowError,
    answer,
    begun,
    check_prompt,
    holds_thinking,
    is_missing,
    plain,
    plain_turns,
    same_turns,
    templated,
    text_beside,
    text_or_messages,
    turn_mark,
    turns_beside,
    turns_in,
)
from sparserm.pairs.split import preference_data
from sparserm.pairs.templates import begins_templated, mark_in
from sparserm.pairs.transcripts import continued, speaker_in, teller_in, transcript
from sparserm.pairs.verdicts import paired
from sparserm.support.files import one_line
from sparserm.types import Message, PairIssue, PreferenceData, PreferencePair, Prompt, SparseRMError

#: What the name of a column has in it that holds a score of a response.
_SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "votes"}
#: Columns of what a language model for texts cannot read, or is not told.
_UNREAD = {"images", "image", "videos", "video", "audios", "audio", "tools", "functions", "choices", "options"}
#: Rows in which is looked whether a column is read, and columns that a warning names.
_SAMPLE, _SHOWN = 50, 8
#: Columns that may hold the turns before the prompt.
_TURNS = ("history", "context")
#: A text that says something: two words, the end of a sentence or a call, or several letters of scripts without spaces.
_SAYS = re.compile(r"[^\W\d_]\S*\s+\S*[^\W\d_]|\w[.?!;)]\s*$|[\u0e00-\u0e7f\u3040-\u9fff\uac00-\ud7af]{4}")
#: Rows from which on it is odd that a label always prefers the same side.
_MANY = 8
#: Columns, true in some rows, that may say that chosen and rejected stand the wrong way round.
_FLIPS = {
    f"{before}{name}"
    for before in ("", "is_", "label_")
    for name in ("flip", "flipped", "swap", "swapped", "reverse", "reversed", "invert", "inverted")
}
#: Columns that may say which of two responses won.
_LABELS = ("label", "labels", "preference", "preferred", "winner")
#: How columns end that may hold several responses each.
_PLURALS = ("answers", "responses", "completions", "outputs")
#: Verdicts that contradict the columns chosen and rejected.
_CONTRARY = ("rejected", "rejected_response", "flipped")


class PairsError(SparseRMError):
    """Rows of a source cannot be used; ``issues`` lists all errors and warnings in row order."""

    def __init__(self, message: str, issues: Sequence[PairIssue] = ()) -> None:
        super().__init__(message)
        self.issues = tuple(issues)


def parse_pairs(
    rows: Iterable[Any] | Mapping[str, Any],
    name: str = "rows",
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> PreferenceData:
    """Parse preference pairs from rows in memory: dictionaries, a data frame, a ``datasets.Dataset`` or ``DatasetDict``.

    Raises:
        PairsError: rows cannot be used and ``skip_bad`` is not set, or no row can be used.
        SparseRMError: there are no rows, or columns are missing.
    """
    return parse_rows(rows_of(rows), name, columns=columns, skip_bad=skip_bad)


# ------------------------------------------------------------------------------------------------ rows into pairs


@uncollected()
def parse_rows(rows: Sequence[RawRow], name: str, *, columns: Mapping[str, str] | None, skip_bad: bool) -> PreferenceData:
    """Parse preference pairs from raw rows.

    Raises:
        PairsError, SparseRMError: as for :func:`parse_pairs`.
    """
    if not rows:
        raise SparseRMError(f"{name} has no rows: expected at least one with prompt, chosen and rejected")
    issues = [row.issue for row in rows if row.issue is not None]
    pairs: list[PreferencePair] = []
    readable, left, how = ([row for row in rows if row.values is not None], [], "") if columns else paired(rows)
    readable = [row for row in readable if row.values is not None]
    issues += left
    if readable:
        found = find_columns(readable, columns or {}, name)
        pairs, unusable = read_rows(readable, found)
        issues += unusable
        issues += text_warnings(readable, pairs, found)
        issues += source_warnings(readable, pairs, found)
        issues += pair_warnings(readable, pairs, found)
        issues += _repeat_warnings(pairs, found)
        if said := how or found.reading:
            issues.append(PairIssue(readable[0].row, WHOLE_ROW, said, "warning"))
    issues.sort(key=lambda issue: issue.row)
    n_bad = len({issue.row for issue in issues if issue.severity == "error"})
    if (n_bad or not pairs) and not (skip_bad and pairs):
        raise PairsError(_bad_rows_message(name, n_bad, len(rows), issues), issues)
    used = {pair.row for pair in pairs}  # where rows were paired, each pair counts as one, under the number of its chosen one
    n_rows = len(used | {issue.row for issue in issues if issue.severity != "warning"}) if how else len(rows)
    return preference_data(name, pairs, issues, n_rows)


def _bad_rows_message(name: str, n_bad: int, n_rows: int, issues: Sequence[PairIssue]) -> str:
    errors = [str(issue) for issue in issues if issue.severity == "error"]
    if not errors:
        ties = [str(issue) for issue in issues if issue.severity == "tie"]
        said = f"; {ties[0]}" if ties else ""
        return one_line(f"{name}: none of its {n_rows} rows prefers a response to another{said}; add rows that do", 2000)
    shown = "; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
    fix = (
        "fix them, or pass skip_bad=True (--skip-bad on the command line) to leave them out"
        if n_bad < n_rows
        else "no usable rows: fix them, or map the source's columns: columns={'prompt': ...} (--column prompt=...)"
    )
    return one_line(f"{name}: {n_bad} of {n_rows} rows cannot be used ({shown}); {fix}", 2000)


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
        if is_tie and not _is_false(value):
            raise RowError(name, f"is {value!r:.40}, expected true for a tie, or false")


def _is_true(value: Any) -> bool:
    """Whether a cell is true, 1, yes or a mark, also as text."""
    return str(plain(value)).strip().lower() in ("true", "1", "1.0", "yes", "t", "y", "x", "✓")


def _is_false(value: Any) -> bool:
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
        return _both_transcripts(chosen, rejected) is not None
    return not isinstance(chosen, str) and not isinstance(rejected, str) and min(len(chosen), len(rejected)) > 1


def _prompt_of(values: Mapping[str, Any], columns: FoundColumns) -> str | Prompt:
    """The prompt, with what belongs to it in other columns: texts that have some, each on lines of its own."""
    assert columns.prompt is not None
    if columns.otherwise and not _holds_something(values.get(columns.prompt)):
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
        whole = _both_transcripts(chosen, rejected)
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
        transcripts = _both_transcripts(chosen, rejected)
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


def _both_transcripts(chosen: str, rejected: str) -> tuple[Prompt, Prompt] | None:
    if (turns_chosen := transcript(chosen)) is None or (turns_rejected := transcript(rejected)) is None:
        return None
    return turns_chosen, turns_rejected


def _common_beginning(a: str, b: str) -> int:
    """Length of the longest common beginning that ends between words: ``A cat`` and ``A car`` share ``A``, not ``A ca``."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while n and not (a[n - 1].isspace() or (a[n : n + 1].isspace() and b[n : n + 1].isspace())):
        n -= 1
    return n


# ---------------------------------------------------------------------------------------------------- whole sources


def text_warnings(rows: Iterable[RawRow], pairs: Iterable[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """Warnings about single usable rows: empty messages, and texts that may be none or mean something else."""
    found = _doubtful_rows(rows, columns)
    for pair in pairs:
        found += _prompt_warnings(pair, columns.prompt or columns.chosen)
        seen = visible(pair.chosen), visible(pair.rejected)
        for column, text, shown in ((columns.chosen, pair.chosen, seen[0]), (columns.rejected, pair.rejected, seen[1])):
            if is_mark(text):
                found.append((pair.row, column, f"is the text {text.strip()!r}, which may be a missing value"))
            found += _mark_warning(pair.row, column, text, pair.prompt[-1].content)
            if not shown:
                found.append((pair.row, column, "has no visible characters"))
        if pair.chosen != pair.rejected and seen[0] == seen[1]:
            found.append((pair.row, columns.rejected, f"differs from {columns.chosen} in invisible characters or spaces alone"))
    return [PairIssue(*one, severity="warning") for one in found]


def source_warnings(rows: Sequence[RawRow], pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """Warnings about what a source holds that is left out, or not read as what it may be, each said once."""
    told = teller_in(text for pair in pairs for text in (pair.chosen, pair.rejected))
    said = f"all responses begin with {told!r}, as the turns of a transcript do: read as text"
    is_new = told and not speaker_in(pairs[0].chosen)  # which is said of each row
    spoken_by = [PairIssue(pairs[0].row, WHOLE_ROW, said, "warning")] if is_new else []
    return [
        *spoken_by,
        *_thinking_warning(rows, columns),
        *_turn_warning(rows, columns),
        *_data_warnings(pairs, columns),
        *_media_warning(rows),
    ]


def pair_warnings(rows: Sequence[RawRow], pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """Warnings about what makes the pairs of a source: prompts that are guessed, and columns that may say otherwise."""
    return [
        *_implied_text_warning(rows, pairs, columns),
        *_flip_warnings(rows, columns),
        *(_side_warnings(rows, columns) or _rival_warnings(rows, columns)),
        *_plural_warnings(pairs, columns),
        *_unread_warning(rows, pairs, columns),
    ]


def _repeat_warnings(pairs: Iterable[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """Warnings about pairs that repeat another, or prefer what it rejects."""
    found = []
    first: dict[tuple[Prompt, str, str], int] = {}
    for pair in pairs:
        same = first.setdefault((pair.prompt, pair.chosen, pair.rejected), pair.row)
        reverse = first.get((pair.prompt, pair.rejected, pair.chosen))
        if same != pair.row:
            found.append((pair.row, columns.chosen, f"repeats row {same}: prompt, chosen and rejected are the same"))
        if reverse is not None and pair.chosen != pair.rejected:
            found.append((pair.row, columns.chosen, f"prefers what row {reverse} rejects: same prompt, preference reversed"))
    return [PairIssue(*one, severity="warning") for one in found]


def _prompt_warnings(pair: PreferencePair, column: str) -> list[tuple[int, str, str]]:
    """Marks of templates in a prompt, and messages without text."""
    found = next((found for turn in pair.prompt if (found := _mark_warning(pair.row, column, turn.content))), [])
    if is_mark(last := pair.prompt[-1].content.strip()):
        found.append((pair.row, column, f"is the text {last!r}, which may be a missing value"))
    if any(not turn.content.strip() for turn in pair.prompt):
        found.append((pair.row, column, "prompt has a message without text"))
    return found


def _mark_warning(row: int, column: str, text: str, prompt: str = "") -> list[tuple[int, str, str]]:
    """A warning if a text has marks of a template or of a transcript, which are read as text."""
    if mark := mark_in(text):
        return [(row, column, f"has {mark} in it, a mark of a chat template: read as text")]
    if word := speaker_in(text, prompt):
        return [(row, column, f"looks like a transcript ({word}): read as text")]
    return []


def _doubtful_rows(rows: Iterable[RawRow], columns: FoundColumns) -> list[tuple[int, str, str]]:
    """The header again among the rows, and scores that speak for the rejected response."""
    found = []
    names = [name for name in (columns.prompt, columns.chosen, columns.rejected) if name is not None]
    rows = list(rows)
    scores = _score_columns(columns_of(rows))
    for row in rows:
        values = row.values or {}
        if len(names) == 3 and all(_is_header(values.get(name), name) for name in names):
            found.append((row.row, columns.chosen, "repeats the header"))
        for a, b in scores:
            high, low = (grade_of(values.get(name)) for name in (a, b))
            if high is not None and low is not None and high < low:
                found.append((row.row, a, f"is {high:g}, below {b} ({low:g}): the label may be the wrong way round"))
    return found


def _is_header(cell: Any, name: str) -> bool:
    return isinstance(cell, str) and cell.strip().lower() == name.strip().lower()


def _score_columns(present: Iterable[str]) -> list[tuple[str, str]]:
    """The columns with a score of the chosen response, each with the one of the rejected response."""
    named = {canonical(name): name for name in present}
    scored = [one for one in named if _SCORES & set(one.split("_")) and "chosen" in one.split("_")]
    sides = ((named[one], named.get(one.replace("chosen", "rejected"))) for one in scored)
    return [(chosen, rejected) for chosen, rejected in sides if rejected is not None]


def _thinking_warning(rows: Iterable[RawRow], columns: FoundColumns) -> list[PairIssue]:
    """One warning if responses began with what the model thought, which is left out."""
    found = []
    for row in rows:
        values = row.values or {}
        asked = plain(values.get(columns.prompt)) if columns.prompt else None
        cells = (begun(asked, one) if isinstance(asked, str) and isinstance(one, str) else one for one in values.values())
        found += [row.row] if any(map(holds_thinking, cells)) else []
    said = f"thinking at the beginning of responses was left out ({len(found):,} {'row' if len(found) == 1 else 'rows'})"
    return [PairIssue(found[0], WHOLE_ROW, said, "warning")] if found else []


def _turn_warning(rows: Sequence[RawRow], columns: FoundColumns) -> list[PairIssue]:
    """One warning if marks of a turn were left out of some responses, and not of most: a text may end with one it is about."""
    beside = {columns.prompt, *columns.joined, *columns.system}
    present = columns_of(rows)
    names = set(present) - beside if columns.layout else {columns.chosen, columns.rejected}
    marks = {name: [(row.row, turn_mark((row.values or {}).get(name))) for row in rows] for name in present if name in names}
    cells = [cell for found in marks.values() if not columns.layout or any(mark for _, mark in found) for cell in found]
    found = [(row, mark) for row, mark in cells if mark]
    if not found or 2 * len(found) > len(cells):
        return []
    said = f"marks of a turn such as {found[0][1]} were left out of {len(found):,} of {len(cells):,} responses"
    return [PairIssue(found[0][0], WHOLE_ROW, f"{said}: check that none of these is about the mark", "warning")]


def _flip_warnings(rows: Sequence[RawRow], columns: FoundColumns) -> list[PairIssue]:
    """A warning for each column that may say that labels are the wrong way round: data sets mean either by it."""
    found = []
    for name in columns_of(rows):
        is_flip = canonical(name) in _FLIPS
        if canonical(name) in _LABELS and columns.layout is None:
            found += _label_warning(rows, name)
        if not is_flip and name not in columns.verdicts:
            continue
        speaks = _may_be_flipped if is_flip else _is_contrary
        said = [row.row for row in rows if speaks(plain((row.values or {}).get(name)))]
        what = f"`{name}` {'is true' if is_flip else 'speaks for the rejected response'} in {len(said):,} of {len(rows):,} rows"
        problem = f"{what}, read as the columns say: check that chosen and rejected were exchanged there"
        found += [PairIssue(said[0], WHOLE_ROW, problem, "warning")] if said else []
    return found


def _rival_warnings(rows: Sequence[RawRow], columns: FoundColumns) -> list[PairIssue]:
    """A warning for each verdict that says otherwise than the one that was read, or than chosen and rejected."""
    present = columns_of(rows)
    found = []
    rivals = columns.layout.rivals if columns.layout else verdicts_beside(present, [row.values or {} for row in rows])
    for rival in rivals:
        said = [row.row for row in rows if _says_otherwise(row, rival, columns)]
        what = columns.layout.verdict if columns.layout else f"{columns.chosen} and {columns.rejected}"
        problem = f"`{rival.verdict}` says otherwise in {len(said):,} of {len(rows):,} rows: read {what}; check what each means"
        found += [PairIssue(said[0], WHOLE_ROW, problem, "warning")] if said else []
    return found


def _side_warnings(rows: Sequence[RawRow], columns: FoundColumns) -> list[PairIssue]:
    """A warning if two responses were mapped to chosen and rejected beside a column that may say which of them won."""
    names = (columns.chosen, columns.rejected)
    verdict = verdict_beside(rows, names) if sides(names) else None
    said = f"`{verdict}` may say which response won, and is not read: `{names[0]}` was read as chosen in all {len(rows):,} rows"
    return [PairIssue(rows[0].row, WHOLE_ROW, said, "warning")] if verdict else []


def _says_otherwise(row: RawRow, rival: Layout, columns: FoundColumns) -> bool:
    """Whether another verdict prefers the response of a row that was rejected."""
    try:
        ours = [*pairs_of(columns.layout, row)] if columns.layout else [row]
        sides = [[plain((one.values or {}).get(name)) for name in (columns.chosen, columns.rejected)] for one in ours]
        theirs = [(one.get("rejected"), one.get("chosen")) for one in rival.read(rival.named(row.values or {}))]
    except (RowError, TieError, LabelError):
        return False
    return any(list(map(plain, one)) == side for one in theirs for side in sides)


def _label_warning(rows: Sequence[RawRow], name: str) -> list[PairIssue]:
    """One warning for a column beside chosen and rejected that is now 0 and now 1, as a label is that says which of two won."""
    values = {str(plain((row.values or {}).get(name))).strip().lower() for row in rows}
    said = (
        f"`{name}` is {' and '.join(sorted(values))} beside chosen and rejected, which were read as named: check what it says"
    )
    return [PairIssue(rows[0].row, WHOLE_ROW, said, "warning")] if values in ({"0", "1"}, {"false", "true"}) else []


def _may_be_flipped(value: Any) -> bool:
    return not _is_false(value)


def _is_contrary(verdict: Any) -> bool:
    return isinstance(verdict, str) and verdict.strip().lower() in _CONTRARY


def _data_warnings(pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """A warning for each column with texts that write a list or an object, which may be meant as such."""
    sides = (
        (columns.prompt, [(pair.row, pair.prompt[-1].content) for pair in pairs]),
        (columns.chosen, [(pair.row, pair.chosen) for pair in pairs]),
        (columns.rejected, [(pair.row, pair.rejected) for pair in pairs]),
    )
    found = []
    for name, texts in sides:
        said = [row for row, text in texts if name is not None and is_unread_data(text)]
        problem = f"is a list or an object written as text in {len(said):,} of {len(pairs):,} pairs: read as that text"
        found += [PairIssue(said[0], str(name), problem, "warning")] if said else []
        for holds, what in _WRITINGS if name is not None else ():
            said = [row for row, text in texts if holds(text)]
            if len(said) == len(texts) > 1 or (said and holds is not _is_quoted):
                found.append(PairIssue(said[0], str(name), what.format(len(said), len(pairs)), "warning"))
    return found


def _is_quoted(text: str) -> bool:
    return len(text := text.strip()) > 2 and text[0] == text[-1] == '"'


def _is_formula(text: str) -> bool:
    return text.lstrip().startswith('="') and text.rstrip().endswith('"')


def _has_escape(text: str) -> bool:
    return "_x00" in text and re.search("_x00[01][0-9A-F]_", text) is not None


#: Texts in a writing of other programs, and what is said about them.
_WRITINGS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (_is_quoted, "is in quotes in every pair, as JSON writes texts: read with the quotes"),
    (_is_formula, 'is written ="..." in {:,} of {:,} pairs, as for Excel: read with these signs'),
    (_has_escape, "has _x000D_ or the like in {:,} of {:,} pairs, as Excel writes control characters: read as that text"),
)


def _plural_warnings(pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """A warning for each column that is called like several responses and has semicolons in its texts."""
    sides = (
        (columns.chosen, [pair.row for pair in pairs if ";" in pair.chosen]),
        (columns.rejected, [pair.row for pair in pairs if ";" in pair.rejected]),
    )
    named = [(name, rows) for name, rows in sides if name.lower().endswith(_PLURALS)]
    said = "is called like several responses, and has semicolons in {:,} of {:,} pairs: each text was read as one response"
    return [PairIssue(rows[0], name, said.format(len(rows), len(pairs)), "warning") for name, rows in named if rows]


def _media_columns(rows: Sequence[RawRow]) -> list[str]:
    """The columns of images, tools and the like."""
    return [one for one in columns_of(rows) if _UNREAD & set(canonical(one).split("_"))]


def _media_warning(rows: Sequence[RawRow]) -> list[PairIssue]:
    """One warning if rows have images or tools, which a reward model of texts does not read."""
    given = [name for name in _media_columns(rows) if any(_holds_something((row.values or {}).get(name)) for row in rows)]
    said = f"{_listed_names(given)} {'is' if len(given) == 1 else 'are'} not read: only the texts are"
    return [PairIssue(rows[0].row, WHOLE_ROW, said, "warning")] if given else []


def _unread_warning(rows: Sequence[RawRow], pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """One warning if columns hold texts that are no part of the pairs."""
    known = {*columns.read, *_media_columns(rows), "id"}
    told = {pair.row: pair for pair in pairs}
    used = [row for row in rows if row.row in told]
    unread = [one for one in columns_of(rows) if one not in known and may_be_asked(one) and _is_left_out(one, used, told)]
    said = f"not read: {_listed_names(unread)}; what belongs to the prompt has to stand in it"
    return [PairIssue(rows[0].row, WHOLE_ROW, said, "warning")] if unread else []


def _listed_names(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _holds_something(cell: Any) -> bool:
    value = plain(cell)
    return (
        not is_missing(value)
        and not is_blank(value)
        and value not in ([], (), {})
        and not isinstance(value, (bool, int, float))
    )


def _is_left_out(name: str, rows: Sequence[RawRow], told: Mapping[int, PreferencePair]) -> bool:
    """Whether a column has texts of several words that are no part of the pair of their row."""
    for row in islice((row for row in rows if _holds_something((row.values or {}).get(name))), _SAMPLE):
        texts = [one for one in _texts_of((row.values or {}).get(name)) if _SAYS.search(one)]
        pair = told[row.row]
        said = " ".join(" ".join([*(turn.content for turn in pair.prompt), pair.chosen, pair.rejected]).split())
        if any(" ".join(text.split()) not in said for text in texts):
            return True
    return False


def _texts_of(cell: Any) -> Iterator[str]:
    """All texts in a cell."""
    value = plain(cell)
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_of(one)


def visible(text: str) -> str:
    """A text without characters that cannot be seen, and with single spaces: what a reader can tell apart."""
    flat = " ".join(text.split())
    if flat.isprintable():
        return flat
    seen = (one for one in text if unicodedata.category(one) not in ("Cf", "Cc", "Zl", "Zp") or one.isspace())
    return " ".join("".join(seen).split())


def _says_its_turns(a: str, b: str) -> bool:
    """Whether two texts say which of their turns are the prompt."""
    return bool(_both_transcripts(a, b)) or any(begins_templated(one) or looks_like_messages(one) for one in (a, b))


def _implied_text_warning(rows: Iterable[RawRow], pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """One warning if the common beginning of plain-text responses was taken as the prompt, which may cut the responses."""
    if columns.prompt is not None:
        return []
    values = {row.row: row.values or {} for row in rows}
    texts = ((pair.row, [values[pair.row][column] for column in (columns.chosen, columns.rejected)]) for pair in pairs)
    guessed = [row for row, (a, b) in texts if isinstance(a, str) and isinstance(b, str) and not _says_its_turns(a, b)]
    if not guessed:
        return []
    problem = f"no prompt column: the common beginning of both responses was taken as the prompt ({len(guessed)} rows)"
    return [PairIssue(guessed[0], columns.chosen, problem, severity="warning")]

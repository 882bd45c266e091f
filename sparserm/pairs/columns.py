"""Which columns of a source hold the prompt and the responses: by our names, by their spelling, or by what they mean.

What was guessed is said (:attr:`FoundColumns.reading`), so that nobody has to wonder what was read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparserm.pairs.cells import is_mark, looks_like_messages, texts_in, written_lone_text
from sparserm.pairs.forms import BEFORE
from sparserm.pairs.labels import pointers, verdict_hint
from sparserm.pairs.layouts import Layout, find_layout
from sparserm.pairs.messages import RowError, is_missing, plain, text_or_messages
from sparserm.pairs.rows import RawRow, canonical, columns_of
from sparserm.support.files import one_line
from sparserm.types import Message, SparseRMError

_OUR_COLUMNS = ("prompt", "chosen", "rejected", "conversations")
#: Columns whose names say that they are the prompt; and those with the conversation that it is the end of.
_SAID, _CONVERSATIONS = ("prompt", "conversations"), ("conversations", "conversation", "messages", "context_messages")
#: Columns with what both responses begin with, as in Step-DPO.
_BEGINNINGS = ("initial_reason_steps", "initial_reasoning_steps")
#: Columns that say, by true or in words, that neither response was preferred.
TIES, VERDICTS = ("tie", "is_tie", "tied", "is_tied"), ("winner", "preference", "preferred", "verdict", "status")
#: Columns with the category of a pair; the first one present is used.
_CATEGORY_COLUMNS = ("category", "subset", "domain")
#: Columns with a system message beside the prompt, in any spelling.
_SYSTEM = re.compile("sys(tem)?(prompt|message|msg|instructions?|content|text)?")
#: The column that stands after an instruction and belongs to it, as Alpaca's input does.
_AFTER = ("input",)

#: Words that occur in common names for our columns.
WORDS = {
    "prompt": ("prompt", "question", "instruction", "input", "query", "context", "conversations", "history", "user"),
    "chosen": ("chosen", "preferred", "better", "good", "best", "winner", "accepted", "positive", "pos", "correct", "win"),
    "rejected": (
        "rejected",
        "dispreferred",
        "worse",
        "bad",
        "worst",
        "loser",
        "refused",
        "negative",
        "neg",
        "incorrect",
        "lose",
    ),
}
#: Columns beside ``chosen`` and ``rejected`` that are the prompt, the first one present.
_PROMPTS = ("question", "instruction", "query", "input", "history")
#: Other columns that may be, where none is called like a prompt.
_ASKED = ("post", "dialogue", "trajectory", "problem")
#: Parts of a name of a column that tells something about a response and is not one.
_ABOUT = {
    *(
        "model",
        "score",
        "rating",
        "reward",
        "id",
        "label",
        "rank",
        "name",
        "source",
        "logprob",
        "logps",
        "reason",
        "type",
        "len",
    ),
    *("length", "category", "language", "lang", "level", "title", "feedback", "points", "reasoning", "tokens", "count", "url"),
}
_CLOSE = 0.8
#: What to do about a source without responses, by a column that it has.
_HINTS = (
    ({"choices", "options"}, "of a multiple choice, write the right choice into chosen and a wrong one into rejected; or "),
    ({"annotations"}, "of an export, write the answer that people preferred into chosen and the other into rejected; or "),
    (
        {"label", "score", "winner", "preference", "rating"},
        "where a label says which response won, write that one into chosen and the other into rejected; or ",
    ),
)
#: The fewest characters of a prompt that a response repeats on purpose.
SENTENCE = 8
#: Characters of a column's name that are compared, and rows that are looked at.
_LONGEST_NAME, _SAMPLE = 100, 50


@dataclass(frozen=True)
class FoundColumns:
    """The source's names of our columns.

    Attributes:
        prompt: None if the prompt is the common beginning of both responses.
        chosen, rejected: the responses.
        category: of the pairs; None if there is none.
        system: with a system message; the first one with text counts.
        joined: all columns that make up the prompt, in order, if they are several.
        layout: how a row is turned into one with these columns, where it tells in another way which response won.
        lists: the columns in which every cell is a list of responses, written as text.
        lone: whether every prompt is written as a list or an object with one text.
        turns: whether both responses of every row are lists of texts that are the turns of a conversation.
        begun: the column with the beginning of both responses.
        unread: a conversation beside the prompt that differs from it in some rows.
        otherwise: the column of the prompt where a conversation beside it is read and is empty.
        verdicts: columns that may say that a row is a tie.
        repeats: whether the responses of every row begin with the prompt.
        guessed: whether columns were guessed from their names.
        pointers: the columns that the cells of chosen and rejected name, by what names them; empty if they are responses.
    """

    prompt: str | None
    chosen: str
    rejected: str
    category: str | None = None
    system: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    layout: Layout | None = None
    lists: tuple[str, ...] = ()
    lone: bool = False
    turns: bool = False
    begun: str | None = None
    unread: str | None = None
    otherwise: str | None = None
    verdicts: tuple[str, ...] = ()
    repeats: bool = False
    guessed: bool = False
    pointers: Mapping[str, str] = field(default_factory=dict)

    @property
    def read(self) -> set[str]:
        """The columns that are read, or said to be or not to be."""
        names = {self.prompt, self.chosen, self.rejected, self.category, self.begun, self.unread, self.otherwise}
        if self.layout is None:
            names |= {*_CONVERSATIONS}  # read or named, if they say more than the prompt
        else:
            theirs = {ours: theirs for theirs, ours in self.layout.names.items()}
            names |= {theirs.get(one, one) for one in self.layout.columns}
        found = names | {*self.system, *self.joined, *self.verdicts, *self.pointers.values()}
        return {name for name in found if name is not None}

    @property
    def reading(self) -> str:
        """How the source was read, where that is not plain from the names, e.g. ``read `question` as the prompt``."""
        if self.layout is not None:
            return f"read {self.layout.about}"
        parts = []
        if self.guessed or self.joined:
            prompt = " + ".join(f"`{name}`" for name in self.joined) if self.joined else f"`{self.prompt}`"
            if self.prompt is not None:
                parts.append(f"{prompt} as the prompt")
            if {self.chosen.lower(), self.rejected.lower()} != {"chosen", "rejected"}:
                parts += [f"`{self.chosen}` as chosen", f"`{self.rejected}` as rejected"]
        if self.system:
            parts.append(f"{' or '.join(f'`{name}`' for name in self.system)} as the system message")
        said = {
            f"`{self.chosen}` and `{self.rejected}` as the names of the columns with the responses": bool(self.pointers),
            "responses without the prompt that they repeat": self.repeats,
            "lists of texts as turns of user and assistant": self.turns,
            "cells as lists of responses": self.lists and not self.turns,
            f"the text in each list or object of `{self.prompt}`": self.lone,
            f"`{self.begun}` as the beginning of both responses": self.begun,
            f"`{self.prompt}` and not `{self.unread}`, which is another prompt in some rows": self.unread,
        }
        parts += [what for what, is_so in said.items() if is_so]
        return f"read {', '.join(parts)}" if parts else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that tell this reading from others; as in earlier versions where the names say all."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("prompt", "chosen", "rejected", "category")}
        return {**found, **({"reading": self.reading} if self.reading else {})}


def may_be_asked(name: str) -> bool:
    """Whether a column may hold a part of what was asked: not what its name says to be about a response."""
    return not _ABOUT & set(_parts(name))


def find_columns(rows: Sequence[RawRow], columns: Mapping[str, str], name: str) -> FoundColumns:
    """Find the columns that contain the prompt, the responses and the category.

    Args:
        columns: maps our column names to the source's, where they differ; then nothing is guessed.

    Raises:
        SparseRMError: a required column is missing, or ``columns`` has an unknown key.
    """
    unknown = [ours for ours in columns if ours not in _OUR_COLUMNS]
    if unknown:
        raise SparseRMError(f"columns maps unknown names {unknown!r}: expected names among {', '.join(_OUR_COLUMNS)}")
    present, some = columns_of(rows), _values(rows)
    if not columns and (layout := find_layout(present, some)) is not None:
        named = [layout.names.get(one, one) for one in present]
        return FoundColumns("prompt", "chosen", "rejected", _first(_CATEGORY_COLUMNS, named), _system(named, ()), layout=layout)
    _refuse_variants(present if not columns else (), name)
    theirs = {**_named(present), **columns}
    guess = {} if columns or {"chosen", "rejected"} <= set(theirs) else suggest_columns(present, some)
    # Without a prompt among them, and with other texts beside them, one of those would be the prompt, and be dropped.
    texts = _texts(present, some)
    others = set(texts) - {guess.get("chosen"), guess.get("rejected")}
    guessed = (
        {"chosen", "rejected"} <= set(guess)
        and guess["chosen"] != guess["rejected"]
        and ("prompt" in {**guess, **theirs} or not others)
    )
    theirs = {**theirs, **guess} if guessed else theirs
    _require(theirs, columns, present, name, verdict_hint(rows, present))
    labels = pointers(rows, theirs["chosen"], theirs["rejected"], name)
    _refuse_missing(rows, theirs, name)
    _refuse_several(some, [] if columns else [theirs["chosen"], theirs["rejected"]], name)
    prompt = theirs.get("prompt") or theirs.get("conversations")
    if prompt is None and not columns:
        prompt = _prompt_beside(present, some)
    found = FoundColumns(prompt, theirs["chosen"], theirs["rejected"], pointers=labels)
    beside, differs = ("", False) if columns else _conversation_beside(rows, found)
    if beside and not differs:
        found = replace(found, prompt=beside, guessed=True, otherwise=prompt)
        prompt = beside
    used = {*theirs.values(), prompt}
    system = _system(present, used)
    joined = () if prompt is None or columns else _joined(prompt, [one for one in texts if one not in used - {prompt}])
    found = replace(
        found,
        category=next((one for one in _CATEGORY_COLUMNS if one in present and one not in used), None),
        system=system,
        joined=joined,
        guessed=guessed or found.guessed or (prompt is not None and prompt.lower() not in _SAID and not columns),
        unread=beside if differs else None,
    )
    return _with_cells(found, rows, present, is_named=bool(columns))


def _with_cells(found: FoundColumns, rows: Sequence[RawRow], present: Sequence[str], is_named: bool) -> FoundColumns:
    """What the cells of these columns are."""
    prompt, lists = found.prompt, _lists(rows, found)
    return replace(
        found,
        lists=lists,
        lone=prompt is not None and _every(rows, prompt, _writes_lone_text),
        turns=_are_turns(rows, replace(found, lists=lists)),
        begun=_first(_BEGINNINGS, present) if not is_named else None,
        repeats=prompt is not None and _repeat(rows, prompt, found.chosen, found.rejected),
        verdicts=()
        if is_named
        else tuple(
            one for one in present if canonical(one) in (*TIES, *VERDICTS) and one not in (found.chosen, found.rejected)
        ),
    )


def _named(present: Sequence[str]) -> dict[str, str]:
    """Columns with our names, in any case: the exact ones first."""
    exact = {ours: ours for ours in _OUR_COLUMNS if ours in present}
    return {one.lower(): one for one in reversed(present) if one.lower() in _OUR_COLUMNS} | exact


def _refuse_variants(present: Sequence[str], name: str) -> None:
    """Refuse columns with one of our names in two spellings, of which their order would decide which one is read."""
    for ours in _OUR_COLUMNS:
        spelled = [one for one in present if one.lower() == ours]
        if len(spelled) > 1 and ours not in spelled:
            raise SparseRMError(
                f"{name} has the columns {' and '.join(map(repr, spelled))}, expected one of them; rename the other, or map "
                f"columns={{{ours!r}: ...}} (--column {ours}=... on the command line)"
            )


def _require(theirs: Mapping[str, str], columns: Mapping[str, str], present: Sequence[str], name: str, fix: str) -> None:
    wanted = {ours: theirs.get(ours, ours) for ours in ("chosen", "rejected")} | dict(columns)
    missing = {ours: one for ours, one in wanted.items() if one not in present}
    if missing:
        listed = one_line(", ".join(map(repr, present)), 400)
        example = ", ".join(f"{ours!r}: ..." for ours in missing)
        options = " ".join(f"--column {ours}=..." for ours in missing)
        hint = next((said for beside, said in _HINTS if beside & {canonical(one) for one in present}), "")
        # Two responses beside a verdict would be read as if the first one had won in every row.
        fix = fix or f"{hint}map its columns with columns={{{example}}} ({options} on the command line)"
        raise SparseRMError(f"{name} has no column {', '.join(map(repr, missing.values()))}: it has {listed}; {fix}")


def _texts(present: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that hold text, lists or objects and say nothing about a response."""
    usable = [name for name in present if not _ABOUT & set(_parts(name)) and name not in _system(present, ())]
    return [name for name in usable if any(isinstance(plain(row.get(name)), (str, list, dict)) for row in rows)]


def _prompt_beside(present: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column whose name says that it is the prompt, where chosen and rejected have our names."""
    for words in (*((name,) for name in _PROMPTS), ("messages", "context_messages", "conversation")):
        for one in present:
            if one.lower() in words and any(isinstance(plain(row.get(one)), (str, list)) for row in rows):
                return one
    guess = suggest_columns([one for one in present if one.lower() not in ("chosen", "rejected")], rows).get("prompt")
    return guess or next((one for one in present if one.lower() in _ASKED), None)


def _joined(prompt: str, others: Sequence[str]) -> tuple[str, ...]:
    """All columns that make up the prompt, if there are several: Alpaca's input, or a passage to which a question belongs."""
    before = [one for one in others if one.lower() in BEFORE and one != prompt and prompt.lower() in ("prompt", *_PROMPTS)]
    after = [one for one in others if one.lower() in _AFTER and prompt.lower() in ("instruction", "prompt")]
    found = (*before, prompt, *after)
    return found if len(found) > 1 else ()


def _refuse_missing(rows: Sequence[RawRow], theirs: Mapping[str, str], name: str) -> None:
    """Refuse a column in which all cells are the text of a missing value."""
    for column in theirs.values():
        cells = {cell.strip() if isinstance(cell := (row.values or {}).get(column), str) else "" for row in rows}
        if len(rows) > 1 and all(map(is_mark, cells)):
            raise SparseRMError(
                f"{name}: every cell of {column} is the text {one_line(', '.join(sorted(map(repr, cells))), 60)}, as exporters "
                "write missing values; expected texts; export the column again, or leave it out"
            )


def _refuse_several(rows: Sequence[Mapping[str, Any]], names: Sequence[str], name: str) -> None:
    """Refuse responses beside others that are called like them, with another number at the end."""
    given = {key for row in rows for key, value in row.items() if isinstance(plain(value), (str, list)) and plain(value)}
    for one in names:
        stem = canonical(one).rstrip("0123456789").rstrip("_")
        others = [key for key in given - set(names) if re.fullmatch(rf"{re.escape(stem)}_?\d*", canonical(key))]
        if others := sorted(key for key in others if key.lower() != one.lower()):
            raise SparseRMError(
                f"{name} has {one} and {', '.join(others)}, of which only one would be read; expected a column for each side; "
                f"write its responses into one list, or map columns={{'chosen': ..., 'rejected': ...}} to the two to read "
                "(--column chosen=... --column rejected=... on the command line)"
            )


def _repeat(rows: Sequence[RawRow], prompt: str, chosen: str, rejected: str) -> bool:
    """Whether all responses are texts that begin with their prompt and go on."""
    for row in rows:
        asked, *responses = (plain((row.values or {}).get(one)) for one in (prompt, chosen, rejected))
        if not isinstance(asked, str) or len(asked := asked.strip()) < SENTENCE:
            return False
        if not all(isinstance(one, str) and one.strip() != asked and one.strip().startswith(asked) for one in responses):
            return False
    return bool(rows)


def _every(rows: Sequence[RawRow], column: str, holds: Callable[[Any], bool]) -> bool:
    """Whether something holds for every cell of a column."""
    return bool(rows) and all(holds(row.values.get(column)) for row in rows if row.values is not None)


def _some(rows: Sequence[RawRow], column: str, holds: Callable[[Any], bool]) -> bool:
    """Whether something holds for some cell of a column."""
    return any(holds(row.values.get(column)) for row in rows if row.values is not None)


def _writes_lone_text(cell: Any) -> bool:
    return isinstance(cell, str) and written_lone_text(cell) is not None


def _begins_list(cell: Any) -> bool:
    return isinstance(cell, str) and re.match(r"\s*\[\s*[\"']", cell) is not None


def _is_list(cell: Any) -> bool:
    """Whether a cell begins and ends as a list of texts does."""
    return isinstance(cell, str) and re.fullmatch(r"\s*\[\s*[\"'].*[\"']\s*,?\s*\]\s*", cell, re.DOTALL) is not None


def _lists(rows: Sequence[RawRow], found: FoundColumns) -> tuple[str, ...]:
    """The responses whose every cell is a list of texts, written as text, as in a CSV file of RewardBench 2.

    If those of one side are none, a single row does not show it: a response may be a list.
    """
    sides = (found.chosen, found.rejected)
    names = [name for name in sides if _every(rows, name, _begins_list) and _some(rows, name, _is_list)]
    return tuple(names) if len(names) == 2 or len(rows) > 1 else ()


def _are_turns(rows: Sequence[RawRow], found: FoundColumns) -> bool:
    """Whether both responses of every row are lists of texts, equal up to the last, that say the prompt if there is one."""
    for row in rows:
        values = row.values or {}
        chosen, rejected = (listed(values.get(name), name in found.lists) for name in (found.chosen, found.rejected))
        if len(chosen) < 2 or len(chosen) % 2 or chosen[:-1] != rejected[:-1] or chosen[-1] == rejected[-1]:
            return False
        asked = plain(values.get(found.prompt)) if found.prompt is not None else None
        if isinstance(asked, str) and asked.strip() not in (chosen[0].strip(), chosen[-2].strip()):
            return False
        if not isinstance(asked, (str, type(None))):
            return False
    return bool(rows)


def listed(cell: Any, is_written: bool = False) -> list[str]:
    """The texts of a cell that holds a list of them; empty for any other."""
    value = plain(cell)
    value = texts_in(value) if is_written and isinstance(value, str) else value
    return list(value) if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value) else []


def _conversation_beside(rows: Sequence[RawRow], found: FoundColumns) -> tuple[str, bool]:
    """A conversation beside a prompt of text that says more than it, and whether it says something else in some row.

    Whole conversations in the responses say all; one that only repeats the prompt, with or without an answer, says nothing.
    """
    present = [one for one in columns_of(rows) if one.lower() in _CONVERSATIONS]
    if found.prompt is None or found.prompt in present:
        return "", False
    for name in present:
        if name in (found.chosen, found.rejected):
            continue
        kinds = {_beside(row.values or {}, name, found) for row in rows}
        if kinds & {"more", "other"}:
            return name, "other" in kinds
    return "", False


def _beside(values: Mapping[str, Any], name: str, found: FoundColumns) -> str:
    """What a conversation says beside the prompt of its row: ``same``, ``more`` or ``other``."""
    asked, chosen = (plain(values.get(one or "")) for one in (found.prompt, found.chosen))
    if not isinstance(asked, str) or looks_like_messages(asked) or (isinstance(chosen, (list, tuple)) and len(chosen) > 1):
        return "same"
    try:
        told = text_or_messages(values, name)
    except RowError:
        return "same"
    turns = (Message("user", told),) if isinstance(told, str) else told
    said = [turn.content.strip() for turn in turns if turn.role == "user"]
    if asked.strip() not in said:
        return "other"
    return "more" if len(said) > 1 or turns[0].role == "system" else "same"


def suggest_columns(columns: Sequence[str], samples: Iterable[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Guess from their names which columns hold prompt and responses, e.g. ``{"prompt": "question", "chosen": "answer_good"}``.

    Args:
        columns: all columns of the source.
        samples: some rows; columns without text or lists in any of them are ignored.
    """
    rows = list(samples)
    usable = [name for name in columns if not rows or any(isinstance(plain(row.get(name)), (str, list)) for row in rows)]
    system = _system(columns, ())
    usable = [name for name in usable if not _ABOUT & set(_parts(name)) and name not in system]
    numbers = {name for name in usable if rows and not any(_may_be_text(plain(row.get(name))) for row in rows)}
    scores = {name: {ours: _likeness(name, words) for ours, words in WORDS.items()} for name in usable}
    found: dict[str, str] = {}
    for ours in WORDS:
        meant = [name for name in usable if scores[name][ours] == max(scores[name].values()) and scores[name][ours] >= _CLOSE]
        if meant:
            found[ours] = max(meant, key=lambda name: (name not in numbers, scores[name][ours], -_place(ours, name)))
    return found


def _may_be_text(value: Any) -> bool:
    """Whether a cell is text or messages, and neither a number nor a letter that stands for something."""
    return isinstance(value, list) or (isinstance(value, str) and re.fullmatch(r"\s*([-+.,\d]*|\w)\s*", value) is None)


def _place(ours: str, name: str) -> int:
    """Of equally good names the one whose word stands first: a question goes before the context that it is about."""
    order = ("prompt", "question", "instruction", "query")
    return next((i for i, word in enumerate(order) if word in _parts(name)), len(order)) if ours == "prompt" else 0


def _likeness(name: str, words: Iterable[str]) -> float:
    """Similarity (0 to 1) of the best-matching part of a name to any of the words, minus 0.02 for every further part."""
    parts = _parts(name)
    best = max((difflib.SequenceMatcher(a=part, b=word).ratio() for part in parts for word in words), default=0.0)
    return best - 0.02 * (len(parts) - 1)


def _parts(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name[:_LONGEST_NAME])]


def _system(present: Sequence[str], used: Collection[str | None]) -> tuple[str, ...]:
    return tuple(one for one in present if _SYSTEM.fullmatch(re.sub("[^a-z]", "", one.lower())) and one not in used)


def _first(names: Iterable[str], present: Sequence[str]) -> str | None:
    return next((one for one in names if one in present), None)


def _values(rows: Sequence[RawRow]) -> list[Mapping[str, Any]]:
    """Some rows: the first ones, and of each column the first one with a value."""
    found = [row.values for row in rows[:_SAMPLE] if row.values is not None]
    seen = {key for values in found for key, value in values.items() if not is_missing(plain(value))}
    for row in rows[_SAMPLE:]:
        if new := {key for key, value in (row.values or {}).items() if key not in seen and not is_missing(plain(value))}:
            seen |= new
            found.append(row.values or {})
    return found

"""Which columns of a source hold the prompt and the responses: by our names, by their spelling, or by what they mean.

What was guessed is said (:attr:`FoundColumns.reading`), so that nobody has to wonder what was read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparserm.pairs.files import RawRow
from sparserm.pairs.layouts import Layout, find_layout
from sparserm.pairs.messages import plain
from sparserm.support.files import one_line
from sparserm.types import SparseRMError

_OUR_COLUMNS = ("prompt", "chosen", "rejected", "conversations")
#: Columns with the category of a pair; the first one present is used.
_CATEGORY_COLUMNS = ("category", "subset", "domain")
#: Columns with a system message beside the prompt, in any spelling.
_SYSTEM_COLUMNS = ("system", "systemprompt", "systemmessage", "systeminstruction")
#: Columns that stand before or after the prompt and belong to it: passages to read, and the input of Alpaca's instructions.
_BEFORE, _AFTER = ("context", "passage", "document", "article", "history"), ("input",)

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
#: How a column with one of several responses is called; what names it in another column; and the fewest characters of a prompt
#: that a response repeats on purpose.
_RESPONSE = r"(?:response|answer|model|output|option|completion)[ _]?[abn012]"
_LABEL, _SENTENCE = rf"{_RESPONSE}|[ab012]", 8
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
        lists: whether every cell of the responses is a list of responses, written as text.
        repeats: whether the responses of every row begin with the prompt.
        guessed: whether columns were guessed from their names.
    """

    prompt: str | None
    chosen: str
    rejected: str
    category: str | None = None
    system: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    layout: Layout | None = None
    lists: bool = False
    repeats: bool = False
    guessed: bool = False

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
        if self.repeats:
            parts.append("responses without the prompt that they repeat")
        if self.lists:
            parts.append("cells as lists of responses")
        return f"read {', '.join(parts)}" if parts else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that tell this reading from others; as in earlier versions where the names say all."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("prompt", "chosen", "rejected", "category")}
        return {**found, **({"reading": self.reading} if self.reading else {})}


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
    present = list(dict.fromkeys(key for row in rows for key in row.values or ()))
    if not columns and (layout := find_layout(present)) is not None:
        category = _first(_CATEGORY_COLUMNS, present)
        return FoundColumns("prompt", "chosen", "rejected", category, _system(present, ()), layout=layout)
    theirs = {**_named(present), **columns}
    guess = {} if columns or {"chosen", "rejected"} <= set(theirs) else suggest_columns(present, _values(rows))
    # Without a prompt among them, and with other texts beside them, one of those would be the prompt, and be dropped.
    others = _texts(present, rows) - {guess.get("chosen"), guess.get("rejected")}
    guessed = {"chosen", "rejected"} <= set(guess) and ("prompt" in {**guess, **theirs} or not others)
    theirs = {**theirs, **guess} if guessed else theirs
    _require(theirs, columns, present, name)
    _refuse_labels(rows, theirs["chosen"], theirs["rejected"], name)
    prompt = theirs.get("prompt") or theirs.get("conversations")
    if prompt is None and not columns:
        prompt = _prompt_beside(present, _values(rows))
    used = {*theirs.values(), prompt}
    system = _system(present, used)
    joined = () if prompt is None or columns else _joined(prompt, [one for one in present if one not in used - {prompt}])
    return FoundColumns(
        prompt,
        theirs["chosen"],
        theirs["rejected"],
        next((one for one in _CATEGORY_COLUMNS if one in present and one not in used), None),
        system,
        joined,
        lists=_are_lists(rows, theirs["chosen"], theirs["rejected"]),
        repeats=prompt is not None and _repeat(rows, prompt, theirs["chosen"], theirs["rejected"]),
        guessed=guessed or (prompt is not None and prompt.lower() not in ("prompt", "conversations") and not columns),
    )


def _named(present: Sequence[str]) -> dict[str, str]:
    """Columns with our names, in any case: the exact ones first."""
    exact = {ours: ours for ours in _OUR_COLUMNS if ours in present}
    return {one.lower(): one for one in reversed(present) if one.lower() in _OUR_COLUMNS} | exact


def _require(theirs: Mapping[str, str], columns: Mapping[str, str], present: Sequence[str], name: str) -> None:
    wanted = {ours: theirs.get(ours, ours) for ours in ("chosen", "rejected")} | dict(columns)
    missing = {ours: one for ours, one in wanted.items() if one not in present}
    if missing:
        listed = one_line(", ".join(map(repr, present)), 400)
        example = ", ".join(f"{ours!r}: ..." for ours in missing)
        options = " ".join(f"--column {ours}=..." for ours in missing)
        raise SparseRMError(
            f"{name} has no column {', '.join(map(repr, missing.values()))}: it has {listed}; map its columns with "
            f"columns={{{example}}} ({options} on the command line)"
        )


def _texts(present: Sequence[str], rows: Sequence[RawRow]) -> set[str | None]:
    """The columns that hold text or lists and say nothing about a response."""
    usable = [name for name in present if not _ABOUT & set(_parts(name)) and name not in _system(present, ())]
    return {name for name in usable if any(isinstance(plain(row.get(name)), (str, list)) for row in _values(rows))}


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
    before = [one for one in others if one.lower() in _BEFORE and prompt.lower() in ("prompt", *_PROMPTS)]
    after = [one for one in others if one.lower() in _AFTER and prompt.lower() in ("instruction", "prompt")]
    found = (*before, prompt, *after)
    return found if len(found) > 1 else ()


def _refuse_labels(rows: Sequence[RawRow], chosen: str, rejected: str, name: str) -> None:
    """Refuse columns that name responses, such as A and B, and hold none."""
    others = {one for row in rows for one in row.values or () if re.fullmatch(_RESPONSE, one, re.IGNORECASE)}
    cells = [plain((row.values or {}).get(one)) for row in rows for one in (chosen, rejected)]
    texts = {str(cell).strip() for cell in cells if cell is not None}
    if others - {chosen, rejected} and texts and all(re.fullmatch(_LABEL, one, re.IGNORECASE) for one in texts):
        raise SparseRMError(
            f"{name}: {chosen} and {rejected} hold {one_line(', '.join(sorted(texts)), 60)}, which name the responses in other "
            "columns; expected the responses themselves"
        )


def _repeat(rows: Sequence[RawRow], prompt: str, chosen: str, rejected: str) -> bool:
    """Whether all responses are texts that begin with their prompt and go on."""
    for row in rows:
        asked, *responses = (plain((row.values or {}).get(one)) for one in (prompt, chosen, rejected))
        if not isinstance(asked, str) or len(asked := asked.strip()) < _SENTENCE:
            return False
        if not all(isinstance(one, str) and one.strip() != asked and one.strip().startswith(asked) for one in responses):
            return False
    return bool(rows)


def _are_lists(rows: Sequence[RawRow], chosen: str, rejected: str) -> bool:
    """Whether every cell of both columns is a list of texts, written as text, as in a CSV file of RewardBench 2."""
    cells = [(row.values or {}).get(name) for row in rows for name in (chosen, rejected) if row.values is not None]
    return bool(cells) and all(isinstance(one, str) and re.match(r"\s*\[\s*[\"']", one) for one in cells)


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
    return tuple(one for one in present if re.sub("[^a-z]", "", one.lower()) in _SYSTEM_COLUMNS and one not in used)


def _first(names: Iterable[str], present: Sequence[str]) -> str | None:
    return next((one for one in names if one in present), None)


def _values(rows: Sequence[RawRow]) -> list[Mapping[str, Any]]:
    return [row.values for row in rows[:_SAMPLE] if row.values is not None]

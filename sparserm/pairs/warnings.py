"""Warnings about pairs that may be read otherwise than meant."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sparserm.pairs.cells import is_mark, looks_like_messages
from sparserm.pairs.columns import WORDS, FoundColumns, may_be_asked
from sparserm.pairs.labels import sides, verdict_beside
from sparserm.pairs.layouts import Layout, pairs_of, verdicts_beside
from sparserm.pairs.messages import RowError, begun, holds_thinking, plain, turn_mark
from sparserm.pairs.preferences import LabelError, TieError, grade_of
from sparserm.pairs.reading import both_transcripts, holds_something, is_false
from sparserm.pairs.rows import WHOLE_ROW, RawRow, canonical, columns_of
from sparserm.pairs.templates import begins_templated, mark_in
from sparserm.pairs.transcripts import speaker_in, teller_in
from sparserm.pairs.writings import writing_warnings
from sparserm.types import PairIssue, PreferencePair, Prompt

#: What the name of a column has in it that holds a score of a response.
_SCORES = {"score", "scores", "rating", "ratings", "reward", "rewards", "grade", "votes"}
#: A cell that may be the name of a column: one or two words.
_NAME = re.compile(r"\s*[A-Za-z]\w{0,30}(?: \w{1,30})?\s*")
#: Words in the names of columns with prompts, chosen and rejected responses.
_NAMES = [set(WORDS[ours]) for ours in ("prompt", "chosen", "rejected")]
#: Columns of what a language model for texts cannot read, or is not told.
_UNREAD = {"images", "image", "videos", "video", "audios", "audio", "tools", "functions", "choices", "options"}
#: Rows in which is looked whether a column is read, and columns that a warning names.
_SAMPLE, _SHOWN = 50, 8
#: A text that says something: two words, the end of a sentence or a call, or several letters of scripts without spaces.
_SAYS = re.compile(r"[^\W\d_]\S*\s+\S*[^\W\d_]|\w[.?!;)]\s*$|[\u0e00-\u0e7f\u3040-\u9fff\uac00-\ud7af]{4}")
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
        *writing_warnings(pairs, columns),
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


def repeat_warnings(pairs: Iterable[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
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
        elif row.issue is None and len(names) == 3 and _are_names([values.get(name) for name in names]):
            said = f"is {str(values[columns.chosen])!r:.40}, and the row may be the header of a second table: read as a pair"
            found.append((row.row, columns.chosen, said))
        for a, b in scores:
            high, low = (grade_of(values.get(name)) for name in (a, b))
            if high is not None and low is not None and high < low:
                found.append((row.row, a, f"is {high:g}, below {b} ({low:g}): the label may be the wrong way round"))
    return found


def _is_header(cell: Any, name: str) -> bool:
    return isinstance(cell, str) and cell.strip().lower() == name.strip().lower()


def _are_names(cells: Sequence[Any]) -> bool:
    """Whether three cells are such names as columns with prompts, chosen and rejected responses have."""
    return all(
        isinstance(cell, str) and _NAME.fullmatch(cell) and not words.isdisjoint(re.findall("[a-z]+", cell.lower()))
        for cell, words in zip(cells, _NAMES, strict=True)
    )


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
    return not is_false(value)


def _is_contrary(verdict: Any) -> bool:
    return isinstance(verdict, str) and verdict.strip().lower() in _CONTRARY


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
    given = [name for name in _media_columns(rows) if any(holds_something((row.values or {}).get(name)) for row in rows)]
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


def _is_left_out(name: str, rows: Sequence[RawRow], told: Mapping[int, PreferencePair]) -> bool:
    """Whether a column has texts of several words that are no part of the pair of their row."""
    for row in islice((row for row in rows if holds_something((row.values or {}).get(name))), _SAMPLE):
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
    return bool(both_transcripts(a, b)) or any(begins_templated(one) or looks_like_messages(one) for one in (a, b))


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

"""Warnings about texts that are read as they stand, and may be written for another program or stand for something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from sparserm.pairs.cells import is_unread_data
from sparserm.pairs.columns import SENTENCE, FoundColumns
from sparserm.pairs.rows import WHOLE_ROW
from sparserm.types import PairIssue, PreferencePair

#: What stands for an image, a video or a sound, where it begins or ends a line.
_MEDIUM = re.compile(
    r"(?:^[ \t]*(?=<)|(?=<[^<>\n]*>[ \t]*$))"
    r"<((?:image|video|audio)(?:[ _-]?(?:\d{1,2}|placeholder|soft_token))?|start_of_(?:image|audio)|ImageHere|IMG_CONTEXT)>",
    re.MULTILINE,
)
#: A line break written as two characters, and not a path such as `C:\new`.
_BREAK = re.compile(r"\\n(?![a-z])")
#: Characters that a cell of Excel holds at most, and rows that a warning names.
_LONGEST, _SHOWN = 32_767, 5


def writing_warnings(pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """Warnings about texts in writings that are not read, each said once for a column or for the whole source."""
    return [
        *_data_warnings(pairs, columns),
        *_medium_warning(pairs, columns),
        *_break_warning(pairs),
        *_repetition_warning(pairs),
    ]


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


def _is_cut(text: str) -> bool:
    return len(text) == _LONGEST


#: Texts in a writing of other programs, and what is said about them.
_WRITINGS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (_is_quoted, "is in quotes in every pair, as JSON writes texts: read with the quotes"),
    (_is_formula, 'is written ="..." in {:,} of {:,} pairs, as for Excel: read with these signs'),
    (_is_cut, f"has {_LONGEST:,} characters in {{:,}} of {{:,}} pairs, the most that a cell of Excel holds: it may be cut"),
    (_has_escape, "has _x000D_ or the like in {:,} of {:,} pairs, as Excel writes control characters: read as that text"),
)


def _medium_warning(pairs: Sequence[PreferencePair], columns: FoundColumns) -> list[PairIssue]:
    """One warning if prompts have places of images, as models of images and texts are asked."""
    marks = [(pair.row, mark) for pair in pairs for turn in pair.prompt if (mark := _medium_in(turn.content))]
    if not marks:
        return []
    row, mark = marks[0]
    n_asked = len({row for row, _ in marks})
    said = f"has {mark} or the like in {n_asked:,} of {len(pairs):,} pairs, where an image or a sound stood"
    return [PairIssue(row, columns.prompt or columns.chosen, f"{said}: only texts are read", "warning")]


def _medium_in(text: str) -> str:
    """The first mark in a text that stands for an image, a video or a sound; empty if there is none."""
    found = _MEDIUM.search(text) if "<" in text else None
    return found[0].strip() if found and f"</{found[1]}>" not in text else ""  # HTML has some of these names


def _break_warning(pairs: Sequence[PreferencePair]) -> list[PairIssue]:
    """One warning if line breaks may be written as two characters, as some programs write TSV: no text has another one."""
    texts = [(pair.row, text) for pair in pairs for text in _texts_of(pair)]
    if any("\n" in text.strip() for _, text in texts):
        return []
    found = [row for row, text in texts if _BREAK.search(text)]
    said = f"\\n is written as two characters in {len(found):,} of {len(texts):,} texts, none of which has a line break"
    return [PairIssue(found[0], WHOLE_ROW, f"{said}: read as these characters", "warning")] if len(found) > 1 else []


def _texts_of(pair: PreferencePair) -> Iterable[str]:
    return (*(turn.content for turn in pair.prompt), pair.chosen, pair.rejected)


def _repetition_warning(pairs: Sequence[PreferencePair]) -> list[PairIssue]:
    """One warning if most responses begin with their prompt: where all of a source do, it is left out of them."""
    found = [pair.row for pair in pairs if _repeats_prompt(pair)]
    if not found or 2 * len(found) < len(pairs):
        return []
    others = sorted({pair.row for pair in pairs} - set(found))
    listed = ", ".join(map(str, others[:_SHOWN])) + (f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else "")
    where = f", and not in {'row' if len(others) == 1 else 'rows'} {listed}" if others else ""
    said = f"responses begin with their prompt in {len(found):,} of {len(pairs):,} pairs{where}: read with it"
    return [PairIssue(found[0], WHOLE_ROW, f"{said}; take it out of them, or leave it if they go on with it", "warning")]


def _repeats_prompt(pair: PreferencePair) -> bool:
    asked = pair.prompt[-1].content.strip()
    responses = (pair.chosen.strip(), pair.rejected.strip())
    return len(asked) >= SENTENCE and all(len(one) > len(asked) and one.startswith(asked) for one in responses)

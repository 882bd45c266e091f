"""Candidate responses for best-of-N: reads them from files and pasted text, and stores them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparserm.pairs.cells import parsed
from sparserm.pairs.columns import FoundColumns, find_columns
from sparserm.pairs.files import read_bytes, read_path
from sparserm.pairs.limits import MAX_CANDIDATES, MAX_FINDINGS
from sparserm.pairs.messages import RowError, as_prompt, plain, prompt_value
from sparserm.pairs.parsing import PairsError
from sparserm.pairs.reading import read_response
from sparserm.pairs.rows import WHOLE_ROW, RawRow
from sparserm.pairs.warnings import source_warnings, text_warnings
from sparserm.support.defaults import home
from sparserm.support.files import one_line, to_jsonl, write_bytes
from sparserm.types import Message, PairIssue, PreferencePair, Prompt, SparseRMError

#: Separator lines in pasted text: between the prompt and its responses, and between the blocks of two prompts.
PART, BLOCK = "---", "==="

_LISTS = ("responses", "completions", "candidates")
_SINGLES = ("response", "completion", "candidate")


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of one prompt; ``rows`` has the 1-based source row of each."""

    prompt: Prompt
    responses: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Candidates:
    """All candidates of one source; every dropped entry has an issue in ``issues``."""

    name: str
    sets: tuple[CandidateSet, ...]
    issues: tuple[PairIssue, ...] = ()

    @property
    def n_responses(self) -> int:
        """Number of candidates over all prompts."""
        return sum(len(one.responses) for one in self.sets)


# ------------------------------------------------------------------------------------------------------------ reading


def load_candidates(path: str | Path, *, skip_bad: bool = False) -> Candidates:
    """Read candidates from a JSONL, JSON, CSV, TSV or Parquet file, or one of these as ``.gz``.

    A row has a prompt and a list of ``responses`` (in a CSV cell as JSON or in Python's print format), or a prompt and one
    ``response``; rows with the same prompt are merged. ``completions`` and ``candidates`` are accepted as well. The prompt, and
    what belongs to it in other columns, is found and read as that of pairs, and so are responses.

    Args:
        path: the file.
        skip_bad: leave out entries that cannot be used and list them in ``.issues``, instead of raising.

    Raises:
        PairsError: entries cannot be used and ``skip_bad`` is not set, or no entry can be used.
        SparseRMError: the whole file is unreadable.
    """
    return _parse(read_path(Path(path).expanduser()), Path(path).name, skip_bad)


def read_candidates(data: bytes, filename: str, *, skip_bad: bool = False) -> Candidates:
    """Read candidates from the bytes and name of an uploaded file, like :func:`load_candidates`.

    Raises:
        PairsError, SparseRMError: as for :func:`load_candidates`.
    """
    return _parse(read_bytes(data, filename), filename, skip_bad)


def parse_candidates(text: str, *, skip_bad: bool = False) -> Candidates:
    """Parse pasted text: JSON Lines, or blocks separated by ``===`` lines, each a prompt and responses separated by ``---``.

    Raises:
        PairsError, SparseRMError: as for :func:`load_candidates`.
    """
    if re.match(r"\s*[\[{]\s*[\"{}\]]", text):
        return _parse(read_bytes(text.encode("utf-8", "surrogatepass"), "pasted.jsonl"), "pasted text", skip_bad)
    rows = []
    blocks = (block for block in _split(text, BLOCK) if block.strip())
    for number, block in enumerate(blocks, 1):
        prompt, *responses = (part.strip("\r\n") for part in _split(block, PART))
        rows.append(RawRow(number, {"prompt": prompt, "responses": responses}))
    return _parse(rows, "pasted text", skip_bad)


def _split(text: str, mark: str) -> list[str]:
    return re.split(rf"^[ \t]*{mark}[ \t]*\r?$", text, flags=re.MULTILINE)


def _parse(rows: Sequence[RawRow], name: str, skip_bad: bool) -> Candidates:
    if not rows:
        raise SparseRMError(f"{name} has nothing to rank: expected prompts, each with two or more responses")
    issues = [row.issue for row in rows if row.issue is not None and row.values is None]
    readable = [row for row in rows if row.values is not None]
    column, several = _find_column([row.values or {} for row in readable], name) if readable else ("response", False)
    entries, unusable = _entries(readable, column, several, name)
    issues += unusable
    if not entries:
        raise PairsError(_bad_message(name, issues, False), issues)
    columns, said = _columns([row for row, _ in entries], column, name)
    prompts: dict[Prompt, Prompt] = {}
    found: dict[Prompt, list[tuple[str, int]]] = {}
    pairs: list[PreferencePair] = []
    for row, number in entries:
        if len(issues) > MAX_FINDINGS:
            raise PairsError(f"{name}: more than {MAX_FINDINGS:,} entries cannot be used ({issues[0]}); fix them", issues)
        try:
            prompt, text = read_response(row, columns)
        except RowError as problem:  # the other candidates of the prompt are kept
            is_one = several and problem.column == column
            issues.append(
                PairIssue(row.row, problem.column, f"response {number} {problem.problem}" if is_one else problem.problem)
            )
            continue
        key = tuple(Message(turn.role, turn.content.strip()) for turn in prompt)  # so that each prompt gets a single ranking
        prompt = prompts.setdefault(key, prompt)
        found.setdefault(key, []).append((text, row.row))
        pairs.append(PreferencePair(prompt, text, text, row.row))
    issues = list(dict.fromkeys(issues))  # that of a prompt is one, however many responses it has
    sets = tuple(CandidateSet(prompts[key], *zip(*entries, strict=True)) for key, entries in found.items())
    if issues and not (skip_bad and sets):
        raise PairsError(_bad_message(name, issues, bool(sets)), issues)
    alone = "is the prompt's only response: there is nothing to rank"
    issues += [PairIssue(one.rows[0], column, alone, "warning") for one in sets if len(one.responses) < 2]
    issues += [row.issue for row in readable if row.issue is not None]
    issues += _warnings([row for row, _ in entries], pairs, columns, said)
    return Candidates(name, sets, tuple(sorted(issues, key=lambda issue: issue.row)))


def _warnings(rows: Sequence[RawRow], pairs: Sequence[PreferencePair], columns: FoundColumns, said: str) -> list[PairIssue]:
    """What is said about pairs that hold these texts, once for each response; and how columns were read."""
    found = [*text_warnings(rows, pairs, columns), *source_warnings(rows, pairs, columns)]
    note = [PairIssue(rows[0].row, WHOLE_ROW, said, "warning")] if said else []
    return list(dict.fromkeys([*found, *note]))


def _entries(rows: Sequence[RawRow], column: str, several: bool, name: str) -> tuple[list[tuple[RawRow, int]], list[PairIssue]]:
    """A row for each response, with the number of the response in its list; and the rows whose list cannot be read."""
    found: list[tuple[RawRow, int]] = []
    issues = []
    for row in rows:
        values = row.values or {}
        try:
            responses = _list(values, column) if several else [values.get(column)]
        except RowError as problem:
            issues.append(PairIssue(row.row, problem.column, problem.problem))
            continue
        if len(found) + len(responses) > MAX_CANDIDATES:
            raise SparseRMError(
                f"{name} has more than {MAX_CANDIDATES:,} responses; expected at most that; split it into smaller files"
            )
        found += [(RawRow(row.row, {**values, column: one}), number) for number, one in enumerate(responses, 1)]
    return found, issues


def _columns(rows: Sequence[RawRow], column: str, name: str) -> tuple[FoundColumns, str]:
    """The columns of the prompt, found as for pairs that have a response on both sides; and how they were read."""
    sides = ([(key, one) for key, one in (row.values or {}).items() if key != column] for row in rows)
    both = [
        RawRow(row.row, {**dict(beside), "chosen": (row.values or {})[column], "rejected": (row.values or {})[column]})
        for row, beside in zip(rows, sides, strict=True)
    ]
    found = replace(find_columns(both, {}, name), lists=(), verdicts=())
    if found.prompt is None:
        raise _unknown_columns(rows[0].values or {}, name)
    return replace(found, chosen=column, rejected=column), found.reading


def _bad_message(name: str, issues: Sequence[PairIssue], some_left: bool) -> str:
    shown = "; ".join(map(str, issues[:3])) + (f"; and {len(issues) - 3} more" if len(issues) > 3 else "")
    fix = "fix them, or leave them out (--skip-bad)" if some_left else "nothing is left to rank: fix them"
    return one_line(f"{name}: {len(issues)} entries cannot be used ({shown}); {fix}", 2000)


def _find_column(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, bool]:
    """The column with the responses, and whether its cells contain lists."""
    present = dict.fromkeys(key for row in rows for key in row)
    named = [one for one in present if one.lower() in (*_LISTS, *_SINGLES)]
    for row in rows:
        filled = [one for one in named if isinstance(plain(row.get(one)), (str, list, Mapping))]
        if len(filled) > 1:
            raise SparseRMError(
                f"{name} has responses in the columns {' and '.join(map(repr, filled))}, of which only one can be ranked; "
                "expected one column with responses; remove the others, or put all responses into it"
            )
    column = min(named, key=lambda one: (*_LISTS, *_SINGLES).index(one.lower()), default=None)
    if column is None:
        raise _unknown_columns(present, name)
    return column, column.lower() in _LISTS


def _unknown_columns(present: Iterable[str], name: str) -> SparseRMError:
    return SparseRMError(
        f"{name} has the columns {one_line(', '.join(map(repr, present)) or '(none)', 400)}; expected 'prompt' with "
        "'responses' (a list) or 'response' (one per row); rename its columns"
    )


def _list(values: Mapping[str, Any], column: str) -> list[Any]:
    value = plain(values.get(column))
    if isinstance(value, str):
        written = parsed(value)
        if written is None:
            raise RowError(column, f"is the text {one_line(value, 40)!r}, expected a list in JSON or Python's print format")
        value = written
    if not isinstance(value, list) or not value:
        raise RowError(column, f"is {'empty' if not value else 'not a list'}, expected a list of strings")
    return value


# ------------------------------------------------------------------------------------------------------------ storage


def keep_candidates(candidates: Candidates) -> str:
    """Store candidates in ``SPARSERM_HOME/candidates`` for jobs and links, and return their key, a hash of their content."""
    sets = ((prompt_value(one.prompt), one.responses, one.rows) for one in candidates.sets)
    data = to_jsonl({"prompt": prompt, "responses": responses, "rows": rows} for prompt, responses, rows in sets).encode()
    digest = hashlib.sha256(data).hexdigest()[:16]
    write_bytes(_file(digest), data)
    return digest


def kept_candidates(digest: str) -> Candidates:
    """Load candidates stored by :func:`keep_candidates`.

    Raises:
        SparseRMError: nothing is stored under this hash, or it is damaged.
    """
    data = b""
    if re.fullmatch(r"[0-9a-f]{16}", digest):
        with suppress(OSError):
            data = _file(digest).read_bytes()
    if not data or hashlib.sha256(data).hexdigest()[:16] != digest:
        raise SparseRMError(
            f"no candidates are stored under {one_line(digest, 40)!r}; expected the hash in a link from this computer; "
            "upload the candidates again"
        )
    rows = map(json.loads, data.decode("utf-8").rstrip("\n").split("\n"))
    sets = (CandidateSet(as_prompt(row["prompt"]), tuple(row["responses"]), tuple(row["rows"])) for row in rows)
    return Candidates(digest, tuple(sets))


def _file(digest: str) -> Path:
    return home() / "candidates" / f"{digest}.jsonl"

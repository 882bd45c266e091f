"""Best of N: many candidates for each of many prompts, ranked by a head, and what training wants of that ranking.

There is no best-of-N sampler in TRL: policies are sampled elsewhere, and the candidates come here as a file. What leaves is
the ranking, and preference pairs of the best against the worst candidate of each prompt.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from sparserm.defaults import home
from sparserm.pairs import PairsError, prompt_key
from sparserm.pairs_formats import RawRow, one_line, read_bytes, read_path
from sparserm.pairs_messages import RowError, answer, as_prompt, check_prompt, plain, text_or_messages, transcript
from sparserm.store import stored
from sparserm.types import Message, PairIssue, Progress, Prompt, SparseRMError, Text

if TYPE_CHECKING:
    from sparserm.model import SparseRM

#: Between the parts of one prompt's block, and between blocks, in text that people paste.
PART, BLOCK = "---", "==="

_LISTS = ("responses", "completions", "candidates")
_SINGLES = ("response", "completion", "candidate")


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of one prompt; ``rows`` are the 1-based rows of the source that they came from, one for each."""

    prompt: Prompt
    responses: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Candidates:
    """What one source holds; nothing is dropped without an entry in ``issues``."""

    name: str
    sets: tuple[CandidateSet, ...]
    issues: tuple[PairIssue, ...] = ()

    @property
    def n_responses(self) -> int:
        """Candidates of all prompts."""
        return sum(len(one.responses) for one in self.sets)


@dataclass(frozen=True)
class RankedSet:
    """The candidates of one prompt with their rewards; ``ranking`` are their indices from the best to the worst."""

    candidates: CandidateSet
    rewards: tuple[float, ...]
    ranking: tuple[int, ...]

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return self.ranking[0]

    @property
    def worst(self) -> int:
        """Index of the worst candidate."""
        return self.ranking[-1]

    @property
    def spread(self) -> float:
        """Reward of the best minus that of the worst."""
        return self.rewards[self.best] - self.rewards[self.worst]

    @property
    def p_best_beats_next(self) -> float | None:
        """Bradley-Terry chance of the best against the next; None where there is one candidate only."""
        if len(self.ranking) < 2:
            return None
        return float(expit(self.rewards[self.best] - self.rewards[self.ranking[1]]))


# ------------------------------------------------------------------------------------------------------------ reading


def load_candidates(path: str | Path, *, skip_bad: bool = False) -> Candidates:
    """Read a JSONL, JSON, CSV, TSV or Parquet file, or one of these as ``.gz``.

    A row is a prompt with the list of its ``responses`` (in a CSV cell as JSON), or a prompt with one ``response``; rows of
    one prompt belong together wherever they stand. ``completions`` and ``candidates`` are understood as well. Prompts and
    responses are texts or messages.

    Args:
        skip_bad: leave out what cannot be used, and list it in ``.issues``, instead of raising.

    Raises:
        PairsError: rows cannot be used and ``skip_bad`` is not set, or no row can be used.
        SparseRMError: the file as a whole cannot be used.
    """
    return _parse(read_path(Path(path).expanduser()), Path(path).name, skip_bad)


def read_candidates(data: bytes, filename: str, *, skip_bad: bool = False) -> Candidates:
    """A file's bytes and name, as a browser hands them in; otherwise as :func:`load_candidates`.

    Raises:
        PairsError, SparseRMError: as for :func:`load_candidates`.
    """
    return _parse(read_bytes(data, filename), filename, skip_bad)


def parse_candidates(text: str, *, skip_bad: bool = False) -> Candidates:
    """Pasted text: JSON lines, or blocks parted by ``===`` lines, each a prompt and its responses parted by ``---`` lines.

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
        raise SparseRMError(f"{name} holds nothing to rank: expected prompts, each with two or more responses")
    issues = [row.issue for row in rows if row.issue is not None]
    readable = [(row.row, row.values) for row in rows if row.values is not None]
    column, several = _find_column([values for _, values in readable], name) if readable else ("response", False)
    prompts: dict[str, Prompt] = {}
    found: dict[str, list[tuple[str, int]]] = {}
    for row, values in readable:
        try:
            prompt = read_prompt(values)
            entries = _list(values, column) if several else [values.get(column)]
        except RowError as problem:
            issues.append(PairIssue(row, problem.column, problem.problem))
            continue
        key = prompt_key(prompt)  # white space aside, so that a prompt has one ranking
        prompt = prompts.setdefault(key, prompt)
        for number, entry in enumerate(entries, 1):
            try:
                text = answer(text_or_messages({column: entry}, column), prompt, column)
            except RowError as problem:  # one empty candidate among many is no reason to lose the others
                said = f"response {number} {problem.problem}" if several else problem.problem
                issues.append(PairIssue(row, column, said))
            else:
                found.setdefault(key, []).append((text, row))
    sets = tuple(CandidateSet(prompts[key], *zip(*entries, strict=True)) for key, entries in found.items())
    if issues and not (skip_bad and sets):
        raise PairsError(_bad_message(name, issues, bool(sets)), issues)
    alone = "is the prompt's only response: there is nothing to rank"
    issues += [PairIssue(one.rows[0], column, alone, "warning") for one in sets if len(one.responses) < 2]
    return Candidates(name, sets, tuple(sorted(issues, key=lambda issue: issue.row)))


def _bad_message(name: str, issues: Sequence[PairIssue], some_left: bool) -> str:
    shown = "; ".join(map(str, issues[:3])) + (f"; and {len(issues) - 3} more" if len(issues) > 3 else "")
    mend = "mend them, or leave them out (--skip-bad)" if some_left else "nothing is left to rank: mend them"
    return one_line(f"{name}: {len(issues)} entries cannot be used ({shown}); {mend}", 2000)


def _find_column(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, bool]:
    """The column with the responses, and whether each of its cells holds several."""
    there = dict.fromkeys(key for row in rows for key in row)
    column = next((column for column in (*_LISTS, *_SINGLES) if column in there), None)
    if column is None or "prompt" not in there:
        raise SparseRMError(
            f"{name} has the columns {one_line(', '.join(map(repr, there)) or '(none)', 400)}; expected 'prompt' with "
            "'responses' (a list) or 'response' (one a row); rename its columns"
        )
    return column, column in _LISTS


def read_prompt(values: Mapping[str, Any]) -> Prompt:
    """The prompt of a row's column ``prompt``: a text, a transcript that asks for the answer, or messages.

    Raises:
        RowError: it is none of these.
    """
    value = text_or_messages(values, "prompt")
    turns = transcript(value) if isinstance(value, str) else value
    if isinstance(value, str) and (turns is None or turns[-1] != Message("assistant", "")):
        turns = (Message("user", value),)
    elif isinstance(value, str) and turns is not None:
        turns = turns[:-1]  # "...\n\nAssistant:" asks for the answer
    assert turns is not None
    check_prompt(turns, "prompt")
    return turns


def _list(values: Mapping[str, Any], column: str) -> list[Any]:
    value = plain(values.get(column))
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError(column, f"is the text {one_line(value, 40)!r}, expected a JSON list of texts") from None
    if not isinstance(value, list) or not value:
        raise RowError(column, "is empty, expected a list of texts" if not value else "is no list, expected a list of texts")
    return value


# ------------------------------------------------------------------------------------------------------------ keeping


def keep_candidates(candidates: Candidates) -> str:
    """Keep candidates in ``SPARSERM_HOME/candidates`` under their content's hash, which is returned: a job reads them there,
    and a link leads back to them."""
    sets = ((prompt_value(one.prompt), one.responses, one.rows) for one in candidates.sets)
    data = to_jsonl({"prompt": prompt, "responses": responses, "rows": rows} for prompt, responses, rows in sets).encode()
    digest = hashlib.sha256(data).hexdigest()[:16]
    path = _kept(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    return digest


def kept_candidates(digest: str) -> Candidates:
    """What :func:`keep_candidates` kept.

    Raises:
        SparseRMError: nothing of that name is there.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", digest) or not _kept(digest).is_file():
        raise SparseRMError(
            f"there are no candidates {one_line(digest, 40)!r} here; expected a hash of a link; upload them again"
        )
    rows = map(json.loads, _kept(digest).read_text(encoding="utf-8").rstrip("\n").split("\n"))
    sets = (CandidateSet(as_prompt(row["prompt"]), tuple(row["responses"]), tuple(row["rows"])) for row in rows)
    return Candidates(digest, tuple(sets))


def _kept(digest: str) -> Path:
    return home() / "candidates" / f"{digest}.jsonl"


# ------------------------------------------------------------------------------------------------------------ ranking


def rank(model: SparseRM, candidates: Candidates, *, progress: Progress | None = None) -> tuple[RankedSet, ...]:
    """Score all candidates in one go and rank those of each prompt; equal rewards keep their order.

    Raises:
        SparseRMError: a text cannot be scored.
    """
    prompts = [one.prompt for one in candidates.sets for _ in one.responses]
    responses = [response for one in candidates.sets for response in one.responses]
    return rank_by(candidates, model.score(prompts, responses, progress=progress))


def count_missing_tokens(model: SparseRM, candidates: Candidates) -> int:
    """Tokens that :func:`rank` would have to run the backbone for; the rest is in the store."""
    from sparserm.representations import count_missing

    texts = [Text(one.prompt, response) for one in candidates.sets for response in one.responses]
    with stored() as store:
        return count_missing(texts, model.backbone, {model.card.hook_point: None}, model.head.pooling, store)[1]


def rank_by(candidates: Candidates, rewards: np.ndarray) -> tuple[RankedSet, ...]:
    """Rank by rewards ``[n]`` of all candidates, prompt after prompt."""
    ranked, start = [], 0
    for one in candidates.sets:
        own = rewards[start : start + len(one.responses)]
        start += len(one.responses)
        ranking = tuple(int(i) for i in np.argsort(-own, kind="stable"))
        ranked.append(RankedSet(one, tuple(float(reward) for reward in own), ranking))
    return tuple(ranked)


def ranking_rows(ranked: Iterable[RankedSet]) -> list[dict[str, Any]]:
    """One row for each candidate, best first within its prompt: what the ranking is exported as.

    ``beats_best`` is its Bradley-Terry chance against the prompt's best candidate, 0.5 for that one itself.
    """
    return [
        {
            "prompt_number": number,
            "prompt": prompt_value(one.candidates.prompt),
            "rank": position,
            "response": one.candidates.responses[i],
            "reward": one.rewards[i],
            "beats_best": float(expit(one.rewards[i] - one.rewards[one.best])),
            "row": one.candidates.rows[i],
        }
        for number, one in enumerate(ranked, 1)
        for position, i in enumerate(one.ranking, 1)
    ]


def best_rows(ranked: Iterable[RankedSet]) -> list[dict[str, Any]]:
    """One row for each prompt: its best candidate, and how far that is ahead of the next and of the worst."""
    return [
        {
            "prompt_number": number,
            "prompt": prompt_value(one.candidates.prompt),
            "n": len(one.rewards),
            "best": one.candidates.responses[one.best],
            "beats_next": one.p_best_beats_next,
            "spread": one.spread,
            "reward": one.rewards[one.best],
        }
        for number, one in enumerate(ranked, 1)
    ]


def apart(ranked: Iterable[RankedSet], min_margin: float) -> list[RankedSet]:
    """Those whose best is ahead of the worst, and by ``min_margin`` or more."""
    return [one for one in ranked if one.spread > 0 and one.spread >= min_margin]


def preference_rows(ranked: Iterable[RankedSet], min_margin: float = 0.0) -> list[dict[str, Any]]:
    """The best candidate of each prompt as chosen, the worst as rejected, in TRL's format with an explicit prompt.

    Prompts whose best is not ahead of the worst, or by less than ``min_margin``, give no pair. The rewards stand in
    ``score_chosen`` and ``score_rejected``, as in UltraFeedback: TRL would take a column ``margin`` into the loss.
    """
    rows = []
    for one in apart(ranked, min_margin):
        prompt = prompt_value(one.candidates.prompt)
        chosen, rejected = (one.candidates.responses[i] for i in (one.best, one.worst))
        texts: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
        if not isinstance(prompt, str):
            texts = {side: [{"role": "assistant", "content": text}] for side, text in texts.items()}
        rows.append(
            {"prompt": prompt, **texts, "score_chosen": one.rewards[one.best], "score_rejected": one.rewards[one.worst]}
        )
    return rows


def prompt_value(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as files hold it: text where it is one user turn that reads as such, messages otherwise."""
    if len(prompt) == 1 and prompt[0].role == "user" and transcript(prompt[0].content) is None:
        return prompt[0].content
    return [{"role": turn.role, "content": turn.content} for turn in prompt]


def to_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a header; messages stand in their cell as JSON."""
    import pandas as pd

    cells = [{name: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for name, v in row.items()} for row in rows]
    return pd.DataFrame(cells).to_csv(index=False)

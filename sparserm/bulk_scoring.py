"""Files of any size scored part by part, into a folder of Parquet files that pandas, DuckDB and Spark read as one table.

A part appears all at once, so that interrupted work goes on with the parts that are not there: no row is lost or doubled.
Memory holds one part, whatever the file's size. What is computed is not kept in the store of representations, which such
files would only push others out of.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparserm.card import head_hash
from sparserm.head import rewards
from sparserm.model import SparseRM
from sparserm.pairs import PairsError, parse_rows
from sparserm.parts import Part, PartedSource, cut
from sparserm.types import PreferencePair, Progress, SparseRMError

#: One row for each pair of responses; a row of the source that cannot be used has no rewards, and a problem.
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("reward_chosen", pa.float64()),
        ("reward_rejected", pa.float64()),
        ("margin", pa.float64()),
        ("n_tokens_chosen", pa.int32()),
        ("n_tokens_rejected", pa.int32()),
        ("n_truncated", pa.int32()),
        ("problem", pa.string()),
    ]
)
_NOTE = "_scoring.json"  # what reads folders of Parquet leaves files that begin with an underscore alone


@dataclass(frozen=True)
class Scoring:
    """What is to be scored, by what, where to: all that a worker needs to know.

    Attributes:
        source: the pairs.
        head: a head's folder, or the name of a shipped one.
        out: the folder of the results.
        columns: our column names to the source's.
    """

    source: PartedSource
    head: str
    out: Path
    columns: Mapping[str, str]

    def file(self, part: Part) -> Path:
        """Where the part's scores are, or will be."""
        return self.out / f"part-{part.index:06}.parquet"

    def missing(self) -> list[Part]:
        """The parts that are still to be scored."""
        return [part for part in self.source.parts if not self.file(part).is_file()]

    def score(self, part: Part, model: SparseRM) -> None:
        """Score one part and write its file."""
        table = score_rows(model, self.source, part, self.columns)
        temporary = self.out / f".{self.file(part).name}.{os.getpid()}"
        pq.write_table(table, temporary)
        os.replace(temporary, self.file(part))


@dataclass(frozen=True)
class Scored:
    """What a folder of scores holds.

    Attributes:
        out: the folder.
        head: the head's name.
        n_rows: of the source; ``n_pairs`` that were scored; ``n_unusable`` rows with a problem instead.
        n_truncated: pairs of which the left of the prompt was cut.
        accuracy: share of pairs whose chosen response has the higher reward, and ``mean_margin`` by how much.
        n_done_before: rows that an earlier run had scored.
        seconds: this run took, and ``pairs_per_second`` scored in it.
    """

    out: str
    head: str
    n_rows: int
    n_pairs: int
    n_unusable: int
    n_truncated: int
    accuracy: float | None
    mean_margin: float | None
    n_done_before: int
    seconds: float
    pairs_per_second: float


#: Scores the parts that are given, each into its file, and tells how many rows are done.
Engine = Callable[[Scoring, Sequence[Part], Callable[[Part], None]], None]


def score_file(
    source: str | Path,
    head: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score all pairs of a source, or go on where an earlier run was stopped.

    Args:
        source: as for :func:`~sparserm.pairs.load_pairs`; JSONL and Parquet files are never in memory as a whole.
        head: a head's folder, or the name of a shipped one.
        out: a folder for the results; see :data:`SCHEMA`.
        columns: our column names to the source's.
        engine: :func:`score_here` where none is given; :class:`sparserm.integrations.ray.RayEngine` for a cluster.
        progress: told of rows scored.

    Raises:
        SparseRMError: the source or the head cannot be used, or the folder holds something else.
    """
    started = time.perf_counter()
    scoring = Scoring(cut(source), str(head), Path(out).expanduser().resolve(), dict(columns or {}))
    model = SparseRM.from_pretrained(head)
    model.load_backbone(progress)
    _claim(scoring, model)
    todo = scoring.missing()
    n_rows, left = scoring.source.n_rows, sum(part.n_rows for part in todo)
    done = n_rows - left

    def finished(part: Part) -> None:
        nonlocal done
        done += part.n_rows
        if progress:
            progress(done, n_rows, "Scores (rows)")

    (engine or score_here)(scoring, todo, finished)
    return _summary(scoring, model.card.name, n_rows - left, todo, time.perf_counter() - started)


def score_here(scoring: Scoring, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
    """In this process, part after part."""
    model = SparseRM.from_pretrained(scoring.head)
    for part in parts:
        scoring.score(part, model)
        finished(part)


def score_rows(model: SparseRM, source: PartedSource, part: Part, columns: Mapping[str, str]) -> pa.Table:
    """The scores of one part as a table of :data:`SCHEMA`, in the order of the rows.

    Raises:
        SparseRMError: the source has no such columns.
    """
    rows = source.read(part)
    try:
        data = parse_rows(rows, source.name, columns=columns, skip_bad=True)
        pairs, issues = data.pairs, data.issues
    except PairsError as error:  # no row of this part can be used
        pairs, issues = (), error.issues
    problems = {issue.row: f"{issue.column}: {issue.problem}" for issue in issues if issue.severity == "error"}
    scored = _scored(model, pairs) if pairs else []
    unusable = [{"row": row, "problem": problem} for row, problem in problems.items()]
    return pa.Table.from_pylist(sorted(scored + unusable, key=lambda row: row["row"]), SCHEMA)


def _scored(model: SparseRM, pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    from sparserm.representations import represent_pairs

    hook = model.card.hook_point
    found = represent_pairs(pairs, model.backbone, {hook: None}, model.head.pooling)[hook]
    chosen, rejected = rewards(model.head, found.chosen.h), rewards(model.head, found.rejected.h)
    truncated = found.chosen.n_truncated + found.rejected.n_truncated
    return [
        {
            "row": pair.row,
            "id": pair.id or None,
            "reward_chosen": chosen[i],
            "reward_rejected": rejected[i],
            "margin": chosen[i] - rejected[i],
            "n_tokens_chosen": found.chosen.n_tokens[i],
            "n_tokens_rejected": found.rejected.n_tokens[i],
            "n_truncated": truncated[i],
        }
        for i, pair in enumerate(pairs)
    ]


def _claim(scoring: Scoring, model: SparseRM) -> None:
    """Make the folder this scoring's own, or find that it is.

    Raises:
        SparseRMError: it holds something else.
    """
    what = {
        "source": scoring.source.name,
        "content_hash": scoring.source.content_hash,
        "rows": scoring.source.n_rows,
        "parts": len(scoring.source.parts),
        "columns": dict(scoring.columns),
        "head": model.card.name,
        "head_hash": head_hash(model.saved),
        "dtype": str(model.backbone.dtype),
    }
    note = scoring.out / _NOTE
    if not note.is_file():
        if scoring.out.exists() and (not scoring.out.is_dir() or any(scoring.out.iterdir())):
            raise SparseRMError(f"{scoring.out} is not empty and holds no scores; expected a new folder; give another one")
        scoring.out.mkdir(parents=True, exist_ok=True)
        temporary = scoring.out / f".{_NOTE}.{os.getpid()}"
        temporary.write_text(json.dumps(what, indent=2))
        os.replace(temporary, note)
        return
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise SparseRMError(f"{note} cannot be read ({error}); remove {scoring.out} to score anew") from error
    for name, value in what.items():
        if found.get(name) != value:
            raise SparseRMError(
                f"{scoring.out} holds scores of {name.replace('_', ' ')} {found.get(name)!r}, expected {value!r}; give another "
                "folder, or remove this one to score anew"
            )


def _summary(scoring: Scoring, head: str, n_before: int, todo: Sequence[Part], seconds: float) -> Scored:
    """Figures over all parts, one at a time."""
    n_pairs = n_unusable = n_truncated = n_right = n_now = 0
    margins = 0.0
    now = {part.index for part in todo}
    for part in scoring.source.parts:
        table = pq.read_table(scoring.file(part), columns=["margin", "n_truncated"])
        margin = table["margin"].drop_null().to_numpy()
        n_pairs += len(margin)
        n_now += len(margin) if part.index in now else 0
        n_unusable += table["margin"].null_count
        n_truncated += int((table["n_truncated"].drop_null().to_numpy() > 0).sum())
        n_right += int((margin > 0).sum())
        margins += float(margin.sum())
    return Scored(
        out=str(scoring.out),
        head=head,
        n_rows=scoring.source.n_rows,
        n_pairs=n_pairs,
        n_unusable=n_unusable,
        n_truncated=n_truncated,
        accuracy=n_right / n_pairs if n_pairs else None,
        mean_margin=margins / n_pairs if n_pairs else None,
        n_done_before=n_before,
        seconds=seconds,
        pairs_per_second=n_now / seconds,
    )

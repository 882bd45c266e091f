"""Files of any size scored part by part, into a folder of Parquet files that pandas, DuckDB and Spark read as one table.

A part appears all at once, so that interrupted work goes on with the parts that are not there: no row is lost or doubled.
One part is read at a time, whatever the file's size. What is computed is not kept in the store of representations, which such
files would only push others out of.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparserm.heads.reward import rewards
from sparserm.heads.saved import SavedHead, head_hash, load_head
from sparserm.model import SparseRM
from sparserm.pairs.files import RawRow
from sparserm.pairs.parsing import FoundColumns, find_columns, read_rows
from sparserm.pairs.parts import Part, PartedSource, cut
from sparserm.support.files import replacing
from sparserm.types import PreferencePair, Progress, SparseRMError

#: One row for each pair of responses, in the order of the source, whose rows are counted from 1; ``tokens_cut`` of the prompt
#: did not fit the context, of both texts together. A row that cannot be used has a problem, and no rewards.
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("reward_chosen", pa.float64()),
        ("reward_rejected", pa.float64()),
        ("margin", pa.float64()),
        ("n_tokens_chosen", pa.int32()),
        ("n_tokens_rejected", pa.int32()),
        ("tokens_cut", pa.int32()),
        ("problem", pa.string()),
    ]
)
#: Changes where the same source and head would give other rows than before.
FORMAT = 1
_NOTE = "_scoring.json"  # what reads folders of Parquet leaves files that begin with an underscore alone


@dataclass(frozen=True)
class Scoring:
    """What is to be scored, by what, where to: all that a worker needs to know, on whichever machine.

    Attributes:
        source: the pairs.
        columns: what the source calls our columns, found in its first part.
        saved: the head.
        dtype: of the backbone, the same for all parts.
        out: the folder of the results.
    """

    source: PartedSource
    columns: FoundColumns
    saved: SavedHead
    dtype: str
    out: Path

    def file(self, part: Part) -> Path:
        """Where the part's scores are, or will be."""
        return self.out / f"part-{part.index:06}.parquet"

    def missing(self) -> list[Part]:
        """The parts that are still to be scored."""
        return [part for part in self.source.parts if not self.file(part).is_file()]

    def load_model(self) -> SparseRM:
        """The head with its backbone, loaded.

        Raises:
            SparseRMError: the backbone is not to be had here, is another, or computes in another dtype.
        """
        model = SparseRM(self.saved)
        if (found := str(model.load_backbone().dtype)) != self.dtype:
            raise SparseRMError(
                f"the backbone computes in {found} on this machine, expected {self.dtype} as on the others; use machines of "
                "one kind"
            )
        return model

    def score(self, part: Part, model: SparseRM) -> None:
        """Score one part and write its file."""
        table = score_rows(model, self.source.read(part), self.columns)
        with replacing(self.file(part)) as temporary, temporary.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())  # or a machine that fails could leave an empty file under the part's name


@dataclass(frozen=True)
class ScoringSummary:
    """What a folder of scores holds.

    Attributes:
        out: the folder.
        head: the head's name.
        n_rows: of the source; ``n_pairs`` that were scored; ``n_unusable`` rows with a problem instead.
        n_truncated: pairs whose prompt did not fit the context and lost its beginning.
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
) -> ScoringSummary:
    """Score all pairs of a source, or go on where an earlier run was stopped.

    Args:
        source: as for :func:`~sparserm.pairs.load.load_pairs`; JSONL and Parquet files are never in memory as a whole.
        head: a head's folder, or the name of a shipped one.
        out: a folder for the results; see :data:`SCHEMA`.
        columns: our column names to the source's.
        engine: :func:`score_here` where none is given; :class:`sparserm.integrations.ray.RayEngine` for a cluster.
        progress: told of rows scored.

    Raises:
        SparseRMError: the source or the head cannot be used, or the folder holds something else.
    """
    started = time.perf_counter()
    found = cut(source)
    columns_found = find_columns(_readable(found), columns or {}, found.name)
    saved = load_head(head)
    dtype = str(SparseRM(saved).load_backbone(progress).dtype)
    scoring = Scoring(found, columns_found, saved, dtype, Path(os.path.abspath(Path(out).expanduser())))
    _claim(scoring)
    todo = scoring.missing()
    n_rows, left = found.n_rows, sum(part.n_rows for part in todo)
    done = n_rows - left

    def finished(part: Part) -> None:
        nonlocal done
        done += part.n_rows
        if progress:
            progress(done, n_rows, "Scores (rows)")

    (engine or score_here)(scoring, todo, finished)
    return _summary(scoring, n_rows - left, todo, time.perf_counter() - started)


def score_here(scoring: Scoring, parts: Sequence[Part], finished: Callable[[Part], None]) -> None:
    """In this process, part after part."""
    model = scoring.load_model()
    for part in parts:
        scoring.score(part, model)
        finished(part)


def score_rows(model: SparseRM, rows: Sequence[RawRow], columns: FoundColumns) -> pa.Table:
    """The scores of rows as a table of :data:`SCHEMA`."""
    pairs, issues = read_rows(rows, columns)
    unusable = [{"row": issue.row, "problem": f"{issue.column}: {issue.problem}"} for issue in issues]
    scored = sorted(_score_usable(model, pairs) + unusable, key=lambda row: row["row"])
    for row in scored:  # ids and problems can hold what JSON can write and no text can
        for name in ("id", "problem"):
            if row.get(name):
                row[name] = row[name].encode("utf-8", "replace").decode()
    return pa.Table.from_pylist(scored, SCHEMA)


def _readable(source: PartedSource) -> list[RawRow]:
    """Readable rows of the first part that has any.

    Raises:
        SparseRMError: no row can be read.
    """
    for part in source.parts:
        rows = source.read(part)
        if readable := [row for row in rows if row.values is not None]:
            return readable
    first = source.read(source.parts[0])[0].issue
    raise SparseRMError(f"{source.name}: none of {source.n_rows} rows can be read ({first}); mend them")


def _score_usable(model: SparseRM, pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    """Rows of all pairs; those that only the backbone finds unusable, by their roles or their states, are found by halves."""
    if not pairs:
        return []
    try:
        return _score_all(model, pairs)
    except SparseRMError as error:
        if len(pairs) == 1:
            return [{"row": pairs[0].row, "id": pairs[0].id or None, "problem": str(error)}]
    half = len(pairs) // 2
    return _score_usable(model, pairs[:half]) + _score_usable(model, pairs[half:])


def _score_all(model: SparseRM, pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    from sparserm.representations.represent import represent_pairs

    hook = model.card.hook_point
    found = represent_pairs(pairs, model.backbone, {hook: None}, model.head.pooling)[hook]
    chosen, rejected = rewards(model.head, found.chosen.h), rewards(model.head, found.rejected.h)
    cut_off = found.chosen.n_truncated + found.rejected.n_truncated
    return [
        {
            "row": pair.row,
            "id": pair.id or None,
            "reward_chosen": chosen[i],
            "reward_rejected": rejected[i],
            "margin": chosen[i] - rejected[i],
            "n_tokens_chosen": found.chosen.n_tokens[i],
            "n_tokens_rejected": found.rejected.n_tokens[i],
            "tokens_cut": cut_off[i],
        }
        for i, pair in enumerate(pairs)
    ]


def _claim(scoring: Scoring) -> None:
    """Make the folder this scoring's own, or find that it is.

    Raises:
        SparseRMError: it holds something else.
    """
    what = {
        "format": FORMAT,
        "source": scoring.source.name,
        "content_hash": scoring.source.content_hash,
        "rows": scoring.source.n_rows,
        "part_rows": max(part.n_rows for part in scoring.source.parts),
        "columns": asdict(scoring.columns),
        "head": scoring.saved.card.name,
        "head_hash": head_hash(scoring.saved),
        "dtype": scoring.dtype,
    }
    note = scoring.out / _NOTE
    if not note.is_file() and scoring.out.exists() and (not scoring.out.is_dir() or any(scoring.out.iterdir())):
        raise SparseRMError(f"{scoring.out} is not empty and holds no scores; expected a new folder; give another one")
    if not any(scoring.out.glob("part-*.parquet")):  # nothing that could be mixed up, whatever was tried before
        scoring.out.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(what, indent=2))
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


def _summary(scoring: Scoring, n_before: int, todo: Sequence[Part], seconds: float) -> ScoringSummary:
    """Figures over all parts, one at a time.

    Raises:
        SparseRMError: a part is damaged.
    """
    n_pairs = n_unusable = n_truncated = n_right = n_now = 0
    margins = 0.0
    now = {part.index for part in todo}
    for part in scoring.source.parts:
        try:
            table = pq.read_table(scoring.file(part), columns=["margin", "tokens_cut"])
        except (pa.ArrowException, OSError) as error:
            raise SparseRMError(
                f"{scoring.file(part)} cannot be read ({error}); remove it and run the same command to score that part again"
            ) from error
        margin = table["margin"].drop_null().to_numpy()
        n_pairs += len(margin)
        n_now += len(margin) if part.index in now else 0
        n_unusable += table["margin"].null_count
        n_truncated += int((table["tokens_cut"].drop_null().to_numpy() > 0).sum())
        n_right += int((margin > 0).sum())
        margins += float(margin.sum())
    return ScoringSummary(
        out=str(scoring.out),
        head=scoring.saved.card.name,
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

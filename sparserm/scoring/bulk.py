"""Score files of any size part by part, into a folder of Parquet files that pandas, DuckDB and Spark read as one table.

Parts are written atomically, so an interrupted run resumes with the missing parts and no row is lost or duplicated. Parts say
what they are and carry checksums: damaged ones are scored again. Only a few parts are in memory at a time. Representations are
not written to the store, where they would evict others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparserm.heads.reward import rewards
from sparserm.heads.saved import SavedHead, head_hash, load_head
from sparserm.model import SparseRM
from sparserm.pairs.columns import FoundColumns
from sparserm.pairs.part_reader import PartReader, ReadPart
from sparserm.pairs.parts import Part, PartedSource, cut
from sparserm.pairs.rows import WHOLE_ROW
from sparserm.pairs.runs import (
    Engine,
    RunFolder,
    describe_source,
    find_source_columns,
    part_name,
    read_whole,
    run_here,
    run_parts,
)
from sparserm.support.files import only_writer, replacing
from sparserm.types import PairIssue, PreferencePair, Progress, SparseRMError, TokenizedText

#: One row per pair, in the order of the source; ``row`` is 1-based. ``tokens_cut`` is the number of prompt tokens that did not
#: fit the context, summed over both texts. A row that cannot be used has a ``problem`` and no rewards.
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
#: Format version; increased when the same source and head would give different rows.
FORMAT = 2
#: Key of the metadata that says what a part is of.
_MARK = b"sparserm"
#: Key of the metadata with the warnings about a part: row, column, problem.
_WARNINGS = b"sparserm warnings"


@dataclass(frozen=True)
class Scoring:
    """Specification of a scoring run: everything that a worker on any machine needs.

    Attributes:
        source: the pairs.
        columns: column names of the source.
        saved: the head.
        dtype: dtype of the backbone, the same for all parts.
        out: folder for the results.
    """

    source: PartedSource
    columns: FoundColumns
    saved: SavedHead
    dtype: str
    out: Path

    def file(self, part: Part) -> Path:
        """Path of the part's scores."""
        return self.out / part_name(part)

    def is_done(self, part: Part) -> bool:
        """Whether the file of a part is there."""
        return self.file(part).is_file()

    def missing(self) -> list[Part]:
        """The parts that have not been scored yet, or whose files are damaged."""
        return [part for part in self.source.parts if not self._is_whole(part)]

    def mark(self, part: Part, table: pa.Table) -> bytes:
        """What the scores of a part are of, written into its file."""
        return json.dumps([self.source.content_hash, head_hash(self.saved), part.index, table.num_rows]).encode()

    def _is_whole(self, part: Part) -> bool:
        table = read_whole(self.file(part))
        if table is None or not table.schema.equals(SCHEMA):
            return False
        mark = (table.schema.metadata or {}).get(_MARK)
        if mark is None:  # written by an earlier version
            return bool(table["row"].to_pylist()[:1] == [part.first_row])
        return bool(mark == self.mark(part, table))

    def load(self) -> SparseRM:
        """Load the head with its backbone.

        Raises:
            SparseRMError: the backbone is not available on this machine, is a different one, or has a different dtype.
        """
        model = SparseRM(self.saved)
        if (found := str(model.load_backbone().dtype)) != self.dtype:
            raise SparseRMError(
                f"the backbone computes in {found} on this machine, expected {self.dtype} as on the others; use machines of "
                "the same kind"
            )
        return model

    def reader(self, loaded: SparseRM) -> PartReader:
        """Reads the parts, ahead if the model is on a GPU."""
        return PartReader(self.source, self.columns, loaded.backbone.chat.many, ahead=loaded.backbone.on_gpu)

    def run(self, read: ReadPart, loaded: SparseRM) -> None:
        """Score one part and write its file."""
        table = score_part(loaded, read)
        table = table.replace_schema_metadata({**table.schema.metadata, _MARK: self.mark(read.part, table)})
        with replacing(self.file(read.part)) as temporary, temporary.open("wb") as file:
            pq.write_table(table, file, write_page_checksum=True)


@dataclass(frozen=True)
class ScoringSummary:
    """Summary of a folder of scores.

    Attributes:
        out: the folder.
        source: name of the source.
        head: name of the head.
        n_rows: rows of the source.
        n_pairs: pairs that were scored.
        n_unusable: rows with a problem instead of rewards.
        n_truncated: pairs whose prompt did not fit the context and was truncated at its beginning.
        accuracy: share of pairs whose chosen response has the higher reward.
        mean_margin: mean of reward of chosen minus reward of rejected.
        n_done_before: rows that an earlier run had scored.
        seconds: duration of this run.
        pairs_per_second: throughput of this run.
    """

    out: str
    source: str
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


def score_file(
    source: str | Path,
    head: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    config: str | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> ScoringSummary:
    """Score all pairs of a source, or resume an earlier run.

    Args:
        source: as for :func:`~sparserm.pairs.load.load_pairs`; JSONL and Parquet files are never read into memory whole.
        head: folder or name of a head.
        out: folder for the results; see :data:`SCHEMA`.
        columns: maps the expected column names to the source's.
        split, config: the part of a dataset, as for :func:`~sparserm.pairs.load.load_pairs`.
        engine: defaults to :func:`~sparserm.pairs.runs.run_here`; :class:`sparserm.integrations.ray.RayEngine` for a cluster.
        progress: called with the number of rows scored.

    Raises:
        SparseRMError: the source or the head cannot be used, the folder holds other files or scores, or another run is
            writing to it.
    """
    started = time.perf_counter()
    folder = _run_folder(Path(os.path.abspath(Path(out).expanduser())))
    folder.read()
    found = cut(source, split=split, config=config)
    columns_found = find_source_columns(found, columns or {})
    saved = load_head(head)
    of = {"format": FORMAT, **describe_source(found, columns_found), "head": saved.card.name, "head_hash": head_hash(saved)}
    folder.check(of)
    with only_writer(folder.path):
        dtype = str(SparseRM(saved).load_backbone(progress).dtype)
        folder.claim({**of, "dtype": dtype})
        folder.refuse_others(found)
        scoring = Scoring(found, columns_found, saved, dtype, folder.path)
        todo = scoring.missing()
        run_parts(scoring, todo, engine or run_here, progress, "Scores (rows)")
        return _summary(scoring, todo, time.perf_counter() - started)


def _run_folder(out: Path) -> RunFolder:
    return RunFolder(out, what="scores", again="score", note="_scoring.json")


def score_part(model: SparseRM, read: ReadPart) -> pa.Table:
    """Score the rows of a part into a table of :data:`SCHEMA`, with the warnings about them in its metadata."""
    unusable = [{"row": issue.row, "problem": f"{issue.column}: {issue.problem}"} for issue in read.issues]
    scored = sorted(_score_usable(model, read.pairs, read.tokenized) + unusable, key=lambda row: row["row"])
    for row in scored:  # JSON strings may hold lone surrogates, which UTF-8 cannot encode
        for name in ("id", "problem"):
            if row.get(name):
                row[name] = row[name].encode("utf-8", "replace").decode()
    warnings = json.dumps([(one.row, one.column, one.problem) for one in read.warnings])
    return pa.Table.from_pylist(scored, SCHEMA.with_metadata({_WARNINGS: warnings}))


def scoring_warnings(out: Path) -> Iterator[PairIssue]:
    """How the columns of a source were read, and the warnings about its rows; parts of earlier versions have none.

    What is said about several rows at once is said for each part.
    """
    columns = (_run_folder(out).read() or {}).get("columns")
    if isinstance(columns, dict) and (reading := columns.get("reading")):
        yield PairIssue(1, WHOLE_ROW, str(reading), "warning")
    for file in sorted(out.glob("part-*.parquet")):
        for row, column, problem in json.loads((pq.read_schema(file).metadata or {}).get(_WARNINGS, "[]")):
            yield PairIssue(row, column, problem, "warning")


def _score_usable(
    model: SparseRM, pairs: Sequence[PreferencePair], tokenized: Sequence[TokenizedText] | None = None
) -> list[dict[str, Any]]:
    """Score pairs; pairs that fail in the backbone (roles, non-finite states) are isolated by bisection and get a problem."""
    if not pairs:
        return []
    try:
        return _score_all(model, pairs, tokenized)
    except SparseRMError as error:
        if len(pairs) == 1:
            return [{"row": pairs[0].row, "id": pairs[0].id or None, "problem": str(error)}]
    half = len(pairs) // 2
    return _score_usable(model, pairs[:half]) + _score_usable(model, pairs[half:])


def _score_all(
    model: SparseRM, pairs: Sequence[PreferencePair], tokenized: Sequence[TokenizedText] | None
) -> list[dict[str, Any]]:
    from sparserm.representations.represent import represent_pairs

    hook = model.card.hook_point
    found = represent_pairs(pairs, model.backbone, model.saved.saes, model.head.pooling, tokenized=tokenized)[hook]
    chosen, rejected = rewards(model.head, found.chosen), rewards(model.head, found.rejected)
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


def _summary(scoring: Scoring, todo: Sequence[Part], seconds: float) -> ScoringSummary:
    """Aggregate the scores of all parts, one part at a time.

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
                f"{scoring.file(part)} cannot be read ({error}); delete it and run the same command to score this part again"
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
        source=scoring.source.name,
        head=scoring.saved.card.name,
        n_rows=scoring.source.n_rows,
        n_pairs=n_pairs,
        n_unusable=n_unusable,
        n_truncated=n_truncated,
        accuracy=n_right / n_pairs if n_pairs else None,
        mean_margin=margins / n_pairs if n_pairs else None,
        n_done_before=scoring.source.n_rows - sum(part.n_rows for part in todo),
        seconds=seconds,
        pairs_per_second=n_now / seconds,
    )

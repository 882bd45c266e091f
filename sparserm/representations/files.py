"""Represent sources of any size part by part, into a folder from which heads are trained and insights are read.

An interrupted run resumes with the missing parts; parts carry checksums, and damaged ones are computed again. Only a few parts
are in memory at a time. What is read from the folder leaves the representations in their files (:mod:`.shards`); the texts are
read from the source, which must not change.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from sparserm.backbone.model import Backbone
from sparserm.pairs.columns import FoundColumns
from sparserm.pairs.part_reader import PartReader, ReadPart, read_part
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
from sparserm.pairs.split import content_hash, prompt_groups, text_groups
from sparserm.representations.represent import represent_pairs
from sparserm.representations.shards import LATENTS_IN, PAIRS_IN, StoredPairs, write_latents, write_pairs
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.files import make_folder, only_writer
from sparserm.support.parsing import given_path
from sparserm.types import PairIssue, Pooling, PreferenceData, PreferencePair, Progress, SparseRMError

#: Format version; increased when the same source, backbone and SAE would give other rows.
FORMAT = 2
#: Rows of a part. Of many parts, many small pieces of files are read for each latent.
PART_ROWS = 1024
#: Key of the metadata that says what a part is of.
_MARK = b"sparserm"
_NOTE = "_representations.json"


@dataclass(frozen=True)
class Represented:
    """What the representations in a folder are of, in its note.

    Attributes:
        backbone: name of the backbone, as heads have it.
        load_backbone, sae: names or folders to load them by.
        backbone_fingerprint, sae_fingerprint: of their weights.
        hook: name of the hook point.
        pooling: how the states are pooled.
        dtype: of the backbone.
    """

    backbone: str
    load_backbone: str
    backbone_fingerprint: str
    sae: str
    sae_fingerprint: str
    hook: str
    pooling: Pooling
    dtype: str

    @property
    def model(self) -> NamedModel:
        """The backbone, as the card of a head names it."""
        return NamedModel(self.backbone, self.load_backbone, self.backbone_fingerprint)


class NamedModel(NamedTuple):
    """A backbone that is not loaded, see :class:`~sparserm.backbone.model.Backbone`."""

    name: str
    source: str
    fingerprint: str


@dataclass(frozen=True)
class Representing:
    """Specification of a run: everything that a worker on any machine needs.

    Attributes:
        source: the pairs.
        columns: column names of the source.
        of: what is computed.
        out: folder for the results.
        loaded: the backbone and the SAE in this process; other processes load them.
    """

    source: PartedSource
    columns: FoundColumns
    of: Represented
    out: Path
    loaded: tuple[Backbone, SparseAutoencoder] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def files(self, part: Part) -> tuple[Path, Path]:
        """Paths of a part's pairs and latents; the pairs are written last."""
        return self.out / PAIRS_IN / part_name(part), self.out / LATENTS_IN / part_name(part)

    def is_done(self, part: Part) -> bool:
        """Whether the files of a part are there."""
        return all(file.is_file() for file in self.files(part))

    def missing(self) -> list[Part]:
        """The parts that have not been represented yet, or whose files are damaged."""
        return [part for part in self.source.parts if not self._is_whole(part)]

    def _is_whole(self, part: Part) -> bool:
        tables = [read_whole(file) for file in self.files(part)]
        return all(table is not None and (table.schema.metadata or {}).get(_MARK) == self._mark(part) for table in tables)

    def _mark(self, part: Part) -> bytes:
        return json.dumps([self.source.content_hash, asdict(self.of), part.index]).encode()

    def load(self) -> tuple[Backbone, SparseAutoencoder]:
        """Load the backbone and the SAE.

        Raises:
            SparseRMError: they are not available on this machine, are others, or compute in another dtype.
        """
        if self.loaded:
            backbone, sae = self.loaded
            return backbone, sae.to(backbone.device)
        sae = load_sae(self.of.sae)
        backbone = Backbone.load(self.of.load_backbone, through_layer=sae.hook.layer)
        for what, found, expected in (
            ("the SAE", sae.fingerprint, self.of.sae_fingerprint),
            ("the backbone", backbone.fingerprint, self.of.backbone_fingerprint),
            ("the backbone's dtype", str(backbone.dtype), self.of.dtype),
        ):
            if found != expected:
                raise SparseRMError(
                    f"{what} is {found} on this machine, expected {expected} as on the others; use machines of the same kind "
                    "with the same files"
                )
        return backbone, sae.to(backbone.device)

    def reader(self, loaded: tuple[Backbone, SparseAutoencoder]) -> PartReader:
        """Reads the parts, ahead if the model is on a GPU."""
        backbone, _ = loaded
        return PartReader(self.source, self.columns, backbone.chat.many, ahead=backbone.on_gpu)

    def run(self, read: ReadPart, loaded: tuple[Backbone, SparseAutoencoder]) -> None:
        """Represent the pairs of one part and write its files."""
        found, failed = _represent(read, *loaded, self.of.pooling)
        usable = [pair for i, pair in enumerate(read.pairs) if i not in failed]
        problems = [(one.row, f"{one.column}: {one.problem}") for one in read.issues]
        problems += [(read.pairs[i].row, problem) for i, problem in failed.items()]
        mark = {_MARK: self._mark(read.part)}
        pairs_file, latents_file = self.files(read.part)
        write_latents(latents_file, found.chosen.strengths, found.rejected.strengths, mark)
        write_pairs(pairs_file, usable, problems, (found.chosen, found.rejected), mark)


@dataclass(frozen=True)
class RepresentingSummary:
    """Summary of a folder of representations.

    Attributes:
        out: the folder.
        source: name of the source.
        hook: name of the hook point.
        sae: name of the SAE.
        pooling: how the states are pooled.
        n_rows: rows of the source.
        n_pairs: pairs that were represented.
        n_unusable: rows, or pairs of rows with several, that have a problem instead.
        n_truncated: pairs whose prompt did not fit the context and was truncated at its beginning.
        n_done_before: rows that an earlier run had represented.
        seconds: duration of this run.
    """

    out: str
    source: str
    hook: str
    sae: str
    pooling: Pooling
    n_rows: int
    n_pairs: int
    n_unusable: int
    n_truncated: int
    n_done_before: int
    seconds: float


def represent_file(
    source: str | Path,
    backbone: Backbone,
    sae: SparseAutoencoder,
    out: str | Path,
    *,
    pooling: Pooling = "mean",
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    config: str | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> RepresentingSummary:
    """Represent all pairs of a source, or resume an earlier run.

    Args:
        source: as for :func:`~sparserm.pairs.load.load_pairs`; JSONL and Parquet files are never read into memory whole.
        backbone, sae: loaded by name or from a folder, by which the workers of an engine load them too.
        out: folder for the results; see :mod:`sparserm.representations.shards`.
        columns: maps the expected column names to the source's.
        split, config: the part of a dataset, as for :func:`~sparserm.pairs.load.load_pairs`.
        engine: defaults to :func:`~sparserm.pairs.runs.run_here`; :class:`sparserm.integrations.ray.RayEngine` for a cluster.
        progress: called with the number of rows represented.

    Raises:
        SparseRMError: the source cannot be used, the folder holds other files or representations, or another run is writing
            to it.
    """
    started = time.perf_counter()
    folder = _run_folder(Path(os.path.abspath(Path(out).expanduser())))
    folder.read()
    found = cut(source, PART_ROWS, split=split, config=config)
    columns_found = find_source_columns(found, columns or {})
    of = Represented(
        backbone=backbone.name,
        load_backbone=backbone.source,
        backbone_fingerprint=backbone.fingerprint,
        sae=_absolute(sae.name),
        sae_fingerprint=sae.fingerprint,
        hook=sae.hook.name,
        pooling=pooling,
        dtype=str(backbone.dtype),
    )
    # Where the source is, and how it is read, is noted to find it again.
    given = {"path": _absolute(str(source)), "given": {"columns": dict(columns or {}), "split": split, "config": config}}
    what = {"format": FORMAT, **describe_source(found, columns_found), **asdict(of)}
    folder.check(what)
    with only_writer(folder.path):
        folder.claim({**what, **given})
        folder.refuse_others(found)
        for table in (PAIRS_IN, LATENTS_IN):
            make_folder(folder.path / table)
        work = Representing(found, columns_found, of, folder.path, (backbone, sae))
        todo = work.missing()
        run_parts(work, todo, engine or run_here, progress, "Representations (rows)")
        return _summary(work, todo, time.perf_counter() - started)


def holds_representations(path: str | Path) -> bool:
    """Whether a path that was given as a source is a folder of representations."""
    return (given_path(path) / _NOTE).is_file()


@dataclass(frozen=True)
class RepresentedPairs:
    """Pairs whose representations are in files.

    Attributes:
        data: the pairs that were represented, with the warnings about their source.
        of: what the representations are of.
        stored: where they are.
    """

    data: PreferenceData
    of: Represented
    stored: StoredPairs

    @classmethod
    def open(cls, folder: str | Path) -> RepresentedPairs:
        """Open a folder that :func:`represent_file` has finished.

        Raises:
            SparseRMError: it is no such folder or not complete, or the source is missing or has changed.
        """
        path = given_path(folder)
        note = _run_folder(path).read() or {}
        try:
            given, of = note["given"], Represented(**{one.name: note[one.name] for one in fields(Represented)})
            source = cut(note["path"], note["part_rows"], split=given["split"], config=given["config"])
            columns = find_source_columns(source, given["columns"])
        except (KeyError, TypeError) as error:
            raise SparseRMError(
                f"{path} holds no representations that this version reads ({error!r}); run `sparserm represent` again"
            ) from error
        for name, value in describe_source(source, columns).items():
            if note[name] != value:
                raise SparseRMError(
                    f"{note['path']} has another {name.replace('_', ' ')} than when it was represented into {path}; expected "
                    "the same file; restore it, or represent it again into a new folder"
                )
        work = Representing(source, columns, of, path)
        if lacking := [part for part in source.parts if not work.is_done(part)]:
            raise SparseRMError(
                f"{path} lacks {len(lacking):,} of {len(source.parts):,} parts; repeat the command `sparserm represent` that "
                "made it, which goes on where it stopped"
            )
        stored = StoredPairs.read(path, [part_name(part) for part in source.parts])
        return cls(_data(source, columns, stored), of, stored)

    def representations(self, sae: SparseAutoencoder, *, states: bool) -> PairRepresentations:
        """The representations of the pairs; the latents stay in the files.

        Args:
            sae: the SAE that they are of.
            states: whether the pooled states are read into memory.

        Raises:
            SparseRMError: another SAE, or a part is missing or damaged.
        """
        if sae.fingerprint != self.of.sae_fingerprint:
            raise SparseRMError(
                f"the representations in {self.stored.folder} are of SAE {self.of.sae}, expected {sae.name}; leave out the SAE "
                "and the layer, or represent the pairs again"
            )
        chosen, rejected = self.stored.responses(self.of.pooling, sae.d_sae, states=states)
        pairs = self.data.pairs
        return PairRepresentations(chosen, rejected, prompt_groups(pairs), text_groups(pairs))


def texts_of(pairs: PreferenceData | RepresentedPairs) -> PreferenceData:
    """The pairs as texts."""
    return pairs if isinstance(pairs, PreferenceData) else pairs.data


def _data(source: PartedSource, columns: FoundColumns, stored: StoredPairs) -> PreferenceData:
    """The pairs of a source that were represented, in the order of the files."""
    pairs: list[PreferencePair] = []
    issues = [PairIssue(1, WHOLE_ROW, columns.reading, "warning")] if columns.reading else []
    for part, table in zip(source.parts, stored.parts, strict=True):
        found, left, doubts = read_part(source.read(part), columns)
        rows = {pair.row for pair in found}
        places = zip(table["row"].to_pylist(), table["pair"].to_pylist(), strict=True)
        is_pair = [pair is not None for row, pair in places if row in rows]
        if len(is_pair) != len(found):
            raise SparseRMError(
                f"{stored.folder / PAIRS_IN / part_name(part)} has {len(is_pair):,} pairs, expected {len(found):,} as in "
                f"{source.name}; represent it again into a new folder"
            )
        pairs += [pair for pair, usable in zip(found, is_pair, strict=True) if usable]
        issues += [*left, *doubts]
    return PreferenceData(source.name, tuple(pairs), tuple(issues), source.n_rows, content_hash(pairs))


def _represent(
    read: ReadPart, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling
) -> tuple[PairRepresentations, dict[int, str]]:
    """The pairs' representations, and by place what is wrong with those that the backbone cannot be run on."""

    def run(places: Sequence[int]) -> PairRepresentations:
        some = [read.pairs[place] for place in places]
        tokenized = read.tokenized if len(some) == len(read.pairs) else None
        return represent_pairs(some, backbone, {sae.hook: sae}, pooling, strengths=True, tokenized=tokenized)[sae.hook]

    def failing(places: Sequence[int]) -> dict[int, str]:
        try:
            run(places)
        except SparseRMError as error:
            if len(places) == 1:
                return {places[0]: str(error)}
            half = len(places) // 2
            return failing(places[:half]) | failing(places[half:])
        return {}

    every = range(len(read.pairs))
    try:
        return run(every), {}
    except SparseRMError:
        failed = failing(every)
        return run([place for place in every if place not in failed]), failed


def _absolute(name: str) -> str:
    """A name that means the same in other processes: the absolute path if it is that of a file or folder."""
    path = given_path(name)
    return os.path.abspath(path) if path.exists() else name


def _run_folder(out: Path) -> RunFolder:
    return RunFolder(out, what="representations", again="represent", note=_NOTE)


def _summary(work: Representing, todo: Sequence[Part], seconds: float) -> RepresentingSummary:
    stored = StoredPairs.read(work.out, [part_name(part) for part in work.source.parts])
    return RepresentingSummary(
        out=str(work.out),
        source=work.source.name,
        hook=work.of.hook,
        sae=work.of.sae,
        pooling=work.of.pooling,
        n_rows=work.source.n_rows,
        n_pairs=int(stored.starts[-1]),
        n_unusable=sum(part["pair"].null_count for part in stored.parts),
        n_truncated=int((stored.n_truncated > 0).any(0).sum()),
        n_done_before=work.source.n_rows - sum(part.n_rows for part in todo),
        seconds=seconds,
    )

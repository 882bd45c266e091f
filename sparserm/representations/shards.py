"""Representations of any number of pairs in Parquet files, read by latent and never all at once.

A folder has two tables, in parts of so many rows of the source: ``pairs``, with a row for each pair, and ``latents``, with a
row for each latent that fires in a response. The rows of a part of ``latents`` are sorted by latent, in row groups of
consecutive latents, so that reading some latents of all pairs reads little else. pandas, DuckDB and Spark read each folder as
one table.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparserm.representations.values import Columns, Figure, LatentSummary, ReadColumns, Representations, Strengths, is_active
from sparserm.support.files import one_line, replacing
from sparserm.types import Activity, Pooling, PreferencePair, SparseRMError

#: Row groups of a part of ``latents``, which are read one at a time.
BLOCKS = 64
#: Key of the metadata of a part of ``latents`` with the latents and rows of its row groups, and a checksum of these.
_INDEX = b"sparserm index"
#: Folders of the two tables.
PAIRS_IN, LATENTS_IN = "pairs", "latents"
#: Sides of a pair, as in the column ``chosen`` of ``latents``.
CHOSEN, REJECTED = True, False

#: One row for each latent that fires in a response: ``pair`` is that of the part's table of pairs; the figures are those of
#: :data:`~sparserm.representations.values.FIRED`.
LATENTS = pa.schema(
    [
        ("latent", pa.int32()),
        ("pair", pa.int32()),
        ("chosen", pa.bool_()),
        ("rate", pa.float32()),
        ("peak", pa.float32()),
        ("gated", pa.float32()),
    ]
)


def pairs_schema(d_model: int) -> pa.Schema:
    """One row per pair in the order of the source. ``row`` is 1-based, ``pair`` counts the usable pairs of the part from 0,
    and the states are pooled. What cannot be used has a ``problem`` and nothing else.
    """
    sides = [
        field
        for side in ("chosen", "rejected")
        for field in (
            (f"n_tokens_{side}", pa.int32()),
            (f"n_truncated_{side}", pa.int32()),
            (f"state_{side}", pa.list_(pa.float32(), d_model)),
        )
    ]
    return pa.schema([("row", pa.int64()), ("pair", pa.int32()), ("id", pa.string()), *sides, ("problem", pa.string())])


def write_latents(file: Path, chosen: LatentSummary, rejected: LatentSummary, mark: dict[bytes, bytes]) -> None:
    """Write the latents of a part's pairs, atomically.

    Args:
        mark: metadata of the file.
    """
    fired = np.concatenate([chosen.fired, rejected.fired])
    n_chosen = len(chosen.fired)
    pair = np.concatenate([np.repeat(np.arange(len(side.indptr) - 1), np.diff(side.indptr)) for side in (chosen, rejected)])
    order = np.argsort(fired["latent"], kind="stable")
    fired = fired[order]
    columns = [fired["latent"], pair[order], order < n_chosen, fired["rate"], fired["peak"], fired["gated"]]
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, LATENTS.types, strict=True)], LATENTS)
    ends = np.searchsorted(fired["latent"], np.arange(1, BLOCKS + 1) * chosen.d_sae // BLOCKS)
    groups = [(start, end) for start, end in itertools.pairwise([0, *ends.tolist()]) if end > start]
    index = [(int(fired["latent"][start]), int(fired["latent"][end - 1]), end - start) for start, end in groups]
    schema = LATENTS.with_metadata({**mark, _INDEX: json.dumps([index, crc32(repr(index).encode())]).encode()})
    with replacing(file) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for start, end in groups:
            writer.write_table(table.slice(start, end - start))


def write_pairs(
    file: Path,
    pairs: Sequence[PreferencePair],
    problems: Sequence[tuple[int, str]],
    sides: tuple[Representations, Representations],
    mark: dict[bytes, bytes],
) -> None:
    """Write the pairs of a part and the rows that cannot be used, atomically.

    Args:
        problems: row numbers and what is wrong; of a row with several pairs possibly one for each.
        sides: the chosen and the rejected responses of the pairs.
        mark: metadata of the file.
    """
    schema = pairs_schema(sides[0].h.shape[1])
    usable: dict[str, Any] = {
        "row": [pair.row for pair in pairs],
        "pair": np.arange(len(pairs), dtype=np.int32),
        "id": [_text(pair.id) or None for pair in pairs],
        "problem": [None] * len(pairs),
    }
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        usable |= {f"n_tokens_{name}": side.n_tokens, f"n_truncated_{name}": side.n_truncated}
        usable[f"state_{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(side.h.ravel()), side.h.shape[1])
    left = [{"row": row, "problem": _text(problem)} for row, problem in problems]
    table = pa.concat_tables([pa.table(usable, schema), pa.Table.from_pylist(left, schema)])
    table = table.take(np.argsort(table["row"].to_numpy(), kind="stable")).replace_schema_metadata(mark)
    with replacing(file) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def _text(value: str) -> str:
    """A text without lone surrogates, which JSON strings may hold and UTF-8 cannot encode."""
    return value.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class LatentFiles:
    """The parts of ``latents``.

    Attributes:
        files: in the order of the parts.
        starts: ``[len(files) + 1]`` number of pairs before each part, and of all.
        d_sae: number of latents of the SAE.
    """

    files: tuple[Path, ...]
    starts: np.ndarray
    d_sae: int

    @property
    def n_pairs(self) -> int:
        """Number of pairs in all parts."""
        return int(self.starts[-1])

    def blocks(self) -> Iterator[np.ndarray]:
        """All latents, so many at a time as a row group has."""
        limits = np.arange(BLOCKS + 1) * self.d_sae // BLOCKS
        for start, end in itertools.pairwise(limits):
            if end > start:
                yield np.arange(start, end)

    def read(self, latents: np.ndarray | None, *figures: str) -> Iterator[tuple[np.ndarray, ...]]:
        """Pairs, latents, whether of the chosen response, and figures of what is stored of some latents, part by part.

        Args:
            latents: the wanted ones; all if None.

        Raises:
            SparseRMError: a file is missing or damaged.
        """
        wanted = None if latents is None else np.zeros(self.d_sae, bool)
        if wanted is not None:
            wanted[latents] = True
        for file, index, start in zip(self.files, self._indices, self.starts[:-1], strict=True):
            for columns in index.read(file, index.groups(wanted), ("pair", "latent", "chosen", *figures)):
                inside = slice(None) if wanted is None or (own := wanted[columns[1]]).all() else own
                pair, *others = (column[inside] for column in columns)
                yield pair + int(start), *others

    def columns(self, latents: np.ndarray, figure: str) -> Any:
        """``[2n, len(latents)]`` float64 sparse matrix (CSR) of a figure of latents: all chosen, then all rejected responses.

        Raises:
            SparseRMError: a file is missing or damaged.
        """
        from scipy.sparse import csr_matrix

        place = np.zeros(self.d_sae, np.int32)
        place[latents] = np.arange(len(latents))
        rows, places, values = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0)]
        for pair, latent, chosen, *found in self.read(latents, *([] if figure == "fires" else [figure])):
            rows.append(np.where(chosen, pair, pair + self.n_pairs))
            places.append(place[latent])
            values.append(found[0].astype(np.float64) if found else np.ones(len(pair)))
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(places))
        return csr_matrix(entries, shape=(2 * self.n_pairs, len(latents)))

    @functools.cached_property
    def _indices(self) -> list[_Index]:
        return [_Index.open(file) for file in self.files]


@dataclass(frozen=True)
class _Index:
    """Which latents are in which row group of a part; unlike Parquet's own statistics it has a checksum.

    Attributes:
        metadata: of the file.
        lowest, highest, n_rows: ``[groups]`` int64, latents and rows.
    """

    metadata: Any
    lowest: np.ndarray
    highest: np.ndarray
    n_rows: np.ndarray

    @classmethod
    def open(cls, file: Path) -> _Index:
        try:
            metadata = pq.read_metadata(file)
            index, checksum = json.loads((metadata.metadata or {})[_INDEX])
            index = [tuple(map(int, group)) for group in index]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(file, error) from error
        if crc32(repr(index).encode()) != checksum or len(index) != metadata.num_row_groups:
            raise _unreadable(file, "its index is damaged")
        return cls(metadata, *np.array(index, np.int64).reshape(-1, 3).T)

    def groups(self, wanted: np.ndarray | None) -> list[int]:
        """The row groups that may have a wanted latent."""
        if wanted is None:
            return list(range(len(self.lowest)))
        before = np.concatenate([[0], np.cumsum(wanted)])
        found: list[int] = np.flatnonzero(before[self.highest + 1] > before[self.lowest]).tolist()
        return found

    def read(self, file: Path, groups: Sequence[int], names: Sequence[str]) -> Iterator[list[np.ndarray]]:
        """Columns of some row groups, ``latent`` as the second of them."""
        try:
            with pq.ParquetFile(file, metadata=self.metadata, page_checksum_verification=True) as opened:
                for group in groups:  # one thread: row groups are small
                    columns = [column.to_numpy() for column in opened.read_row_group(group, names, use_threads=False).columns]
                    ends = self.lowest[group], self.highest[group]
                    if len(columns[1]) != self.n_rows[group] or (columns[1][0], columns[1][-1]) != ends:
                        raise ValueError("its row groups are not those of its index")
                    yield columns
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(file, error) from error


@dataclass(frozen=True)
class StoredLatents(Strengths):
    """Strengths of latents in the chosen or the rejected responses of some pairs, read from files by latent.

    Attributes:
        files: the latents of all pairs.
        chosen: :data:`CHOSEN` or :data:`REJECTED`.
        rows: ``[n]`` int64, the place of each pair among all.
    """

    files: LatentFiles
    chosen: bool
    rows: np.ndarray

    @property
    def d_sae(self) -> int:  # type: ignore[override]
        """Number of latents of the SAE."""
        return self.files.d_sae

    def matrix(self, figure: Figure) -> StoredMatrix:
        return StoredMatrix(self, figure)

    def frequency(self, activity: Activity) -> np.ndarray:
        times = np.bincount(self.rows, minlength=self.files.n_pairs).astype(np.float64)
        counts = np.zeros(self.d_sae)
        for pair, latent, chosen, rate in self.files.read(None, "rate"):
            active = (chosen == self.chosen) & is_active(rate, activity)
            counts += np.bincount(latent[active], weights=times[pair[active]], minlength=self.d_sae)
        return counts / max(1, len(self.rows))

    def peaks(self, latent: int) -> np.ndarray:
        return np.asarray(self.of(self.files.columns(np.array([latent]), "peak")).toarray()[:, 0], np.float32)

    def take(self, rows: np.ndarray) -> StoredLatents:
        return StoredLatents(self.files, self.chosen, self.rows[rows])

    def of(self, both: Any) -> Any:
        """The rows of these responses, from those of both sides of all pairs, as of :meth:`LatentFiles.columns`."""
        return both[self.rows if self.chosen else self.rows + self.files.n_pairs]


@dataclass(frozen=True)
class StoredMatrix(ReadColumns):
    """A figure of all latents as a matrix ``[n, d_sae]``."""

    latents: StoredLatents
    figure: Figure

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.latents.rows), self.latents.d_sae

    def __getitem__(self, key: tuple[slice, Any]) -> Any:
        assert key[0] == slice(None)
        return self.latents.of(self.latents.files.columns(np.asarray(key[1]), self.figure))

    def blocks(self) -> Iterator[np.ndarray]:
        return self.latents.files.blocks()


@dataclass(frozen=True)
class Beside(ReadColumns):
    """A matrix in files with further columns, which are in memory, on its right.

    Attributes:
        more: a :class:`scipy.sparse.csr_matrix` with as many rows.
    """

    read: ReadColumns
    more: Any

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.read.shape
        return rows, columns + self.more.shape[1]

    def __getitem__(self, key: tuple[slice, Any]) -> Any:
        columns = np.asarray(key[1], np.int64)
        return self.joined(self.read[:, columns[columns < self.read.shape[1]]], columns)

    def joined(self, read: Any, columns: np.ndarray) -> Any:
        """Columns in this order, of which those in files have been read."""
        from scipy.sparse import hstack

        beyond = columns >= self.read.shape[1]
        both = hstack([read, self.more[:, columns[beyond] - self.read.shape[1]]], "csr")
        return both[:, np.argsort(np.argsort(beyond, kind="stable"), kind="stable")]

    def blocks(self) -> Iterator[np.ndarray]:
        yield from self.read.blocks()
        yield np.arange(self.read.shape[1], self.shape[1])


def both_sides(chosen: Columns, rejected: Columns, columns: np.ndarray) -> tuple[Any, Any]:
    """Some columns of two matrices; of the two sides of the same pairs what is in files is read once."""
    if isinstance(chosen, Beside) and isinstance(rejected, Beside):
        read = both_sides(chosen.read, rejected.read, columns[columns < chosen.read.shape[1]])
        return chosen.joined(read[0], columns), rejected.joined(read[1], columns)
    if isinstance(chosen, StoredMatrix) and isinstance(rejected, StoredMatrix):
        both = chosen.latents.files.columns(columns, chosen.figure)
        return chosen.latents.of(both), rejected.latents.of(both)
    return chosen[:, columns], rejected[:, columns]


def beside(matrix: Columns, more: Any) -> Columns:
    """A matrix with further columns, a :class:`scipy.sparse.csr_matrix`, on its right."""
    from scipy.sparse import hstack

    return Beside(matrix, more) if isinstance(matrix, ReadColumns) else hstack([matrix, more], "csr")


@dataclass(frozen=True)
class StoredPairs:
    """The table of pairs, of which the states stay in the files.

    Attributes:
        folder: with the two tables.
        names: file names of the parts, the same for both tables.
        parts: ``row`` and ``pair`` of each part.
        starts: ``[len(names) + 1]`` number of usable pairs before each part, and of all.
        n_tokens, n_truncated: ``[2, n]`` int32, of the chosen responses above those of the rejected ones.
    """

    folder: Path
    names: tuple[str, ...]
    parts: tuple[pa.Table, ...]
    starts: np.ndarray
    n_tokens: np.ndarray
    n_truncated: np.ndarray

    @classmethod
    def read(cls, folder: Path, names: Sequence[str]) -> StoredPairs:
        """Read all parts.

        Raises:
            SparseRMError: a part is missing or damaged.
        """
        counts = [f"n_{what}_{side}" for what in ("tokens", "truncated") for side in ("chosen", "rejected")]
        parts = [_read_columns(folder / PAIRS_IN / name, ["row", "pair", *counts]) for name in names]
        usable = pa.concat_tables([part.filter(part["pair"].is_valid()) for part in parts])
        n_tokens, n_truncated = np.array([usable[name].to_numpy() for name in counts], np.int32).reshape(2, 2, -1)
        starts = np.cumsum([0, *(len(part) - part["pair"].null_count for part in parts)])
        return cls(folder, tuple(names), tuple(part.select(["row", "pair"]) for part in parts), starts, n_tokens, n_truncated)

    def responses(self, pooling: Pooling, d_sae: int, *, states: bool) -> tuple[Representations, Representations]:
        """The chosen and the rejected responses of all pairs; their latents stay in the files.

        Args:
            states: whether the pooled states are read into memory.

        Raises:
            SparseRMError: a part is missing or damaged.
        """
        n = int(self.starts[-1])
        files = LatentFiles(tuple(self.folder / LATENTS_IN / name for name in self.names), self.starts, d_sae)
        chosen, rejected = (
            Representations(
                pooling,
                self._states(name) if states else np.zeros((n, 0), np.float32),
                self.n_tokens[i],
                self.n_truncated[i],
                StoredLatents(files, side, np.arange(n)),
            )
            for i, (name, side) in enumerate((("chosen", CHOSEN), ("rejected", REJECTED)))
        )
        return chosen, rejected

    def _states(self, side: str) -> np.ndarray:
        parts = []
        for name in self.names:
            table = _read_columns(self.folder / PAIRS_IN / name, ["pair", f"state_{side}"])
            states = table.filter(table["pair"].is_valid())[f"state_{side}"].combine_chunks()
            parts.append(states.flatten().to_numpy().reshape(len(states), states.type.list_size))
        return np.concatenate(parts)


def _read_columns(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            return opened.read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, reason: Exception | str) -> SparseRMError:
    return SparseRMError(f"{file} cannot be read ({one_line(reason)}); repeat the command `sparserm represent` that made it")

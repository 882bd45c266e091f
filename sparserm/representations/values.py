"""Dataclasses for pooled representations and latent firings of responses and pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sparserm.types import Activity, Pooling, SparseRMError

#: What a matrix of latents holds: gated projections, or one where a latent fires anywhere in a response.
Figure = Literal["gated", "fires"]
#: A :class:`scipy.sparse.csr_matrix` ``[n, d_sae]``, or :class:`ReadColumns`.
Columns: TypeAlias = Any

ACTIVITIES: tuple[Activity, ...] = get_args(Activity)

#: One latent in one response: its id, the fraction of response tokens at which it fired, its largest activation, and its gated
#: projection, the mean over the response tokens of ``<h - b_dec, d>`` where it fired and of zero elsewhere.
FIRED = np.dtype([("latent", np.int32), ("rate", np.float32), ("peak", np.float32), ("gated", np.float32)])


def firings(latents: np.ndarray, rate: np.ndarray, peak: np.ndarray, gated: np.ndarray) -> np.ndarray:
    """``[nnz]`` array of :data:`FIRED` from its four fields."""
    records = np.empty(len(latents), FIRED)
    records["latent"], records["rate"], records["peak"], records["gated"] = latents, rate, peak, gated
    return records


def possible_firings(fired: np.ndarray, *, d_sae: int) -> np.ndarray:
    """``[nnz]`` bool, which of ``[nnz]`` :data:`FIRED` can be right: a latent of the SAE, with figures in range."""
    latent, rate, peak = fired["latent"], fired["rate"], fired["peak"]
    finite = np.isfinite(peak) & np.isfinite(fired["gated"])
    return np.asarray((latent >= 0) & (latent < d_sae) & (rate > 0) & (rate <= 1) & (peak >= 0) & finite)


class ReadColumns(ABC):
    """A sparse matrix ``[n, m]`` in files, of which ``matrix[:, columns]`` reads some columns."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @abstractmethod
    def __getitem__(self, key: tuple[slice, Any]) -> Any:
        """Some columns of all rows, in memory, as a :class:`scipy.sparse.csr_matrix`."""

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """All columns in order, as many at a time as fit into memory."""


class Strengths(ABC):
    """How strongly the SAE's latents fire in ``n`` responses: in memory, or in files that are read by latent.

    Attributes:
        d_sae: number of latents of the SAE.
    """

    d_sae: int

    @abstractmethod
    def matrix(self, figure: Figure) -> Columns:
        """``[n, d_sae]`` float64, zero where a latent does not fire."""

    @abstractmethod
    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` fraction of the responses in which each latent is active."""

    @abstractmethod
    def peaks(self, latent: int) -> np.ndarray:
        """``[n]`` float32 peak activation of one latent in each response, 0 where it does not fire."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> Strengths:
        """Select responses by row."""

    def dense_gated(self, latents: np.ndarray) -> np.ndarray:
        """``[n, len(latents)]`` float64 gated projections of some latents, zero where they do not fire."""
        return np.asarray(self.matrix("gated")[:, latents].toarray())


@dataclass(frozen=True)
class LatentSummary(Strengths):
    """Firing rates, peak activations and gated projections of the SAE's latents in ``n`` responses, as a sparse matrix (CSR).

    Row ``i`` has the latents ``indices[indptr[i]:indptr[i + 1]]``, which fired at one or more response tokens.

    Attributes:
        indptr: ``[n + 1]`` int64.
        fired: ``[nnz]`` of :data:`FIRED`, sorted by latent within a row; a single array makes :meth:`take` fast.
        d_sae: number of latents of the SAE.
    """

    indptr: np.ndarray
    fired: np.ndarray
    d_sae: int

    @property
    def indices(self) -> np.ndarray:
        """``[nnz]`` int32 latent ids."""
        return self.fired["latent"]

    @property
    def rate(self) -> np.ndarray:
        """``[nnz]`` float32, fraction of the response tokens at which the latent fired."""
        return self.fired["rate"]

    @property
    def peak(self) -> np.ndarray:
        """``[nnz]`` float32, largest activation over the response tokens."""
        return self.fired["peak"]

    @property
    def gated(self) -> np.ndarray:
        """``[nnz]`` float32, gated projection, see :data:`FIRED`."""
        return self.fired["gated"]

    def matrix(self, figure: Figure) -> Columns:
        from scipy.sparse import csr_matrix

        values = np.ones(len(self.fired)) if figure == "fires" else self.gated.astype(np.float64)
        return csr_matrix((values, self.indices, self.indptr), shape=(len(self.indptr) - 1, self.d_sae))

    def peaks(self, latent: int) -> np.ndarray:
        entries = np.flatnonzero(self.indices == latent)
        found = np.zeros(len(self.indptr) - 1, np.float32)
        found[np.searchsorted(self.indptr, entries, side="right") - 1] = self.peak[entries]
        return found

    def dense_gated(self, latents: np.ndarray) -> np.ndarray:
        place = np.full(self.d_sae, -1)
        place[latents] = np.arange(len(latents))
        columns = place[self.indices]
        rows = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        found = np.zeros((len(self.indptr) - 1, len(latents)))
        wanted = columns >= 0
        found[rows[wanted], columns[wanted]] = self.gated[wanted]
        return found

    def take(self, rows: np.ndarray) -> LatentSummary:
        """Select responses by row; contiguous rows return a read-only view."""
        if (run := _run(rows)) is not None:
            start, end = self.indptr[run.start], self.indptr[run.stop]
            indptr = self.indptr[run.start : run.stop + 1] - start
            return LatentSummary(indptr, _shared(self.fired, slice(start, end)), self.d_sae)
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return LatentSummary(indptr, self.fired.take(entries), self.d_sae)  # five times as fast as indexing with []

    def frequency(self, activity: Activity) -> np.ndarray:
        active = self.indices if activity == "any" else self.indices[is_active(self.rate, activity)]
        return np.bincount(active, minlength=self.d_sae) / max(1, len(self.indptr) - 1)


def is_active(rate: np.ndarray, activity: Activity) -> np.ndarray:
    """Whether latents with these firing rates (fraction of response tokens) count as active."""
    return rate > 0 if activity == "any" else rate >= 0.5


@dataclass(frozen=True)
class ActiveLatents:
    """Which latents are active in which of ``n`` responses, as a bit mask.

    Enough for feature selection by frequency, at a sixteenth of the memory of a :class:`LatentSummary`.

    Attributes:
        bits: ``[n, 2, ceil(d_sae / 8)]`` uint8, one bit per latent in the order of :func:`numpy.packbits`: whether it is active
            under each of :data:`ACTIVITIES`.
        d_sae: number of latents of the SAE.
    """

    bits: np.ndarray
    d_sae: int

    @staticmethod
    def pack(rate: np.ndarray) -> np.ndarray:
        """``[n, 2, ceil(d_sae / 8)]`` uint8 bits from firing rates ``[n, d_sae]``."""
        return np.packbits(np.stack([is_active(rate, activity) for activity in ACTIVITIES], axis=1), axis=2)

    @staticmethod
    def row_shape(d_sae: int) -> tuple[int, int]:
        """Shape of the bits of one response."""
        return len(ACTIVITIES), -(-d_sae // 8)

    def take(self, rows: np.ndarray) -> ActiveLatents:
        """Select responses by row; contiguous rows return a read-only view."""
        run = _run(rows)
        return ActiveLatents(self.bits[rows] if run is None else _shared(self.bits, run), self.d_sae)

    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` fraction of the responses in which each latent is active."""
        counts = np.zeros(self.d_sae, np.int64)
        for start in range(0, len(self.bits), 1024):  # in batches: unpacked bits take eight times the memory
            one = self.bits[start : start + 1024, ACTIVITIES.index(activity)]
            counts += np.unpackbits(one, axis=1, count=self.d_sae).sum(0, dtype=np.int32)
        return counts / max(1, len(self.bits))


Latents = ActiveLatents | Strengths


@dataclass(frozen=True)
class Representations:
    """Pooled representations of ``n`` responses at one hook point.

    Attributes:
        pooling: ``last``: the last token of the text, with which the template closes the turn; ``mean``: mean over the response
            tokens.
        h: ``[n, d]`` float32; ``[n, 0]`` where they were left in their files.
        n_tokens: ``[n]`` int32, number of response tokens.
        n_truncated: ``[n]`` int32, number of tokens cut from the left of the text.
        latents: the active latents, if an SAE was given; :class:`Strengths` if these were requested.
    """

    pooling: Pooling
    h: np.ndarray
    n_tokens: np.ndarray
    n_truncated: np.ndarray
    latents: Latents | None = None

    @property
    def by_latent(self) -> Strengths:
        """The strengths of the latents, in memory or in files.

        Raises:
            SparseRMError: the representations were computed without ``strengths=True``.
        """
        if not isinstance(self.latents, Strengths):
            raise SparseRMError(
                "these representations have no latent strengths; represent the pairs with their SAE and strengths=True"
            )
        return self.latents

    @property
    def strengths(self) -> LatentSummary:
        """The strengths of the latents in memory.

        Raises:
            SparseRMError: there are none, or they are in files.
        """
        found = self.by_latent
        if not isinstance(found, LatentSummary):
            raise SparseRMError("these latents are read from files; expected them in memory; represent the pairs themselves")
        return found

    def take(self, rows: np.ndarray) -> Representations:
        """Select responses by row; contiguous rows return a read-only view."""
        latents = self.latents.take(rows) if self.latents else None
        run = _run(rows)
        columns = (self.h, self.n_tokens, self.n_truncated)
        h, n_tokens, n_truncated = (column[rows] if run is None else _shared(column, run) for column in columns)
        return Representations(self.pooling, h, n_tokens, n_truncated, latents)


def _shared(column: np.ndarray, run: slice) -> np.ndarray:
    """A read-only view of some rows of an array."""
    part = column[run]
    part.flags.writeable = False
    return part


def _run(rows: np.ndarray) -> slice | None:
    """The slice equal to ``rows`` if they are contiguous and ascending, else None."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return None


@dataclass(frozen=True)
class PairRepresentations:
    """Representations of ``n`` preference pairs at one hook point.

    Attributes:
        chosen, rejected: of the ``n`` chosen and ``n`` rejected responses, in the order of the pairs.
        groups: ``[n]`` int64, equal for pairs of the same prompt, which cross-validation must not split.
        texts: ``[2, n]`` int64, equal for responses with the same text, chosen above rejected; None if all texts differ.
    """

    chosen: Representations
    rejected: Representations
    groups: np.ndarray
    texts: np.ndarray | None = None

    @property
    def pooling(self) -> Pooling:
        """Pooling of ``h``."""
        return self.chosen.pooling

    @property
    def differences(self) -> np.ndarray:
        """``[n, d]`` float32, chosen minus rejected."""
        return self.chosen.h - self.rejected.h

    @property
    def stacked(self) -> np.ndarray:
        """``[2n, d]``: all chosen responses, then all rejected ones."""
        return np.concatenate([self.chosen.h, self.rejected.h])

    @property
    def log_lengths(self) -> np.ndarray:
        """``[2n]`` float64, log of the number of response tokens: all chosen responses, then all rejected ones."""
        return np.log(np.maximum(np.concatenate([self.chosen.n_tokens, self.rejected.n_tokens]), 1).astype(np.float64))

    @property
    def length_gaps(self) -> np.ndarray:
        """``[n]`` float64, log length of chosen minus rejected, so that relative differences in length count."""
        chosen, rejected = self.log_lengths.reshape(2, -1)
        return chosen - rejected

    def take(self, rows: np.ndarray) -> PairRepresentations:
        """Select pairs by row; contiguous rows return a read-only view."""
        texts = None if self.texts is None else self.texts[:, rows]
        return PairRepresentations(self.chosen.take(rows), self.rejected.take(rows), self.groups[rows], texts)

    def swap(self, where: np.ndarray) -> PairRepresentations:
        """The pairs with chosen and rejected swapped ``where [n]`` bool is true."""
        n = len(self.groups)
        both, rows = stacked(self.chosen, self.rejected), np.arange(n)
        texts = None if self.texts is None else np.where(where, self.texts[::-1], self.texts)
        return PairRepresentations(both.take(rows + n * where), both.take(rows + n * ~where), self.groups, texts)


def stacked(first: Representations, second: Representations) -> Representations:
    """The responses of one, then those of another."""

    def join(of: Callable[[Representations], np.ndarray]) -> np.ndarray:
        return np.concatenate([of(first), of(second)])

    latents = _stacked_latents(first.latents, second.latents)
    n_tokens, n_truncated = join(lambda one: one.n_tokens), join(lambda one: one.n_truncated)
    return Representations(first.pooling, join(lambda one: one.h), n_tokens, n_truncated, latents)


def _stacked_latents(first: Latents | None, second: Latents | None) -> Latents | None:
    match first, second:
        case ActiveLatents(), ActiveLatents():
            return ActiveLatents(np.concatenate([first.bits, second.bits]), first.d_sae)
        case LatentSummary(), LatentSummary():
            indptr = np.concatenate([first.indptr, second.indptr[1:] + first.indptr[-1]])
            return LatentSummary(indptr, np.concatenate([first.fired, second.fired]), first.d_sae)
        case None, None:
            return None
    raise TypeError(
        f"the latents are {type(first).__name__} and {type(second).__name__}; expected the same type for chosen and rejected"
    )

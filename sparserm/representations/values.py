"""Pooled representations and latent firings of responses: the values that stages pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from sparserm.types import Activity, Pooling, SparseRMError

ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


#: One latent in one response: its id, the share of the response's tokens at which it fired, its largest activation over them.
FIRED = np.dtype([("latent", np.int32), ("rate", np.float32), ("peak", np.float32)])


def firings(latents: np.ndarray, rate: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """``[nnz]`` of :data:`FIRED` from its columns."""
    records = np.empty(len(latents), FIRED)
    records["latent"], records["rate"], records["peak"] = latents, rate, peak
    return records


@dataclass(frozen=True)
class LatentSummary:
    """How the SAE's latents fired over a set of responses, sparse by row (CSR).

    Row ``i`` holds the latents ``indices[indptr[i]:indptr[i + 1]]`` that fired at one response token or more.

    Attributes:
        indptr: ``[n + 1]`` int64.
        fired: ``[nnz]`` of :data:`FIRED`, latents ascending within a row: one array, so that taking rows is one pass.
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
        """``[nnz]`` float32, share of the response's tokens at which the latent fired."""
        return self.fired["rate"]

    @property
    def peak(self) -> np.ndarray:
        """``[nnz]`` float32, its largest activation over the response's tokens."""
        return self.fired["peak"]

    def take(self, rows: np.ndarray) -> LatentSummary:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        if (run := _run(rows)) is not None:
            start, end = self.indptr[run.start], self.indptr[run.stop]
            indptr = self.indptr[run.start : run.stop + 1] - start
            return LatentSummary(indptr, _shared(self.fired, slice(start, end)), self.d_sae)
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return LatentSummary(indptr, self.fired.take(entries), self.d_sae)  # by [] it would take five times as long

    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` share of the responses in which each latent is active."""
        active = self.indices if activity == "any" else self.indices[is_active(self.rate, activity)]
        return np.bincount(active, minlength=self.d_sae) / max(1, len(self.indptr) - 1)


def is_active(rate: np.ndarray, activity: Activity) -> np.ndarray:
    """Whether a latent that fires at this share of a response's tokens counts as active in it."""
    return rate > 0 if activity == "any" else rate >= 0.5


@dataclass(frozen=True)
class ActiveLatents:
    """In which of a set of responses the SAE's latents are active: all that selection asks, in a twelfth of the space of a
    :class:`LatentSummary`.

    Attributes:
        bits: ``[n, 2, ceil(d_sae / 8)]`` uint8, a bit for each latent as :func:`numpy.packbits` orders them: whether it is
            active by each of :data:`ACTIVITIES`.
        d_sae: number of latents of the SAE.
    """

    bits: np.ndarray
    d_sae: int

    @staticmethod
    def pack(rate: np.ndarray) -> np.ndarray:
        """``[n, 2, ceil(d_sae / 8)]`` uint8, from ``[n, d_sae]`` shares of responses' tokens at which each latent fires."""
        return np.packbits(np.stack([is_active(rate, activity) for activity in ACTIVITIES], axis=1), axis=2)

    @staticmethod
    def row_shape(d_sae: int) -> tuple[int, int]:
        """Of one response's bits."""
        return len(ACTIVITIES), -(-d_sae // 8)

    def take(self, rows: np.ndarray) -> ActiveLatents:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        run = _run(rows)
        return ActiveLatents(self.bits[rows] if run is None else _shared(self.bits, run), self.d_sae)

    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` share of the responses in which each latent is active."""
        counts = np.zeros(self.d_sae, np.int64)
        for start in range(0, len(self.bits), 1024):  # some at a time: as bytes they are eight times as large
            one = self.bits[start : start + 1024, ACTIVITIES.index(activity)]
            counts += np.unpackbits(one, axis=1, count=self.d_sae).sum(0, dtype=np.int32)
        return counts / max(1, len(self.bits))


Latents = ActiveLatents | LatentSummary


@dataclass(frozen=True)
class Representations:
    """Pooled representations of ``n`` responses at one hook point.

    Attributes:
        pooling: ``last``: at the last token of the text, with which the template closes the response's turn; ``mean``:
            mean over the response's own tokens.
        h: ``[n, d]`` float32.
        n_tokens: ``[n]`` int32, response tokens.
        n_truncated: ``[n]`` int32, tokens cut from the left of the text.
        latents: in which responses the SAE's latents are active, where an SAE was given; and how strongly, where that was
            asked for.
    """

    pooling: Pooling
    h: np.ndarray
    n_tokens: np.ndarray
    n_truncated: np.ndarray
    latents: Latents | None = None

    @property
    def strengths(self) -> LatentSummary:
        """How strongly the latents fired.

        Raises:
            SparseRMError: these representations were computed without.
        """
        if not isinstance(self.latents, LatentSummary):
            raise SparseRMError(
                "these representations do not hold how strongly latents fired; represent the pairs with their SAE and "
                "strengths=True"
            )
        return self.latents

    def take(self, rows: np.ndarray) -> Representations:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        latents = self.latents.take(rows) if self.latents else None
        run = _run(rows)
        columns = (self.h, self.n_tokens, self.n_truncated)
        h, n_tokens, n_truncated = (column[rows] if run is None else _shared(column, run) for column in columns)
        return Representations(self.pooling, h, n_tokens, n_truncated, latents)


def _shared(column: np.ndarray, run: slice) -> np.ndarray:
    """A part of an array that nobody can change through it."""
    part = column[run]
    part.flags.writeable = False
    return part


def _run(rows: np.ndarray) -> slice | None:
    """The slice that rows are, where each is followed by the next."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return None


@dataclass(frozen=True)
class PairRepresentations:
    """Representations of ``n`` preference pairs at one hook point.

    Attributes:
        chosen, rejected: of the ``n`` chosen and rejected responses, in the order of the pairs.
        groups: ``[n]`` int64, the same number for pairs of the same prompt: what cross-validation must not split.
    """

    chosen: Representations
    rejected: Representations
    groups: np.ndarray

    @property
    def pooling(self) -> Pooling:
        """How ``h`` is pooled."""
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
        """``[2n]`` float64, log of response tokens: all chosen responses, then all rejected ones."""
        return np.log(np.maximum(np.concatenate([self.chosen.n_tokens, self.rejected.n_tokens]), 1).astype(np.float64))

    @property
    def length_gaps(self) -> np.ndarray:
        """``[n]`` float64, log length of chosen minus rejected: ten tokens are much of twenty and little of two hundred."""
        chosen, rejected = self.log_lengths.reshape(2, -1)
        return chosen - rejected

    def take(self, rows: np.ndarray) -> PairRepresentations:
        """The pairs ``rows``, in that order."""
        return PairRepresentations(self.chosen.take(rows), self.rejected.take(rows), self.groups[rows])

"""Screening of latents: which of them surely fire more in chosen than in rejected responses, or less, by a paired test.

The score that is tested is the gated one, which is zero where a latent is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from scipy.stats import false_discovery_control, norm

from sparserm.representations.shards import both_sides
from sparserm.representations.values import Columns, PairRepresentations, ReadColumns, Representations
from sparserm.sae.autoencoder import SparseAutoencoder

#: False discovery rate of the screen (Benjamini and Hochberg, 1995).
FALSE_DISCOVERIES = 0.05
#: Pairs in which a latent must differ to be tested, or a tenth of all if that is less.
LEAST_PAIRS = 10
#: Sure latents that are enough for a head, and maximum number of candidates.
ENOUGH = 16
MOST_CANDIDATES = 256
#: A head whose sure features are a smaller share of all is warned of: most of its bars may be chance. Their number alone is no
#: reason, since of sure features, however few, no larger share than :data:`FALSE_DISCOVERIES` is expected to be wrong.
SURE_SHARE = 0.5
#: Candidates whose differences are computed at a time.
_AT_ONCE = 32
#: Latents that are encoded at a time, of some responses.
_ACTIVATIONS = 1 << 24


@dataclass(frozen=True)
class GatedScores:
    """Gated scores of every latent in ``n`` pairs, in memory or read from files by latent; what is not stored is zero.

    Attributes:
        chosen, rejected: ``[n, d_sae]`` float64.
        groups: ``[n]`` the prompt of each pair.
        length_gaps: ``[n]`` log length of chosen minus rejected.
        texts: ``[2, n]``, equal for responses with the same text, chosen above rejected; None if all texts differ.
    """

    chosen: Columns
    rejected: Columns
    groups: np.ndarray
    length_gaps: np.ndarray
    texts: np.ndarray | None = None

    @classmethod
    def of(cls, pairs: PairRepresentations, sae: SparseAutoencoder) -> GatedScores:
        """The scores of represented pairs.

        Raises:
            SparseRMError: pooled by the mean, without latent strengths.
        """
        chosen, rejected = (_gated_scores(side, sae) for side in (pairs.chosen, pairs.rejected))
        return cls(chosen, rejected, pairs.groups, pairs.length_gaps, pairs.texts)

    def only(self, latents: np.ndarray | None) -> GatedScores:
        """The scores of some latents in memory, in this order; all scores as they are if None."""
        if latents is None:
            return self
        chosen, rejected = both_sides(self.chosen, self.rejected, latents)
        return replace(self, chosen=chosen, rejected=rejected)

    def blocks(self, latents: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, GatedScores]]:
        """Latents, as many at a time as fit into memory: their places in ``latents`` (all if None), and their scores alone."""
        if not isinstance(self.chosen, ReadColumns):
            yield np.arange(self.chosen.shape[1] if latents is None else len(latents)), self.only(latents)
            return
        for block in self.chosen.blocks():
            places = block if latents is None else np.flatnonzero(np.isin(latents, block))
            if len(places):
                yield places, self.only(block if latents is None else latents[places])

    def z(self, latents: np.ndarray, *, hold_length: bool = False) -> np.ndarray:
        """``[len(latents)]`` z of the sum of each latent's score of chosen minus rejected, see :func:`smallest_z`."""
        differences = (self.chosen[:, latents] - self.rejected[:, latents]).tocsr()
        return smallest_z(differences, self.groups, self.texts, self.length_gaps if hold_length else None)

    def dense(self, latents: np.ndarray) -> np.ndarray:
        """``[2n, len(latents)]`` scores of some latents in all chosen, then all rejected responses."""
        own = self.only(latents)
        return np.concatenate([own.chosen.toarray(), own.rejected.toarray()])

    def spread(self, latents: np.ndarray) -> np.ndarray:
        """``[len(latents)]`` standard deviation of each latent's score over all responses."""
        n = 2 * self.chosen.shape[0]
        first, second = (
            np.asarray((self.chosen[:, latents].power(k).sum(0) + self.rejected[:, latents].power(k).sum(0)) / n).ravel()
            for k in (1, 2)
        )
        return np.sqrt(np.maximum(second - first**2, 1e-12))

    def rate(self, latents: np.ndarray) -> np.ndarray:
        """``[len(latents)]`` share of all responses in which each latent's score is not zero."""
        n = 2 * self.chosen.shape[0]
        return np.asarray(((self.chosen[:, latents] != 0).sum(0) + (self.rejected[:, latents] != 0).sum(0)) / n).ravel()


@dataclass(frozen=True)
class Candidates:
    """Latents that a head may use, and their differences.

    Attributes:
        latents: ``[m]`` ids.
        signs: ``[m]`` +1 where chosen responses have more of it, -1 where rejected ones have.
        z: ``[m]`` of the sum of the score of chosen minus rejected, see :meth:`GatedScores.z`.
        q: ``[m]`` false discovery rate at which the latent counts as sure (adjusted p-value).
        sigma: ``[m]`` standard deviation of the score over responses.
        rate: ``[m]`` share of the responses in which the latent fires.
        differences: ``[n, m]`` float32 score of chosen minus rejected, over ``sigma`` and times ``signs``; with length held
            fixed what a regression on the length gaps leaves of it, so that weights do not stand for length.
    """

    latents: np.ndarray
    signs: np.ndarray
    z: np.ndarray
    q: np.ndarray
    sigma: np.ndarray
    rate: np.ndarray
    differences: np.ndarray

    def take(self, rows: np.ndarray) -> Candidates:
        """The same candidates, with the differences of some pairs."""
        return replace(self, differences=self.differences[rows])


def few_sure(n_sure: int, n_features: int) -> bool:
    """Whether a smaller share of a gated head's features than :data:`SURE_SHARE` surely differs."""
    return n_sure < SURE_SHARE * n_features


def screen(scores: GatedScores, *, hold_length: bool = False, among: np.ndarray | None = None) -> Candidates:
    """The latents that surely differ, at a false discovery rate of :data:`FALSE_DISCOVERIES`, the surest first.

    In few pairs fewer than :data:`ENOUGH` may; then all that differ by a standard error are returned, and ``q`` says which are
    sure. There are at most :data:`MOST_CANDIDATES`. Latents whose test, differences and firing do not point the same way are
    left out.

    Args:
        hold_length: test what a latent's differences have beside those in length: their residuals from a regression on the
            log ratio of lengths.
        among: ``[d_sae]`` bool, the latents that are tested; all if None.
    """
    tests = [_test(latents, own, hold_length, among) for latents, own in scores.blocks()]
    tested, z, agrees = (np.concatenate(column) for column in zip(*tests, strict=True))
    if len(tested) == 0:
        return as_candidates(scores, tested)
    q = false_discovery_control(2 * norm.sf(np.abs(z)))
    order = np.argsort(-np.abs(z), kind="stable")
    order = order[agrees[order]]
    n_sure = int((q[order] <= FALSE_DISCOVERIES).sum())
    n_kept = n_sure if n_sure >= ENOUGH else max(1, int((np.abs(z[order]) >= 1 - 1e-9).sum()))
    order = order[: min(n_kept, MOST_CANDIDATES)]
    return as_candidates(scores, tested[order], z[order], q[order], hold_length=hold_length)


def _test(
    latents: np.ndarray, scores: GatedScores, hold_length: bool, among: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of some latents, the columns of ``scores``: those that are tested, their z, and whether all they show agrees with it."""
    differences = (scores.chosen - scores.rejected).tocsr()
    n_differ = np.asarray((differences != 0).sum(0)).ravel()
    differ = n_differ >= min(LEAST_PAIRS, max(1, len(scores.groups) // 10))
    tested = np.flatnonzero(differ if among is None else differ & among[latents])
    if len(tested) == 0:
        return latents[tested], np.zeros(0), np.zeros(0, bool)
    z = scores.z(tested, hold_length=hold_length)
    # One that fires in more responses of the other side, or differs the other way with length held fixed, would get the
    # opposite weight of what it shows.
    shown = np.asarray(differences[:, tested].sum(0)).ravel()
    fires = [(side[:, tested] != 0).astype(np.int8) for side in (scores.chosen, scores.rejected)]
    firing = grouped_z((fires[0] - fires[1]).tocsr(), scores.groups)
    return latents[tested], z, (z * shown > 0) & (z * firing >= 0)


def as_candidates(
    scores: GatedScores,
    latents: np.ndarray,
    z: np.ndarray | None = None,
    q: np.ndarray | None = None,
    *,
    hold_length: bool = False,
) -> Candidates:
    """Given latents as candidates.

    Their signs are those of ``z``, which is computed if it is None; without ``q`` none is sure.
    """
    own, places = scores.only(latents), np.arange(len(latents))
    z = own.z(places) if z is None else z
    q = np.ones(len(latents)) if q is None else q
    signs, sigma = np.where(z < 0, -1.0, 1.0), own.spread(places)
    gaps = scores.length_gaps
    differences = np.empty((len(scores.groups), len(latents)), np.float32)
    for start in range(0, len(latents), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        turned = (own.chosen[:, some] - own.rejected[:, some]).toarray() * (signs[some] / sigma[some])
        if hold_length and gaps.any():
            turned -= np.outer(gaps, gaps @ turned / (gaps @ gaps))
        differences[:, some] = turned
    return Candidates(latents, signs, z, q, sigma, own.rate(places), differences)


def smallest_z(
    differences: csr_matrix, groups: np.ndarray, texts: np.ndarray | None, lengths: np.ndarray | None = None
) -> np.ndarray:
    """``[m]`` z of the sum of each column ``[n, m]``.

    Pairs of one prompt are one piece of evidence, and so are pairs with the same chosen or the same rejected text: the smallest
    z of the three ways to group the pairs, zero where their signs differ. So a latent that fires in one text alone is never
    sure, however many pairs have this text.

    Args:
        groups: ``[n]`` the prompt of each pair.
        texts: ``[2, n]``, equal for responses with the same text; None if all texts differ.
        lengths: ``[n]`` length gaps to hold fixed.
    """
    z = grouped_z(differences, groups, lengths)
    for same in () if texts is None else texts:
        other = grouped_z(differences, same, lengths, means=True)
        z = np.where(z * other > 0, np.sign(z) * np.minimum(np.abs(z), np.abs(other)), 0.0)
    return z


def grouped_z(
    differences: csr_matrix, groups: np.ndarray, lengths: np.ndarray | None = None, *, means: bool = False
) -> np.ndarray:
    """``[m]`` z of the sum of each column ``[n, m]``, from its sums over the pairs of each group, which are independent.

    Args:
        lengths: ``[n]`` length gaps to hold fixed.
        means: take the mean of each group instead, so that a large group counts no more than a small one.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    n = len(groups)
    share = 1 / np.bincount(numbers)[numbers] if means else np.ones(n)
    by_group = csr_matrix((share, (numbers, np.arange(n))), shape=(numbers.max(initial=0) + 1, n))
    sums = by_group @ differences
    totals = np.asarray(sums.sum(0)).ravel()
    squares = whole = np.asarray(sums.power(2).sum(0)).ravel()
    if lengths is not None and np.any(lengths):
        # The slope of a column on the length gaps, and the sums of its residuals by group, with no dense matrix of residuals.
        slope = np.asarray(differences.T @ lengths).ravel() / (lengths @ lengths)
        own = by_group @ lengths
        residual = squares - 2 * slope * np.asarray(sums.T @ own).ravel() + slope**2 * (own @ own)
        # Of a column that only follows length, rounding leaves a little, of either sign.
        squares = np.maximum(residual, 1e-9 * squares)
        totals = totals - slope * own.sum()
    # What is left of a column that length explains is rounding.
    left = squares > 1e-9 * whole
    return np.where(left, totals / np.sqrt(np.where(left, squares, 1.0)), 0.0)


def _gated_scores(responses: Representations, sae: SparseAutoencoder) -> Columns:
    """``[n, d_sae]`` gated scores: from the strengths with mean pooling, from the last state with last pooling."""
    if responses.pooling == "mean":
        return responses.by_latent.matrix("gated")
    parts = []
    at_once = max(1, _ACTIVATIONS // sae.d_sae)
    for start in range(0, len(responses.h), at_once):
        h = torch.from_numpy(np.array(responses.h[start : start + at_once]))
        fires = sae.encode(h) > 0
        parts.append(csr_matrix(sae.project(h).mul_(fires).numpy()).astype(np.float64))
    return csr_matrix(vstack(parts))

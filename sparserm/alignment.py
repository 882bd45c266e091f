"""Alignment scores: representations projected onto unit decoder directions (design, step 4; paper, "alignment score")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROWS = 1024


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of alignment scores over responses.

    Attributes:
        mu: ``[K]`` float64.
        sigma: ``[K]`` float64, 1 where the scores do not vary, so that dividing by it is always safe.
    """

    mu: np.ndarray
    sigma: np.ndarray


def alignment_scores(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> np.ndarray:
    """``s_j = <h - center, d_j>``.

    Args:
        h: ``[..., d]``.
        directions: ``[K, d]`` of unit norm.
        center: ``[d]``, the SAE's ``b_dec``.

    Returns:
        ``[..., K]`` float64. Accumulated in double precision, so that a reward is the same in every batch.
    """
    d = directions.astype(np.float64).T
    offset = center.astype(np.float64) @ d
    rows = h.reshape(-1, h.shape[-1])
    scores = np.empty((len(rows), d.shape[1]))
    for start in range(0, len(rows), _ROWS):  # as float64 all of them would be twice as large, for a moment
        scores[start : start + _ROWS] = rows[start : start + _ROWS].astype(np.float64) @ d - offset
    return scores.reshape(*h.shape[:-1], d.shape[1])


def score_moments(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the scores over ``h [n, d]`` without forming ``[n, K]``."""
    mean = h.mean(0, dtype=np.float64)
    return projected_moments(mean, second_moments(h - mean.astype(h.dtype)), directions, center)


def second_moments(x: np.ndarray) -> np.ndarray:
    """``[d, d]`` float64 ``X'X / n`` of ``x [n, d]``, summed in its own precision: float32 in half the time, to six digits."""
    return np.asarray((x.T @ x).astype(np.float64) / len(x))


def projected_moments(mean: np.ndarray, covariance: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the scores from those of the representations: the variance of ``<h, d>`` is ``d' Cov(h) d``.

    Args:
        mean: ``[d]`` float64.
        covariance: ``[d, d]``.
    """
    mu = directions.astype(np.float64) @ (mean - center)
    single = covariance.astype(np.float32)
    variance = np.einsum("kd,kd->k", directions @ single, directions).astype(np.float64)
    # A direction without variance says nothing; rounding can make its variance a small number of either sign, small beside
    # what the variances of single dimensions would add up to.
    flat = variance <= 1e-6 * (directions**2 @ single.diagonal())
    return ScoreMoments(mu, np.where(flat, 1.0, np.sqrt(np.maximum(variance, 0))))

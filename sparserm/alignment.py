"""Alignment scores: representations projected onto unit decoder directions (design, step 4; paper, "alignment score")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    return h.astype(np.float64) @ d - center.astype(np.float64) @ d


def score_moments(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the scores over ``h [n, d]`` without forming ``[n, K]``: the variance of ``<h, d>`` is ``d' Cov(h) d``."""
    mean = h.mean(0, dtype=np.float64)
    centred = h - mean
    covariance = centred.T @ centred / len(h)
    mu = directions.astype(np.float64) @ (mean - center)
    variance = np.einsum("kd,kd->k", directions @ covariance, directions)
    # A direction without variance says nothing; rounding can make its variance a tiny number of either sign.
    flat = variance <= 1e-12 * max(float(np.trace(covariance)), 1e-300)
    return ScoreMoments(mu, np.where(flat, 1.0, np.sqrt(np.maximum(variance, 0))))

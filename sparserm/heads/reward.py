"""The reward head: Bradley-Terry weights over standardised alignment scores (design, step 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.representations.values import PairRepresentations
from sparserm.types import Pooling

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


@dataclass(frozen=True)
class RewardHead:
    """``r = sum_j weights_j (s_j - mu_j) / sigma_j + bias`` with ``s_j = <h - center, direction_j>`` (design, steps 4 and 5).

    Attributes:
        features: ``[K]`` int64 latent ids.
        directions: ``[K, d]`` float32 unit decoder directions.
        center: ``[d]`` float32, the SAE's ``b_dec`` (zeros where it has none).
        mu, sigma: ``[K]`` float64, mean and standard deviation of the scores over the training responses.
        weights: ``[K]`` float64.
        bias: added to every reward.
        pooling: how ``h`` is pooled over the response.
    """

    features: np.ndarray
    directions: np.ndarray
    center: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    weights: np.ndarray
    bias: float
    pooling: Pooling


def build_head(
    features: np.ndarray,
    directions: np.ndarray,
    center: np.ndarray,
    moments: ScoreMoments,
    weights: np.ndarray,
    pooling: Pooling,
) -> RewardHead:
    """A head whose bias is zero: scores are centred on the training responses, so their mean reward is zero."""
    return RewardHead(
        features=np.asarray(features, np.int64),
        directions=np.asarray(directions, np.float32),
        center=np.asarray(center, np.float32),
        mu=moments.mu,
        sigma=moments.sigma,
        weights=np.asarray(weights, np.float64),
        bias=0.0,
        pooling=pooling,
    )


def contributions(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``w_j (s_j - mu_j) / sigma_j`` for ``h [..., d]``: ``[..., K]`` float64, whose sum plus the bias is the reward."""
    scores = alignment_scores(h, head.directions, head.center)
    return head.weights * (scores - head.mu) / head.sigma


def rewards(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``[...]`` float64 for ``h [..., d]`` pooled as the head expects."""
    return contributions(head, h).sum(-1) + head.bias


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


def reward_margins(head: RewardHead, pairs: PairRepresentations) -> np.ndarray:
    """``[n]`` float64, the reward of the chosen response minus that of the rejected one."""
    return rewards(head, pairs.chosen.h) - rewards(head, pairs.rejected.h)

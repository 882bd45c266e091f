"""The reward head: Bradley-Terry weights over standardised alignment scores (SparseRM, arXiv 2511.07896)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.representations.values import PairRepresentations, Representations
from sparserm.types import Pooling

#: Rows of representations converted to float64 at a time.
_ROWS = 1024


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of alignment scores over responses.

    Attributes:
        mu: ``[K]`` float64.
        sigma: ``[K]`` float64, 1 where the scores are constant, so that dividing by it is always safe.
    """

    mu: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class RewardHead:
    """A linear reward ``r = sum_j weights_j (s_j - mu_j) / sigma_j + bias`` with ``s_j = <h - center, direction_j>``.

    The alignment scores ``s_j`` are the paper's projections onto decoder directions (SparseRM, arXiv 2511.07896).

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
    """Build a head with bias zero: scores are centred on the training responses, so their mean reward is zero."""
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


def rewards(head: RewardHead, responses: Representations) -> np.ndarray:
    """``[n]`` float64 rewards of responses, pooled as the head expects."""
    return contributions(head, head_scores(head, responses)).sum(-1) + head.bias


def reward_margins(head: RewardHead, pairs: PairRepresentations) -> np.ndarray:
    """``[n]`` float64 rewards of the chosen minus the rejected responses."""
    return rewards(head, pairs.chosen) - rewards(head, pairs.rejected)


def contributions(head: RewardHead, scores: np.ndarray) -> np.ndarray:
    """``[..., K]`` float64 contributions ``w_j (s_j - mu_j) / sigma_j`` for ``scores [..., K]``; their sum plus the bias is the
    reward."""
    return head.weights * (scores - head.mu) / head.sigma


def head_scores(head: RewardHead, responses: Representations) -> np.ndarray:
    """``[n, K]`` float64 alignment scores of the head's features in responses, pooled as the head expects."""
    return token_scores(head, responses.h)


def token_scores(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``[..., K]`` float64 alignment scores of the head's features at single tokens ``h [..., d]``."""
    return alignment_scores(h, head.directions, head.center)


def alignment_scores(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Alignment scores ``s_j = <h - center, d_j>``.

    Args:
        h: ``[..., d]``.
        directions: ``[K, d]`` of unit norm.
        center: ``[d]``, the SAE's ``b_dec``.

    Returns:
        ``[..., K]`` float64. Accumulated in double precision, so that a reward does not depend on the batch.
    """
    d = directions.astype(np.float64).T
    offset = center.astype(np.float64) @ d
    rows = h.reshape(-1, h.shape[-1])
    scores = np.empty((len(rows), d.shape[1]))
    for start in range(0, len(rows), _ROWS):  # a float64 copy of all rows would take twice their memory
        scores[start : start + _ROWS] = rows[start : start + _ROWS].astype(np.float64) @ d - offset
    return scores.reshape(*h.shape[:-1], d.shape[1])


def score_moments(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the alignment scores over ``h [n, d]``, without computing the scores ``[n, K]``."""
    mean = h.mean(0, dtype=np.float64)
    return projected_moments(mean, second_moments(h - mean.astype(h.dtype)), directions, center)


def projected_moments(mean: np.ndarray, covariance: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the alignment scores from those of the representations: the variance of ``<h, d>`` is ``d' Cov(h) d``.

    Args:
        mean: ``[d]`` float64, of the representations.
        covariance: ``[d, d]``, of the representations.
    """
    mu = directions.astype(np.float64) @ (mean - center)
    single = covariance.astype(np.float32)
    variance = np.einsum("kd,kd->k", directions @ single, directions).astype(np.float64)
    # Rounding can turn a variance of zero into a small number of either sign; it is compared with the sum of the variances of
    # the single dimensions.
    flat = variance <= 1e-6 * (directions**2 @ single.diagonal())
    return ScoreMoments(mu, np.where(flat, 1.0, np.sqrt(np.maximum(variance, 0))))


def second_moments(x: np.ndarray) -> np.ndarray:
    """``[d, d]`` float64 ``X'X / n`` of ``x [n, d]``, summed in the precision of ``x`` (float32: half the time, six digits)."""
    return np.asarray((x.T @ x).astype(np.float64) / len(x))

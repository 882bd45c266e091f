"""Families: features of a head that rise and fall together over responses, and are one feature to a reader."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from scipy.spatial.distance import squareform

#: Mean correlation of gated scores from which features belong together.
TOGETHER = 0.5


def group_families(features: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Group features by the correlation of their scores, by average linkage; those with weights of different signs stay apart.

    Args:
        features: ``[K]`` latent ids.
        scores: ``[n, K]`` alignment scores over responses.
        weights: ``[K]`` on standardised scores.

    Returns:
        ``[K]`` int64, for each feature the family's feature of largest absolute weight: its own id where it stands alone.
    """
    standard = scores - scores.mean(0)
    standard /= np.maximum(np.linalg.norm(standard, axis=0), 1e-12)
    return group_correlated(features, standard.T @ standard, weights)


def group_differences(features: np.ndarray, differences: csr_matrix, weights: np.ndarray) -> np.ndarray:
    """:func:`group_families` of features by their differences ``[n, K]`` between responses, whichever response is the first."""
    products = (differences.T @ differences).toarray()  # of both orders the mean is zero
    norms = np.maximum(np.sqrt(products.diagonal()), 1e-12)
    return group_correlated(features, products / np.multiply.outer(norms, norms), weights)


def group_correlated(features: np.ndarray, correlation: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """:func:`group_families` from the correlations ``[K, K]`` of the scores."""
    k = len(features)
    if k < 2:
        return np.asarray(features, np.int64).copy()
    correlation = np.clip(correlation, -1, 1)
    same = np.multiply.outer(np.sign(weights), np.sign(weights)) > 0
    distance = np.where(same, 1 - correlation, 2.0)
    np.fill_diagonal(distance, 0)
    numbers = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - TOGETHER, "distance")
    leaders = np.empty(k, np.int64)
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        leaders[members] = features[members[np.argmax(np.abs(weights[members]))]]
    return leaders

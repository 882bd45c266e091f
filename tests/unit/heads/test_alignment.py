"""Alignment: scores by hand, and moments that equal those of explicitly formed scores."""

from __future__ import annotations

import numpy as np
import pytest

from sparserm.heads.reward import alignment_scores, score_moments

CENTER = np.array([1.0, 1.0], np.float32)
DIRECTIONS = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)


def _random(seed: int, n: int = 50, d: int = 6, k: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(k, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    h = rng.normal(3.0, 2.0, (n, d))
    return h.astype(np.float32), directions.astype(np.float32), rng.normal(size=d).astype(np.float32)


def test_scores_are_projections_of_what_is_left_after_the_center() -> None:
    h = np.array([[2.0, 1.0], [1.0, 3.0], [1.0, 1.0]], np.float32)
    scores = alignment_scores(h, DIRECTIONS, CENTER)
    np.testing.assert_allclose(scores, [[1.0, 0.6], [0.0, 1.6], [0.0, 0.0]], atol=1e-7)
    assert scores.dtype == np.float64


def test_scores_keep_leading_dimensions() -> None:
    h, directions, center = _random(0)
    np.testing.assert_array_equal(alignment_scores(h[7], directions, center).shape, (9,))
    nested = alignment_scores(h.reshape(5, 10, 6), directions, center)
    np.testing.assert_allclose(nested.reshape(50, 9), alignment_scores(h, directions, center), atol=1e-12)


def test_a_score_does_not_depend_on_the_batch() -> None:
    h, directions, center = _random(1)
    batch = alignment_scores(h, directions, center)
    alone = np.stack([alignment_scores(one, directions, center) for one in h])
    np.testing.assert_allclose(batch, alone, rtol=0, atol=1e-12)


def test_moments_by_hand() -> None:
    h = np.array([[2.0, 1.0], [4.0, 1.0]], np.float32)  # scores (1, 0.6) and (3, 1.8)
    moments = score_moments(h, DIRECTIONS, CENTER)
    np.testing.assert_allclose(moments.mu, [2.0, 1.2], atol=1e-7)
    np.testing.assert_allclose(moments.sigma, [1.0, 0.6], atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_moments_equal_those_of_explicit_scores(seed: int) -> None:
    h, directions, center = _random(seed)
    scores = alignment_scores(h, directions, center)
    moments = score_moments(h, directions, center)
    np.testing.assert_allclose(moments.mu, scores.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.sigma, scores.std(0), rtol=1e-6)


def test_moments_survive_an_offset_far_larger_than_the_spread() -> None:
    h, directions, center = _random(2)
    far = (h + 1000).astype(np.float32)
    scores = alignment_scores(far, directions, center)
    np.testing.assert_allclose(score_moments(far, directions, center).sigma, scores.std(0), rtol=1e-5)


def test_a_flat_direction_has_sigma_one() -> None:
    h = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]], np.float32)
    moments = score_moments(h, np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    assert moments.sigma[1] == 1.0
    assert moments.sigma[0] == pytest.approx(np.std([1, 2, 4]))
    assert moments.mu[1] == 5.0


def test_a_single_response_has_sigma_one_everywhere() -> None:
    h, directions, center = _random(3)
    np.testing.assert_array_equal(score_moments(h[:1], directions, center).sigma, np.ones(9))

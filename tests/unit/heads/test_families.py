"""Features that rise and fall together are one family, led by the heaviest; others stand alone."""

from __future__ import annotations

import numpy as np

from sparserm.heads.families import group_families

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 400))


def _noisy(x: np.ndarray, share: float) -> np.ndarray:
    return x + share * RNG.normal(size=len(x))


def test_copies_are_one_family_named_after_the_heaviest() -> None:
    scores = np.stack([A, B, _noisy(A, 0.3), _noisy(B, 0.3), _noisy(A, 0.4)], axis=1)
    found = group_families(np.array([3, 5, 8, 13, 21]), scores, np.array([0.1, 0.9, 0.5, 0.2, 0.3]))
    np.testing.assert_array_equal(found, [8, 5, 8, 5, 8])


def test_what_hardly_goes_together_or_pulls_the_other_way_stays_apart() -> None:
    scores = np.stack([A, _noisy(A, 0.3), _noisy(A, 3.0)], axis=1)
    np.testing.assert_array_equal(group_families(np.array([1, 2, 3]), scores, np.array([1.0, -1.0, 1.0])), [1, 2, 3])


def test_one_feature_and_features_without_spread_stand_alone() -> None:
    np.testing.assert_array_equal(group_families(np.array([7]), A[:, None], np.ones(1)), [7])
    np.testing.assert_array_equal(group_families(np.array([7, 9]), np.zeros((4, 2)), np.ones(2)), [7, 9])

"""The benchmark of what explanations mean: what is counted, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.explanations import agreement, families_found, fires, meaning, shared_families, shown_signs
from sparserm.heads.fitting import FitSettings
from sparserm.heads.reward import RewardHead
from sparserm.heads.selection import FeatureStats
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from tests.unit.separable import SAE, separable


def _summary(rows: list[list[int]], d_sae: int = 4) -> LatentSummary:
    latents = np.concatenate([np.array(row, np.int64) for row in rows])
    ones = np.ones(len(latents))
    return LatentSummary(np.cumsum([0, *map(len, rows)]), firings(latents, ones, ones, ones), d_sae)


def _side(h: list[list[float]], rows: list[list[int]]) -> Representations:
    n = len(h)
    return Representations("mean", np.array(h, np.float32), np.ones(n, np.int32), np.zeros(n, np.int32), _summary(rows))


def test_features_fire_in_the_responses_that_list_them() -> None:
    found = fires(_summary([[0, 2], [], [3]]), np.array([3, 0]))
    assert found.tolist() == [[False, True], [False, False], [True, False]]


def test_the_meaning_of_a_head_by_hand() -> None:
    """Contributions are h itself; the second feature is silent in both chosen responses and counts 1 + 2 of 10 there."""
    head = RewardHead(
        np.array([1, 3]), np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.zeros(2), np.ones(2), np.ones(2), 0.0, "mean"
    )
    chosen, rejected = _side([[3, 1], [1, 2]], [[1], [1, 2]]), _side([[1, 0], [-1, 1]], [[1], [1, 3]])
    pairs = PairRepresentations(chosen, rejected, np.arange(2))
    task = SimpleNamespace(train=pairs, test=pairs, stats=FeatureStats(np.array([0, 0.9, 0, 0.1]), np.array([0, 0.5, 0, 0.4])))
    margins = {"dense": [np.array([1.0, -1.0])], "frequency": [np.ones(2)], "random": [-np.ones(2), np.ones(2)]}
    found = meaning(task, head, margins)
    assert (found.k, found.accuracy, found.firing) == (2, 1.0, 1.0)
    assert found.silent_share == pytest.approx(3 / 10)
    assert found.sign_agreement == 0.5  # the second is more frequent in rejected responses
    assert [found.minus_dense[0], found.minus_frequency[0], found.minus_random[0]] == [0.5, 0.0, 0.5]


def test_what_fires_equally_often_shows_the_sign_of_how_strongly() -> None:
    head = RewardHead(
        np.array([1, 3]), np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.zeros(2), np.ones(2), np.ones(2), 0.0, "mean"
    )
    pairs = PairRepresentations(_side([[3, -1], [1, 2]], [[1], [1]]), _side([[1, 4], [2, 0]], [[1], [1]]), np.arange(2))
    stats = FeatureStats(np.array([0, 0.5, 0, 0.6]), np.array([0, 0.5, 0, 0.4]))
    assert shown_signs(head, stats, pairs).tolist() == [1, 1]  # 4 > 3 in sum; the second is more frequent in chosen responses


def test_heads_whose_features_always_fire_together_match_whatever_their_ids() -> None:
    """Every latent fires in every response of these pairs, so only equal ids match; all latents selected agree fully."""
    task = SimpleNamespace(train=separable(0), sae=SAE)
    found = agreement(task, FitSettings(k=SAE.d_sae, l2=0.1, score="projection", selection="frequency"))
    assert (found.jaccard, found.families, found.matched) == (1.0, 1.0, 1.0)
    for few in (FitSettings(k=2, l2=0.1, score="projection"), FitSettings(k=2, score="gated")):
        found = agreement(task, few)
        assert 0 < found.jaccard <= found.matched <= 1 and 0 < found.families <= 1


def test_a_family_is_found_again_in_a_head_that_has_any_of_its_features() -> None:
    def head(features: list[int], families: list[int]) -> RewardHead:
        k = len(features)
        numbers = np.zeros(k), np.ones(k), np.ones(k)
        return RewardHead(
            np.array(features), np.eye(k), np.zeros(k), *numbers, 0.0, "mean", families=np.array(families, np.int64)
        )

    one, other = head([1, 2, 5, 7], [1, 1, 5, 7]), head([2, 5, 6, 9], [2, 5, 5, 9])
    assert families_found(one, other) == 2  # 1 with 2, and 5
    assert families_found(other, one) == 2  # 2, and 5 with 6
    assert shared_families(one, other) == 2 / (3 + 3 - 2)

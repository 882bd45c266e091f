"""The benchmark of what explanations mean: what is counted, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.explanations import _read_bar, agreement, fires, meaning
from sparserm.heads.fitting import FitSettings
from sparserm.heads.labels import AutoLabel, Detection
from sparserm.heads.reward import RewardHead
from sparserm.heads.selection import FeatureStats
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from tests.unit.separable import SAE, separable

LABEL = AutoLabel("lists", "", "rule", "a", "b", 9, 20, ("list items", "“first”"), (), Detection(0.9, (0.8, 1.0), 0.9, 20, 20))


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
    task = SimpleNamespace(test=pairs, stats=FeatureStats(np.array([0, 0.9, 0, 0.1]), np.array([0, 0.5, 0, 0.4])))
    margins = {"dense": [np.array([1.0, -1.0])], "frequency": [np.ones(2)], "random": [-np.ones(2), np.ones(2)]}
    found = meaning(task, head, margins)
    assert (found.k, found.accuracy, found.firing) == (2, 1.0, 1.0)
    assert found.silent_share == pytest.approx(3 / 10)
    assert found.sign_agreement == 0.5  # the second is more frequent in rejected responses
    assert [found.minus_dense[0], found.minus_frequency[0], found.minus_random[0]] == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("label", "terms", "present", "kinds"),
    [
        (None, {"list items"}, True, []),
        (LABEL, {"list items", "numbers"}, True, ["labelled", "in_text", "right"]),
        (LABEL, {"list items"}, False, ["labelled", "in_text", "backwards"]),
        (LABEL, {"numbers"}, True, ["labelled", "backwards"]),
        (LABEL, {"numbers"}, False, ["labelled", "lacking"]),
    ],
)
def test_a_bar_is_read_against_its_label(label, terms, present, kinds) -> None:
    assert _read_bar(label, terms, present) == kinds


def test_heads_whose_features_always_fire_together_match_whatever_their_ids() -> None:
    """Every latent fires in every response of these pairs, so only equal ids match; all latents selected agree fully."""
    task = SimpleNamespace(train=separable(0), sae=SAE)
    found = agreement(task, FitSettings(k=SAE.d_sae, l2=0.1, score="projection", selection="frequency"))
    assert (found.jaccard, found.matched) == (1.0, 1.0)
    for few in (FitSettings(k=2, l2=0.1, score="projection"), FitSettings(k=2, score="gated")):
        found = agreement(task, few)
        assert 0 < found.jaccard <= found.matched <= 1

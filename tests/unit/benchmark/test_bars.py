"""The benchmark of bars beside their labels: what is asked and counted, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import bars
from benchmarks.bars import LETTERS, ask, count_bars, read_bars
from sparserm.heads.reward import RewardHead
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.types import Message, PreferencePair


def _side(h: list[list[float]], rows: list[list[int]]) -> Representations:
    latents = np.concatenate([np.array(row, np.int64) for row in rows])
    ones = np.ones(len(latents))
    summary = LatentSummary(np.cumsum([0, *map(len, rows)]), firings(latents, ones, ones, ones), 8)
    n = len(h)
    return Representations("mean", np.array(h, np.float32), np.ones(n, np.int32), np.zeros(n, np.int32), summary)


@pytest.fixture
def task(monkeypatch) -> SimpleNamespace:
    """A head of four features on projections with weights 1, 1, -1 and 1; contributions are h times the weight."""
    k = 4
    weights = np.array([1.0, 1.0, -1.0, 1.0])
    directions, center = np.eye(k, dtype=np.float32), np.zeros(k, np.float32)
    head = RewardHead(np.array([1, 3, 5, 7]), directions, center, np.zeros(k), np.ones(k), weights, 0.0, "mean")
    chosen, rejected = _side([[3, 1, 0, 0]], [[1]]), _side([[-2, 0, 4, 1]], [[5, 7]])
    monkeypatch.setattr(bars, "_labels", lambda _: {0: "says no", 2: "warns", 3: "lists"})
    monkeypatch.setattr(bars, "OTHER_BAR_PAIRS", 1)
    return SimpleNamespace(
        model=SimpleNamespace(head=head, card=SimpleNamespace(sae_fingerprint="x")),
        test=PairRepresentations(chosen, rejected, np.arange(1)),
        test_pairs=[PreferencePair((Message("user", "Why?"),), "No.", "Take care.")],
    )


def test_bars_are_the_features_that_contribute_with_what_they_count(task) -> None:
    chosen, rejected = read_bars(task, "safety")
    assert chosen.bars == ((0, True, True), (1, True, False))  # 3, 1: the second feature is silent, and has no label
    assert rejected.bars == ((2, True, True), (0, False, False), (3, True, True))  # -4, -2, 1: the first counts as lacking
    assert set(chosen.silent) == {2, 3} and set(rejected.silent) == {0}
    assert sorted(chosen.order) == [0, 2, 3] and set(rejected.order) == {0, 2, 3}


def test_answers_are_counted_by_hand(task, tmp_path: Path) -> None:
    ask(task, "safety", tmp_path)
    text = (tmp_path / "safety.0.md").read_text()
    assert "Response: No." in text and "Response: Take care." in text and "says no" in text and "fires" not in text
    found = dict(zip(("0", "1"), ([0, 3], [0, 2]), strict=True))  # what the judge finds: features by response
    letters = {
        place: [LETTERS[one.order.index(j)] for j in found[place]]
        for place, one in zip(found, read_bars(task, "safety"), strict=True)
    }
    (tmp_path / "safety.0.json").write_text(json.dumps(letters))
    counts = count_bars(task, "safety", tmp_path)
    assert (counts.responses, counts.n, counts.firing, counts.labelled) == (2, 5, 3, 4)
    # Chosen: 0 right. Rejected: 2 right, 0 counted as lacking and found, 3 not found.
    assert (counts.right, counts.not_found, counts.backwards, counts.lacking) == (2, 1, 1, 0)
    assert (counts.silent, counts.silent_found) == (3, 2)
    assert (counts.features, counts.features_labelled) == (4, 3)

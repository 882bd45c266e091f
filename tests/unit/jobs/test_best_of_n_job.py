"""Ranking as a job: the rewards it leaves are those of scoring at once, and an interruption costs no work twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sparserm.backbone.model import Backbone
from sparserm.jobs import queue
from sparserm.jobs.worker import work
from sparserm.model import SparseRM
from sparserm.pairs.candidates import keep_candidates, read_candidates
from sparserm.pairs.parsing import parse_pairs
from sparserm.scoring.best_of_n import count_missing_tokens, rank
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

ROWS = [{"prompt": f"Question {i}?", "responses": [f"please {i}", f"go away {i}", "gladly"]} for i in range(3)]
CANDIDATES = read_candidates("\n".join(map(json.dumps, ROWS)).encode(), "candidates.jsonl")


@pytest.fixture(params=["projection", "gated"])
def model(request, tiny_folder, tmp_path, monkeypatch) -> SparseRM:
    """With a head on disk, whose backbone is found from here."""
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.setattr("sparserm.backbone.device.fast_dtype", lambda device: torch.float32)
    sae = save_tiny_sae(tmp_path / "sae", threshold=15 if request.param == "gated" else None)
    backbone = Backbone.load(tiny_folder, dtype="float32")
    fitted = SparseRM.fit(parse_pairs(preference_rows()), backbone=backbone, sae=sae, k=4, selection="frequency", l2=0.1)
    assert fitted.head.score == request.param
    fitted.save_pretrained(tmp_path / "head")
    return fitted


def test_a_job_leaves_the_rewards_and_fills_the_store(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)
    assert count_missing_tokens(model, CANDIDATES) > 0
    job = queue.start("best_of_n", {"candidates": keep_candidates(CANDIDATES), "head": str(tmp_path / "head")}, "Best of N")
    work(queue.status(job).folder)
    found = queue.status(job)
    assert found.state == "done", found.error
    rewards = np.load(found.folder / "rewards.npy")
    assert np.load(found.folder / "n_truncated.npy").tolist() == [0] * len(rewards)
    assert count_missing_tokens(model, CANDIDATES) == 0
    np.testing.assert_array_equal(rewards, [reward for one in rank(model, CANDIDATES) for reward in one.rewards])

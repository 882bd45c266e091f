"""The job that ranks many candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparserm.best_of_n import kept_candidates, rank
from sparserm.jobs import Report
from sparserm.model import SparseRM


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Score the kept candidates ``spec["candidates"]`` with the head ``spec["head"]``: ``rewards.npy``, prompt after prompt.

    Interrupted work goes on from the store.

    Raises:
        SparseRMError: the candidates, the head or its backbone cannot be used.
    """
    report.stage(1, 2, "Candidates")
    candidates = kept_candidates(spec["candidates"])
    model = SparseRM.from_pretrained(spec["head"])
    model.load_backbone(report)
    report.stage(2, 2, "Representations (responses)")
    ranked = rank(model, candidates, progress=report)
    np.save(folder / "rewards.npy", np.array([reward for one in ranked for reward in one.rewards]))

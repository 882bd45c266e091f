"""Training as a job downloads a language model only if the user typed its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparserm.heads.fitting import FitSettings
from sparserm.jobs import kinds, queue
from sparserm.jobs.worker import work
from sparserm.pairs.sources import DataSource
from sparserm.training.train import TrainSpec
from sparserm.types import SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae


@pytest.mark.parametrize("typed", [True, False])
def test_a_language_model_is_downloaded_if_its_name_was_typed(typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_spawn", lambda folder: None)
    monkeypatch.setattr("os.nice", lambda n: 0)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows()))
    asked = []

    def load(name, *, may_download, **_):
        asked.append((name, may_download))
        raise SparseRMError("there is no such model")

    monkeypatch.setattr(kinds.Backbone, "load", load)
    sae = str(save_tiny_sae(tmp_path / "sae"))
    spec = TrainSpec(DataSource(str(path)), (sae,), FitSettings(), backbone="org/model", download=typed)
    job = queue.start("train", spec.to_dict(), "A head")
    work(queue.status(job).folder)
    assert (queue.status(job).state, asked) == ("failed", [("org/model", typed)])

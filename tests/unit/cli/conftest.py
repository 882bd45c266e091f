"""Commands run in this process on a tiny backbone, with a tiny SAE, pairs in files and a head."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from tests.commands import runner
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command in this process, as its entry point does."""
    return runner(monkeypatch, capfd)


@pytest.fixture(scope="session")
def parts(tmp_path_factory, tiny_folder, tiny_backbone) -> SimpleNamespace:
    """A tiny SAE, pairs in files and a head trained on them; read only."""
    folder = tmp_path_factory.mktemp("parts")
    sae = save_tiny_sae(folder / "tiny-sae")
    for name, rows in (("train", preference_rows()), ("test", preference_rows(12, 6, seed=1))):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = parse_pairs(preference_rows(), "train.jsonl")
    SparseRM.fit(data, backbone=tiny_backbone, sae=sae, k=4, l2=0.1, name="kindness").save_pretrained(folder / "head")
    return SimpleNamespace(
        sae=sae, train=folder / "train.jsonl", test=folder / "test.jsonl", head=folder / "head", backbone=tiny_folder
    )


@pytest.fixture(autouse=True)
def _beside_the_backbone(monkeypatch, tiny_folder):
    """In a data folder that is new, heads know a backbone's folder by its last part. It is float32 on any machine."""
    monkeypatch.chdir(tiny_folder.parent)
    monkeypatch.setattr("sparserm.backbone.device.fast_dtype", lambda device: torch.float32)

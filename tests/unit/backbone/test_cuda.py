"""A GPU gives what the processor gives. Skipped where there is none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from sparserm.backbone.model import Backbone
from sparserm.representations.files import represent_file
from sparserm.representations.represent import represent
from sparserm.representations.shards import LATENTS_IN, PAIRS_IN
from sparserm.sae.autoencoder import load_sae
from sparserm.types import HookPoint, Message, Text
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import firing_sae, save_tiny_sae

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")

HOOK = HookPoint(1)


def texts() -> list[Text]:
    rng = np.random.default_rng(0)
    words = ["a", "bird", "flies", "over", "the", "quiet", "lake", "at", "dawn"]

    def sentence(n: int) -> str:
        return " ".join(rng.choice(words, n))

    prompts = [(Message("user", sentence(n)),) for n in (3, 9, 30)]
    return [Text(prompt, sentence(int(n))) for prompt in prompts for n in rng.integers(1, 60, 20)]


@pytest.mark.parametrize("batch_tokens", [600, 16_384])
def test_representations_and_latents_are_those_of_the_processor(tiny_folder, tiny_backbone, monkeypatch, batch_tokens) -> None:
    monkeypatch.setattr("sparserm.backbone.model.GPU_BATCH_TOKENS", batch_tokens)  # in many passes, and in one
    sae = firing_sae(HOOK)
    near = Backbone.load(tiny_folder, dtype="float32", device="cuda")
    for pooling in ("last", "mean"):
        here = represent(texts(), tiny_backbone, {HOOK: sae}, pooling, strengths=True)[HOOK]
        there = represent(texts(), near, {HOOK: sae}, pooling, strengths=True)[HOOK]
        assert np.allclose(here.h, there.h, atol=1e-4)
        assert np.array_equal(here.n_tokens, there.n_tokens)
        assert np.array_equal(here.strengths.indices, there.strengths.indices)
        assert np.allclose(here.strengths.rate, there.strengths.rate, atol=1e-6)
        assert np.allclose(here.strengths.peak, there.strengths.peak, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_gpu_is_waited_for(tiny_folder, tiny_backbone) -> None:
    second = Backbone.load(tiny_folder, dtype="float32", device="cuda:1")
    got, want = (represent(texts(), one, {HOOK: firing_sae(HOOK)}, "mean")[HOOK] for one in (second, tiny_backbone))
    assert np.allclose(got.h, want.h, atol=1e-4)


def test_a_file_that_is_read_ahead_gives_the_rows_of_the_processor(tiny_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sparserm.pairs.part_reader.ROWS_HERE", 1)
    monkeypatch.setattr("sparserm.representations.files.PART_ROWS", 8)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(60, 20)))
    sae = load_sae(save_tiny_sae(tmp_path / "sae", threshold=15))
    for device in ("cpu", "cuda"):
        backbone = Backbone.load(tiny_folder, dtype="float32", device=device)
        assert represent_file(path, backbone, sae, tmp_path / device).n_pairs == 60
    for table in (PAIRS_IN, LATENTS_IN):
        ours, theirs = (pd.read_parquet(tmp_path / device / table) for device in ("cpu", "cuda"))
        pd.testing.assert_frame_equal(ours, theirs, atol=1e-4)


def test_small_passes_or_large_make_no_difference(tiny_folder, monkeypatch) -> None:
    near = Backbone.load(tiny_folder, dtype="float32", device="cuda")
    tokenized = near.chat.many(texts())
    large = dict(near.hidden_states(tokenized, [HOOK]))
    monkeypatch.setattr("sparserm.backbone.model.GPU_BATCH_TOKENS", 64)
    small = dict(near.hidden_states(tokenized, [HOOK]))
    assert all(torch.allclose(large[i][HOOK], small[i][HOOK], atol=1e-4) for i in range(len(tokenized)))

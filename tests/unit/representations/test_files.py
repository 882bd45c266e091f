"""Pairs represented into files: heads and insights are those of the same pairs in memory, whatever happens on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from sparserm.backbone.model import Backbone
from sparserm.heads.inputs import load_parts
from sparserm.insights.find import find_insights
from sparserm.insights.values import Insights
from sparserm.pairs import part_reader, runs
from sparserm.pairs.load import load_pairs
from sparserm.pairs.runs import run_here
from sparserm.representations import files
from sparserm.representations.files import RepresentedPairs, holds_representations, represent_file
from sparserm.representations.shards import LATENTS_IN, PAIRS_IN
from sparserm.training.train import train_head
from sparserm.types import SparseRMError
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

ROWS = [
    *preference_rows(40, 10, seed=1),
    {"prompt": "no answer", "chosen": "same", "rejected": "same"},
    {"prompt": "several", "chosen": ["please"], "rejected": ["go", "away"], "id": "x7"},
    "not an object",
    *preference_rows(30, 10, seed=2),
]
N_BAD = 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(files, "PART_ROWS", 8)


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def sae_folder(tmp_path_factory) -> Path:
    return save_tiny_sae(tmp_path_factory.mktemp("sae") / "tiny-sae", threshold=15)


@pytest.fixture
def parts(tiny_folder, sae_folder):
    """An SAE and the tiny backbone, loaded by their folders."""
    return load_parts(str(tiny_folder), str(sae_folder), None)


def _represent(path, parts, out, **given):
    sae, backbone = parts
    return represent_file(path, backbone, sae, out, **given)


def _numbers(folder: Path) -> list[pd.DataFrame]:
    pairs, latents = pd.read_parquet(folder / PAIRS_IN), pd.read_parquet(folder / LATENTS_IN)
    return [pairs, latents]


def _assert_equal(one: Path, other: Path) -> None:
    for ours, theirs in zip(_numbers(one), _numbers(other), strict=True):
        pd.testing.assert_frame_equal(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"avoid_length": True}, {"pooling": "last"}, {"score": "projection", "k": 4}, {"selection": "frequency", "k": 6}],
    ids=str,
)
def test_a_head_from_files_is_the_head_from_memory(path, parts, tmp_path, settings):
    sae, backbone = parts
    done = _represent(path, parts, tmp_path / "out", pooling=settings.get("pooling", "mean"))
    assert (done.n_rows, done.n_unusable) == (len(ROWS), N_BAD)
    data = load_pairs(path, skip_bad=True)
    memory = train_head(data, backbone=backbone, sae=sae, name="head", **settings)
    opened = RepresentedPairs.open(tmp_path / "out")
    ours = train_head(opened, name="head", **settings)
    np.testing.assert_array_equal(ours.model.head.features, memory.model.head.features)
    np.testing.assert_allclose(ours.model.head.weights, memory.model.head.weights, atol=1e-4)
    assert ours.measurement.evaluation.accuracy == memory.measurement.evaluation.accuracy
    assert ours.measurement.random_accuracy == memory.measurement.random_accuracy
    here, there = ours.model.card, memory.model.card
    assert here.training["data_hash"] == there.training["data_hash"]
    assert (here.backbone, here.backbone_fingerprint) == (there.backbone, there.backbone_fingerprint)
    assert opened.data.n_skipped == data.n_skipped
    prompt, response = data.pairs[0].prompt, data.pairs[0].chosen
    assert ours.model.score([prompt], [response]) == pytest.approx(memory.model.score([prompt], [response]), abs=1e-4)


def test_for_a_gpu_parts_are_read_ahead_and_overlap_and_give_the_same(path, parts, tmp_path, monkeypatch):
    _represent(path, parts, tmp_path / "cpu")
    monkeypatch.setattr(part_reader, "ROWS_HERE", 1)
    monkeypatch.setattr(Backbone, "on_gpu", True)
    monkeypatch.setattr(part_reader, "_started", mock.Mock(wraps=part_reader._started))
    monkeypatch.setattr(runs, "in_order", mock.Mock(wraps=runs.in_order))
    seen = []
    done = _represent(path, parts, tmp_path / "gpu", progress=lambda done, total, what: seen.append(done))
    assert seen == [*range(8, len(ROWS), 8), len(ROWS)]
    assert (done.n_rows, done.n_unusable) == (len(ROWS), N_BAD)
    _assert_equal(tmp_path / "gpu", tmp_path / "cpu")
    assert part_reader._started.call_count == runs.in_order.call_count == 1


def test_test_pairs_are_in_files_too(path, parts, tmp_path):
    sae, backbone = parts
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(20, 10, seed=3)))
    for name, source in (("train", path), ("test", test)):
        _represent(source, parts, tmp_path / name)
    opened = [RepresentedPairs.open(tmp_path / name) for name in ("train", "test")]
    ours = train_head(opened[0], test=opened[1])
    memory = train_head(load_pairs(path, skip_bad=True), backbone=backbone, sae=sae, test=load_pairs(test))
    assert ours.evaluation.accuracy == memory.evaluation.accuracy
    assert ours.measurement.measured_on == memory.measurement.measured_on
    with pytest.raises(SparseRMError, match="is not represented, expected all pairs to be"):
        train_head(opened[0], test=load_pairs(test))


def test_insights_are_those_from_memory(path, parts, tmp_path):
    sae, backbone = parts
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(200, 60, seed=4)))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(120, 60, seed=5)))
    for name, source in (("here", path), ("there", other)):
        _represent(source, parts, tmp_path / name)
    here, there = (RepresentedPairs.open(tmp_path / name) for name in ("here", "there"))
    memory = find_insights(load_pairs(path), against=load_pairs(other), backbone=backbone, sae=sae)
    assert memory.findings and memory.against

    def told(found: Insights) -> Insights:
        # Which of equally strong responses is shown depends on rounding.
        return replace(found, findings=tuple(replace(one, snippets=()) for one in found.findings))

    assert told(find_insights(here, against=there)) == told(memory)


def test_a_run_that_was_stopped_or_damaged_goes_on_and_ends_as_if_it_had_not_been(path, parts, tmp_path):
    _represent(path, parts, tmp_path / "whole")

    def stop(work, todo, finished):
        run_here(work, todo[:3], finished)
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _represent(path, parts, out, engine=stop)
    with pytest.raises(SparseRMError, match=r"lacks 7 of 10 parts; repeat the command"):
        RepresentedPairs.open(out)
    damaged = out / LATENTS_IN / "part-000001.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 64] = bytes(64)
    damaged.write_bytes(data)
    (out / PAIRS_IN / "part-000002.parquet").unlink()
    kept = (out / PAIRS_IN / "part-000000.parquet").stat().st_mtime_ns
    again = _represent(path, parts, out)
    assert again.n_done_before == 8
    assert (out / PAIRS_IN / "part-000000.parquet").stat().st_mtime_ns == kept
    _assert_equal(out, tmp_path / "whole")


def test_pairs_that_the_backbone_cannot_be_run_on_are_left_out_alone(path, parts, tmp_path, monkeypatch):
    whole = represent_pairs = files.represent_pairs

    def fails(pairs, *given, **settings):
        if any("away" in pair.rejected for pair in pairs):
            raise SparseRMError("the state is not finite")
        return represent_pairs(pairs, *given, **settings)

    monkeypatch.setattr(files, "represent_pairs", fails)
    done = _represent(path, parts, tmp_path / "out")
    monkeypatch.setattr(files, "represent_pairs", whole)
    data = load_pairs(path, skip_bad=True)
    kept = [pair for pair in data.pairs if "away" not in pair.rejected]
    assert 0 < done.n_pairs == len(kept) < len(data.pairs)
    opened = RepresentedPairs.open(tmp_path / "out")
    assert list(opened.data.pairs) == kept
    sae, backbone = parts
    wanted = whole(kept, backbone, {sae.hook: sae}, "mean", strengths=True)[sae.hook]
    found = opened.representations(sae, states=True)
    np.testing.assert_allclose(found.rejected.h, wanted.rejected.h, atol=1e-5)
    np.testing.assert_array_equal(found.groups, wanted.groups)


def test_what_does_not_fit_the_folder_is_refused(path, parts, tmp_path, sae_folder, tiny_folder):
    out = tmp_path / "out"
    _represent(path, parts, out)
    assert holds_representations(out) and not holds_representations(tmp_path) and not holds_representations(path)
    opened = RepresentedPairs.open(out)
    with pytest.raises(SparseRMError, match="expected no other backbone, SAE or layer"):
        train_head(opened, sae=str(sae_folder))
    with pytest.raises(SparseRMError, match="have mean pooling, expected last"):
        train_head(opened, pooling="last")
    with pytest.raises(SparseRMError, match="holds representations of pooling mean, expected 'last'"):
        _represent(path, parts, out, pooling="last")
    other = save_tiny_sae(tmp_path / "other-sae", threshold=16)
    with pytest.raises(SparseRMError, match=r"of SAE .*tiny-sae, expected .*other-sae"):
        opened.representations(load_parts(str(tiny_folder), str(other), None)[0], states=False)
    path.write_text(path.read_text() + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(SparseRMError, match=r"pairs\.jsonl has another content hash than when it was represented"):
        RepresentedPairs.open(out)
    with pytest.raises(SparseRMError, match="holds representations of content hash"):
        _represent(path, parts, out)


def test_workers_refuse_other_weights(path, parts, tmp_path):
    sae, _ = parts
    stranger = Backbone.load(parts[1].source)
    stranger.fingerprint = "another"

    def elsewhere(work, todo, finished):
        run_here(replace(work, loaded=None), todo, finished)

    with pytest.raises(SparseRMError, match=r"the backbone is .* on this machine, expected another as on the others"):
        represent_file(path, stranger, sae, tmp_path / "out", engine=elsewhere)

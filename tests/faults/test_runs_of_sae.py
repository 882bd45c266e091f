"""Runs of train-sae that are damaged: refused in a line, and no SAE that cannot be used is reported as finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sparserm.sae import training as module
from sparserm.sae.activations import read_corpus
from sparserm.sae.training import SAERecipe, train_saes
from sparserm.types import SparseRMError

RECIPE = SAERecipe(d_sae=40, k=4, epochs=2, lr=4e-3, batch_size=64)
WEIGHTS = "sae_weights.safetensors"
DEEP = b"[" * 100_000


@pytest.fixture(autouse=True)
def _small_held_out(monkeypatch) -> None:
    monkeypatch.setattr(module, "read_corpus", lambda path: read_corpus(path, n_held_out=12))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"rain hill cat {i} " * (1 + i % 3)}) + "\n" for i in range(60)))
    return path


def _train(corpus: Path, backbone: Path, out: Path, stop_at: str = "", after: int = 0) -> None:
    def progress(done: int, total: int, what: str) -> None:
        if stop_at and what.startswith(stop_at) and done >= after:
            raise KeyboardInterrupt

    train_saes(corpus, out, layers=(1,), backbone=str(backbone), n_tokens=600, recipe=RECIPE, progress=progress)


@pytest.fixture(scope="module")
def kept(corpus, tiny_folder, tmp_path_factory) -> dict[str, Path]:
    """A finished run, and one stopped in the middle of its training."""
    runs = {name: tmp_path_factory.mktemp(name) for name in ("finished", "stopped")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_corpus", lambda path: read_corpus(path, n_held_out=12))
        _train(corpus, tiny_folder, runs["finished"])
        with pytest.raises(KeyboardInterrupt):
            _train(corpus, tiny_folder, runs["stopped"], "SAE of layer 1", 900)
    return runs


@pytest.fixture
def refusal(kept, corpus, tiny_folder, tmp_path):
    """``refusal(run, file, content)``: the error after a file of a copy of the run got other content; None removes it."""

    def damage(run: str, name: str, content: bytes | None) -> str:
        out = tmp_path / run
        shutil.copytree(kept[run], out)
        (file,) = out.glob(name)
        file.write_bytes(content) if content is not None else file.unlink()
        with pytest.raises(SparseRMError) as caught:
            _train(corpus, tiny_folder, out)
        assert len(str(caught.value).splitlines()) == 1 and str(out) in str(caught.value)
        return str(caught.value)

    return damage


@pytest.mark.parametrize("content", [b'{"l0": 4', b"{}", b"[]", b"1", b"\xff\xfe", DEEP])
def test_damaged_measures_are_refused(refusal, content) -> None:
    assert "expected the measures of a finished SAE; remove the file" in refusal("finished", "layer_1/metrics.json", content)


@pytest.mark.parametrize("change", [{"more": 1}, {"l0": "x"}, {"l0": None}, {"dead": True}, {"dead": [1]}])
def test_measures_of_another_form_are_refused(refusal, kept, change) -> None:
    found = json.loads((kept["finished"] / "layer_1" / "metrics.json").read_text())
    message = refusal("finished", "layer_1/metrics.json", json.dumps(found | change).encode())
    assert "expected the measures of a finished SAE" in message


@pytest.mark.parametrize("content", [None, b"", b"ab"])
def test_a_finished_sae_without_its_weights_is_not_reported(refusal, content) -> None:
    assert "holds a finished SAE that is damaged" in refusal("finished", f"layer_1/{WEIGHTS}", content)


def test_a_finished_sae_with_a_flipped_bit_is_not_reported(refusal, kept) -> None:
    data = bytearray((kept["finished"] / "layer_1" / WEIGHTS).read_bytes())
    data[-7] ^= 4
    assert "holds a finished SAE that is damaged" in refusal("finished", f"layer_1/{WEIGHTS}", bytes(data))


def test_a_finished_sae_without_its_configuration_is_not_reported(refusal) -> None:
    assert "holds a finished SAE that is damaged" in refusal("finished", "layer_1/cfg.json", None)


@pytest.mark.parametrize("metadata", [[], [1], "x", 5, None, {"recipe": "x"}, {"recipe": [1]}])
def test_metadata_of_another_form_are_refused(refusal, kept, metadata) -> None:
    config = json.loads((kept["finished"] / "layer_1" / "cfg.json").read_text())
    if isinstance(metadata, dict):
        metadata = config["metadata"] | metadata
    message = refusal("finished", "layer_1/cfg.json", json.dumps(config | {"metadata": metadata}).encode())
    assert "holds an SAE trained with d_sae None" in message


@pytest.mark.parametrize("content", [DEEP, b"{", b"\xff"])
def test_a_damaged_note_of_the_recipe_is_refused(refusal, content) -> None:
    assert "expected the recipe of an interrupted training" in refusal("stopped", "layer_1/checkpoint/recipe.json", content)


@pytest.mark.parametrize("name", ["activation_scaler.json", WEIGHTS, "trainer_state.pt"])
@pytest.mark.parametrize("has_digest", [True, False])
def test_a_damaged_checkpoint_is_refused(refusal, kept, monkeypatch, name, has_digest) -> None:
    (file,) = kept["stopped"].glob(f"layer_1/checkpoint/*/{name}")
    if not has_digest:  # as in earlier versions
        monkeypatch.setattr(module, "_digest", lambda checkpoint: (checkpoint / "complete").read_text())
    message = refusal("stopped", f"layer_1/checkpoint/*/{name}", file.read_bytes()[:20])
    assert "expected the files of an interrupted training; remove" in message


def test_a_checkpoint_with_a_flipped_bit_is_refused(refusal, kept) -> None:
    (file,) = kept["stopped"].glob(f"layer_1/checkpoint/*/{WEIGHTS}")
    data = bytearray(file.read_bytes())
    data[-7] ^= 4
    assert "its files have changed" in refusal("stopped", f"layer_1/checkpoint/*/{WEIGHTS}", bytes(data))


def test_a_checkpoint_of_an_earlier_version_is_used(kept, corpus, tiny_folder, tmp_path) -> None:
    out = shutil.copytree(kept["stopped"], tmp_path / "out")
    (complete,) = out.glob("layer_1/checkpoint/*/complete")
    complete.write_bytes(b"")
    _train(corpus, tiny_folder, out)
    assert (out / "layer_1" / WEIGHTS).read_bytes() == (kept["finished"] / "layer_1" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("wrong", [{"n_rows": -5}, {"n_rows": 10**9}, {"n_tokens": -5}, {"n_tokens": 10**9}, {"n_rows": 1.5}])
def test_impossible_counts_of_activations_are_refused(refusal, kept, wrong) -> None:
    manifest = json.loads((kept["stopped"] / "activations" / "manifest.json").read_text())
    message = refusal("stopped", "activations/manifest.json", json.dumps(manifest | wrong).encode())
    assert "to compute the activations again" in message


def test_an_infinite_count_of_activations_is_refused(refusal) -> None:
    content = b'{"n_rows": Infinity, "n_tokens": 5}'
    assert "Infinity is not a number" in refusal("stopped", "activations/manifest.json", content)

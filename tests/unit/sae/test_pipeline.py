"""From a corpus to measured SAEs: what is written, and that interrupted work goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparserm.backbone.model import Backbone, load_language_model
from sparserm.sae import training as module
from sparserm.sae.activations import read_corpus
from sparserm.sae.autoencoder import load_sae
from sparserm.sae.evaluation import SAEQuality, evaluate_sae
from sparserm.sae.seeds import SeedStability, save_seeds
from sparserm.sae.training import SAERecipe, train_saes
from sparserm.types import SparseRMError

RECIPE = SAERecipe(d_sae=40, k=4, epochs=2, lr=4e-3, batch_size=64)
N_TOKENS = 600
STEPS = ("extract_activations", "train_sae", "measure_sae")


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    words = ["rain", "hill", "cat", "house", "river", "stone", "cloud"]
    rows = [{"text": " ".join(words[(i * j) % 7] for j in range(1, 4 + i % 4)) + f" {i}"} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(autouse=True)
def _small_held_out(monkeypatch) -> None:
    monkeypatch.setattr(module, "read_corpus", lambda path: read_corpus(path, n_held_out=12))


@pytest.fixture
def train(corpus_file, tiny_folder):
    def run(out: Path, layers=(1, 2), recipe: SAERecipe = RECIPE, **more):
        arguments = {"corpus_path": corpus_file, "backbone": str(tiny_folder), "n_tokens": N_TOKENS} | more
        return train_saes(arguments.pop("corpus_path"), out, layers=layers, recipe=recipe, **arguments)

    return run


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often each step of the pipeline ran."""
    counted: Counter[str] = Counter()
    for name in STEPS:
        step = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _step=step, _name=name, **b: (counted.update([_name]), _step(*a, **b))[1])
    return counted


@pytest.fixture(scope="module")
def whole(corpus_file, tiny_folder, tmp_path_factory) -> tuple[Path, dict[int, SAEQuality]]:
    """What uninterrupted work gives for both layers; read only."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_corpus", lambda path: read_corpus(path, n_held_out=12))
        return out, train_saes(corpus_file, out, layers=(1, 2), backbone=str(tiny_folder), n_tokens=N_TOKENS, recipe=RECIPE)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _cancel_during(what: str, after: int = 0):
    def progress(done: int, total: int, label: str) -> None:
        if label.startswith(what) and done >= after:
            raise KeyboardInterrupt

    return progress


def test_every_layer_has_its_sae_and_its_metrics_and_nothing_else_is_left(whole) -> None:
    out, found = whole
    names = ("cfg.json", "metrics.json", "sae_weights.safetensors")
    assert set(_files(out)) == {f"layer_{layer}/{name}" for layer in (1, 2) for name in names}
    assert list(found) == [1, 2]
    for layer, quality in found.items():
        sae = load_sae(out / f"layer_{layer}")
        assert (sae.hook.layer, sae.d_sae, sae.architecture, sae.model_name) == (layer, 40, "jumprelu", "tiny-llama")
        assert quality == SAEQuality(**json.loads((out / f"layer_{layer}" / "metrics.json").read_text()))
        assert quality.l0 == pytest.approx(4, abs=0.5) and 0 <= quality.dead <= 1


def test_metrics_are_of_the_sae_on_disk_and_the_held_out_text(whole, corpus_file, tiny_folder) -> None:
    out, found = whole
    corpus = read_corpus(corpus_file, n_held_out=12)
    backbone = Backbone.load(tiny_folder)
    expected = evaluate_sae(load_sae(out / "layer_1"), backbone, load_language_model(tiny_folder), corpus.held_out)
    assert found[1] == SAEQuality(**expected.to_dict())


def test_activations_of_all_layers_are_computed_once(train, tmp_path, calls) -> None:
    train(tmp_path)
    assert calls == {"extract_activations": 1, "train_sae": 2, "measure_sae": 2}


def test_what_is_finished_is_not_done_again(train, tmp_path, calls) -> None:
    first = train(tmp_path)
    save_seeds(SeedStability(1, np.ones(40), np.ones(40)), tmp_path / "layer_1")  # travels with the SAE
    before = _files(tmp_path)
    calls.clear()
    assert train(tmp_path) == first
    assert not calls and _files(tmp_path) == before


@pytest.mark.parametrize(
    ("what", "after", "left"),
    [
        ("Activations", 0, {"extract_activations": 1, "train_sae": 2, "measure_sae": 2}),
        ("SAE of layer 1", 600, {"extract_activations": 1, "train_sae": 2, "measure_sae": 2}),
        ("Loss recovered, layer 1", 3, {"extract_activations": 1, "train_sae": 1, "measure_sae": 2}),
        ("SAE of layer 2", 0, {"extract_activations": 1, "train_sae": 1, "measure_sae": 1}),
        ("Loss recovered, layer 2", 0, {"extract_activations": 1, "measure_sae": 1}),
    ],
)
def test_interrupted_work_goes_on_and_ends_with_the_same_files(train, whole, tmp_path, calls, what, after, left) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", progress=_cancel_during(what, after))
    calls.clear()
    assert train(tmp_path / "parts") == whole[1]
    assert calls == left
    assert _files(tmp_path / "parts") == _files(whole[0])


def test_an_sae_that_was_written_before_its_checkpoint_was_removed_is_trained_to_the_same_end(train, tmp_path) -> None:
    train(tmp_path / "whole", layers=(1,))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", layers=(1,), progress=_cancel_during("SAE of layer 1", 900))
    for name in ("cfg.json", "sae_weights.safetensors"):  # as if the kill had come between the two steps
        (tmp_path / "parts" / "layer_1" / name).write_bytes((tmp_path / "whole" / "layer_1" / name).read_bytes())
    train(tmp_path / "parts", layers=(1,))
    assert _files(tmp_path / "parts") == _files(tmp_path / "whole")


def test_a_further_layer_can_be_added(train, tmp_path, calls) -> None:
    one = train(tmp_path, layers=(1,))
    calls.clear()
    both = train(tmp_path, layers=(1, 2))
    assert both[1] == one[1] and calls == {"extract_activations": 1, "train_sae": 1, "measure_sae": 1}


@pytest.mark.parametrize("layers", [(4,), (1, 99), (-1,), (-1, 1)])
def test_a_layer_that_is_not_there_is_refused_before_any_work(train, tmp_path, calls, layers) -> None:
    with pytest.raises(SparseRMError, match="tiny-llama has layers 0 to 3; choose one of these"):
        train(tmp_path / "out", layers=layers)
    assert not calls and not (tmp_path / "out").exists()


def test_unfinished_work_of_another_recipe_is_refused(train, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=_cancel_during("SAE of layer 1", 600))
    with pytest.raises(SparseRMError, match="holds a checkpoint trained with"):
        train(tmp_path, recipe=replace(RECIPE, k=5))


def test_unfinished_work_on_another_corpus_is_refused(train, tmp_path, corpus_file) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out", progress=_cancel_during("SAE of layer 1", 600))
    other = tmp_path / "other.jsonl"
    other.write_text(corpus_file.read_text().replace("rain", "snow"))
    with pytest.raises(SparseRMError, match="holds activations with corpus"):
        train(tmp_path / "out", corpus_path=other)


def test_finished_work_of_another_recipe_or_backbone_is_refused(train, tmp_path, tiny_folder, calls) -> None:
    train(tmp_path / "out", layers=(1,))
    calls.clear()
    for changes, said in (({"d_sae": 50}, "d_sae 40, expected d_sae 50"), ({"lr": 1e-3}, "lr 0.004, expected lr 0.001")):
        with pytest.raises(SparseRMError, match=rf"layer_1 holds an SAE trained with {said}; give another folder"):
            train(tmp_path / "out", layers=(1, 2), recipe=replace(RECIPE, **changes))
    shutil.copytree(tiny_folder, tmp_path / "other")
    with pytest.raises(SparseRMError, match="model_name tiny-llama, expected model_name other"):
        train(tmp_path / "out", layers=(1,), backbone=str(tmp_path / "other"))
    assert not calls


def test_an_sae_without_a_recorded_recipe_is_refused(train, tmp_path) -> None:
    train(tmp_path, layers=(1,))
    cfg = json.loads((tmp_path / "layer_1" / "cfg.json").read_text())
    del cfg["metadata"]["recipe"]
    (tmp_path / "layer_1" / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(SparseRMError, match=r"layer_1 holds an SAE trained with d_sae None, k None.*expected d_sae 40, k 4"):
        train(tmp_path, layers=(1,))


def test_a_corpus_that_cannot_be_used_is_refused_before_any_work(train, tmp_path, calls) -> None:
    for content in ("{\n", '{"text": "one"}\n'):
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(SparseRMError, match=r"bad\.jsonl"):
            train(tmp_path / "out", corpus_path=tmp_path / "bad.jsonl")
    assert not calls and not (tmp_path / "out").exists()


def test_the_data_folder_lists_a_trained_sae_with_its_metrics(train, sparserm_home) -> None:
    from sparserm.sae.autoencoder import list_saes

    found = train(sparserm_home / "saes" / "mine", layers=(1,))
    info = {one.name: one for one in list_saes()}["mine/layer_1"]
    assert (info.layer, info.d_sae, info.architecture) == (1, 40, "jumprelu")
    assert info.metrics == found[1].to_dict()

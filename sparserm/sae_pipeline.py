"""From a corpus to measured SAEs: activations of several layers in one pass, one SAE after the other, metrics beside each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sparserm.activations import Corpus, extract_activations, read_corpus
from sparserm.backbone import Backbone, load_language_model
from sparserm.sae import load_sae
from sparserm.sae_evaluation import SAEQuality, evaluate_sae
from sparserm.sae_formats import read_json
from sparserm.sae_training import SAERecipe, train_sae
from sparserm.types import HookPoint, Progress, SparseRMError


def train_saes(
    corpus_path: Path,
    out: Path,
    *,
    layers: Sequence[int],
    backbone: str,
    n_tokens: int,
    recipe: SAERecipe,
    progress: Progress | None = None,
) -> dict[int, SAEQuality]:
    """Write ``out/layer_<l>`` with ``cfg.json``, ``sae_weights.safetensors`` and ``metrics.json`` for every layer.

    Interrupted work goes on where it was when this is called again with the same arguments: activations lie in
    ``out/activations`` until the last SAE is finished, and a layer that has its metrics is finished.

    Raises:
        SparseRMError: no such layer, an unusable corpus, or ``out`` holds work begun with other arguments.
    """
    corpus = read_corpus(corpus_path)
    model = Backbone.load(backbone, through_layer=max(layers), progress=progress)
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise SparseRMError(
                f"layer {layer} was asked for, but {model.name} has layers 0 to {model.n_layers - 1}; choose one of these"
            )
    hooks = [HookPoint(layer) for layer in layers]
    for layer in layers:
        _check_trained(out / f"layer_{layer}", recipe, model.name)
    unfinished = [hook for hook in hooks if not _metrics(out, hook).is_file()]
    if unfinished:
        cache = extract_activations(model, corpus, hooks, out / "activations", n_tokens=n_tokens, progress=progress)
        for hook in unfinished:
            folder = out / f"layer_{hook.layer}"
            if not (folder / "cfg.json").is_file() or (folder / "checkpoint").is_dir():
                train_sae(cache, hook, recipe, folder, model_name=model.name, progress=progress)
            measure_sae(folder, model, backbone, corpus, progress)
    shutil.rmtree(out / "activations", ignore_errors=True)
    return {hook.layer: SAEQuality(**json.loads(_metrics(out, hook).read_text())) for hook in hooks}


def measure_sae(folder: Path, model: Backbone, backbone: str, corpus: Corpus, progress: Progress | None) -> None:
    """Measure an SAE as it lies on disk, on the corpus's held-out text, and write its ``metrics.json``."""
    # The same text may stand among both parts of a corpus; then it is no test.
    seen = set(corpus.training)
    held_out = [one for one in corpus.held_out if one not in seen]
    language_model = load_language_model(backbone, progress=progress)
    quality = evaluate_sae(load_sae(folder), model, language_model, held_out, progress=progress)
    temporary = folder / "metrics.tmp"  # renamed when it is whole: its being there says that the layer is finished
    temporary.write_text(json.dumps(quality.to_dict(), indent=1) + "\n")
    os.replace(temporary, folder / "metrics.json")


def _check_trained(folder: Path, recipe: SAERecipe, model_name: str) -> None:
    """Refuse to take an SAE that was trained otherwise for one of this recipe."""
    if not (folder / "cfg.json").is_file():
        return
    cfg = read_json(folder / "cfg.json")
    metadata = cfg.get("metadata") or {}
    before = {"d_sae": cfg.get("d_sae"), "k": cfg.get("k"), "model_name": metadata.get("model_name")}
    before |= metadata.get("recipe") or {}  # which earlier versions did not write
    now = {**asdict(recipe), "model_name": model_name}
    if other := [name for name in before if before[name] != now.get(name)]:
        raise SparseRMError(
            f"{folder} holds an SAE trained with {', '.join(f'{name} {before[name]}' for name in other)}, expected "
            f"{', '.join(f'{name} {now.get(name)}' for name in other)}; give another folder, or remove this one"
        )


def _metrics(out: Path, hook: HookPoint) -> Path:
    return out / f"layer_{hook.layer}" / "metrics.json"

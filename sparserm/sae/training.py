"""SAE training from a text corpus: stored activations, one SAE per layer, and its quality on held-out text; resumable.

The SAEs are BatchTopK SAEs (Bussmann et al., 2024, arXiv 2412.06410), trained by SAELens's trainer: an auxiliary loss keeps
latents from dying, the input is scaled to norm sqrt(d_in) during training and the scale folded into the weights afterwards, the
decoder's bias starts at the activations' mean, and the learning rate decays to zero. They are saved as JumpReLU SAEs: whether a
latent fires then depends on its own threshold (:mod:`sparserm.sae.thresholds`), and not on what other latents do.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from sparserm.backbone.model import Backbone, load_language_model
from sparserm.sae import seeds
from sparserm.sae.activations import CONTEXT_SIZE, SINK, ActivationCache, Corpus, extract_activations, read_corpus
from sparserm.sae.autoencoder import FINGERPRINT, load_sae
from sparserm.sae.evaluation import SAEQuality, evaluate_sae
from sparserm.sae.formats import MAX_NORM, read_json
from sparserm.sae.thresholds import raise_thresholds
from sparserm.support.files import one_line, only_writer, replacing, require_only, write_json, write_text
from sparserm.support.parsing import parse_json, whole_number
from sparserm.types import HookPoint, Progress, SparseRMError

#: What may be in the folder of a run, and in that of a layer; hidden files are locks and temporary ones.
_RUN_FILES = ("layer_*/**", "activations/**", "README.md", ".*")
_SAE_FILES = ("cfg.json", "sae_weights.safetensors", "metrics.json", seeds.FILE, "checkpoint/**", "writing/**", ".*")

#: Measures of a finished SAE.
_METRICS = "metrics.json"

#: File that marks a checkpoint as complete, with the SHA-256 of the others; of earlier versions it is empty.
_COMPLETE = "complete"

#: Tokens from which the threshold of the latents is set.
CALIBRATION_TOKENS = 4096

#: Checkpoints written during training; the latest is kept.
CHECKPOINTS = 8


@dataclass(frozen=True)
class SAERecipe:
    """Hyperparameters of SAE training; the defaults were chosen by measurement on the default backbone.

    Attributes:
        d_sae: number of latents.
        k: latents active per token in training, on average; a third of them pass their own threshold afterwards (L0).
        epochs: passes over the cached activations.
        lr: Adam's learning rate after warm-up; it decays linearly to zero over the last half.
        batch_size: tokens per step.
        dead_after_steps: steps without firing after which the auxiliary loss counts a latent as dead.
        seed: of initialisation and shuffling.

    Raises:
        SparseRMError: a value is out of range.
    """

    d_sae: int = 4608
    k: int = 64
    epochs: int = 4
    lr: float = 8e-4
    batch_size: int = 512
    dead_after_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("d_sae", "k", "epochs", "batch_size", "dead_after_steps"):
            if (value := getattr(self, name)) < 1:
                raise SparseRMError(f"{name} of the SAE is {value}, expected 1 or more; choose a larger number")
        if self.k > self.d_sae:
            raise SparseRMError(
                f"k of the SAE is {self.k} active latents of {self.d_sae}, expected {self.d_sae} or fewer; choose a smaller k "
                "or a larger d_sae"
            )
        if not 0 < self.lr < math.inf:
            raise SparseRMError(f"lr of the SAE is {self.lr}, expected a number above 0; the default is {SAERecipe.lr}")


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
    """Train an SAE for every layer: ``out/layer_<l>`` with ``cfg.json``, ``sae_weights.safetensors`` and ``metrics.json``.

    An interrupted run resumes when this is called again with the same arguments: activations are in ``out/activations`` until
    the last SAE is finished, and a layer with metrics is finished.

    Raises:
        SparseRMError: a layer does not exist, the corpus cannot be used, ``out`` holds other files or a run with other
            arguments, or another run is writing to it.
    """
    require_only(out, _RUN_FILES, "a run of train-sae")
    for layer in layers:
        require_only(out / f"layer_{layer}", _SAE_FILES, "an SAE")
    corpus = read_corpus(corpus_path)
    wanted = {**asdict(recipe), "corpus": corpus.content_hash, "tokens": n_tokens}
    for layer in layers:
        _check_trained(out / f"layer_{layer}", wanted)
        _check_finished(out / f"layer_{layer}")
    model = Backbone.load(backbone, through_layer=max(layers), progress=progress)
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise SparseRMError(
                f"layer {layer} does not exist: {model.name} has layers 0 to {model.n_layers - 1}; choose one of these"
            )
    hooks = [HookPoint(layer) for layer in layers]
    for layer in layers:
        _check_trained(out / f"layer_{layer}", {"model_name": model.name})
    with only_writer(out):
        unfinished = [hook for hook in hooks if not (out / f"layer_{hook.layer}" / _METRICS).is_file()]
        if unfinished:
            cache = extract_activations(model, corpus, hooks, out / "activations", n_tokens=n_tokens, progress=progress)
            made_from = {"corpus": corpus.content_hash, "tokens": n_tokens}
            for hook in unfinished:
                folder = out / f"layer_{hook.layer}"
                if not (folder / "cfg.json").is_file() or (folder / "checkpoint").is_dir():
                    train_sae(cache, hook, recipe, folder, model_name=model.name, made_from=made_from, progress=progress)
                measure_sae(folder, model, backbone, corpus, progress)
        shutil.rmtree(out / "activations", ignore_errors=True)
    return {layer: _quality(out / f"layer_{layer}" / _METRICS) for layer in layers}


def train_sae(
    cache: ActivationCache,
    hook: HookPoint,
    recipe: SAERecipe,
    out: Path,
    *,
    model_name: str,
    made_from: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train one SAE and write it to ``out`` in SAELens's folder format, float16.

    An interrupted run resumes from its last checkpoint in ``out/checkpoint``, which is removed at the end.

    Args:
        made_from: what else to write down in its metadata.

    Returns:
        ``out``, with ``cfg.json`` and ``sae_weights.safetensors``.

    Raises:
        SparseRMError: ``out`` holds a checkpoint of another recipe, or there are fewer activations than one batch.
    """
    total = cache.n_tokens * recipe.epochs // recipe.batch_size * recipe.batch_size
    if total == 0:
        raise SparseRMError(
            f"{cache.n_tokens} tokens of activations are fewer than one batch of {recipe.batch_size}; give a larger corpus"
        )
    folder = out / "checkpoint"
    note = {**asdict(recipe), "n_tokens": cache.n_tokens}
    _check_recipe(folder, note)
    data = _Batches(cache.array(hook), recipe, f"SAE of layer {hook.layer} (tokens)", total, progress)
    trainer = _trainer(cache, hook, recipe, total, folder, data)
    write_json(folder / "recipe.json", note)
    _resume(trainer, folder, data)
    with contextlib.redirect_stderr(io.StringIO()):  # hides its progress bar, ours is shown
        sae = trainer.fit()
    sae.topk_threshold.fill_(_threshold(sae, cache.array(hook), recipe))
    sae.cfg.metadata.model_name = model_name
    sae.cfg.metadata.hook_name = hook.name
    sae.cfg.metadata.context_size = CONTEXT_SIZE
    sae.cfg.metadata.prepend_bos = False
    sae.cfg.metadata.training_tokens = total
    sae.cfg.metadata.recipe = asdict(recipe)
    setattr(sae.cfg.metadata, MAX_NORM, _max_norm(cache.array(hook), recipe.seed))
    for name, value in (made_from or {}).items():
        setattr(sae.cfg.metadata, name, value)
    (out / seeds.FILE).unlink(missing_ok=True)  # of an SAE that was here before
    # Written to another folder and renamed, so that a killed run leaves no partial SAE.
    work = out / "writing"
    sae.save_inference_model(work)
    _store_as_half(work)
    raise_thresholds(work, cache.array(hook))
    for name in ("sae_weights.safetensors", "cfg.json"):
        with replacing(out / name) as temporary:
            os.replace(work / name, temporary)
    shutil.rmtree(work)
    shutil.rmtree(folder, ignore_errors=True)
    return out


def measure_sae(folder: Path, model: Backbone, backbone: str, corpus: Corpus, progress: Progress | None) -> None:
    """Evaluate the SAE saved in ``folder`` on the corpus's held-out text and write ``metrics.json``."""
    language_model = load_language_model(backbone, progress=progress)
    quality = evaluate_sae(load_sae(folder), model, language_model, corpus.held_out, progress=progress)
    write_json(folder / _METRICS, quality.to_dict())  # written last: it marks the layer as finished


class _Batches(Iterator[torch.Tensor]):
    """Shuffled batches, in the same order for the same seed; set ``position`` (in tokens) to resume."""

    def __init__(self, activations: np.ndarray, recipe: SAERecipe, what: str, total: int, progress: Progress | None) -> None:
        self.activations = activations
        self.recipe = recipe
        self.what = what
        self.total = total
        self.progress = progress
        self.position = 0
        self._epoch = -1
        self._order = np.zeros(0, np.int64)

    def __next__(self) -> torch.Tensor:
        if self.progress:
            self.progress(min(self.position, self.total), self.total, self.what)
        rows: list[np.ndarray] = []
        needed = self.recipe.batch_size
        while needed:
            epoch, offset = divmod(self.position, len(self.activations))
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.activations))
            taken = self._order[offset : offset + needed]
            rows.append(self.activations[np.sort(taken)])  # sorted for sequential reads from disk
            self.position += len(taken)
            needed -= len(taken)
        return torch.from_numpy(np.concatenate(rows)).float()


def _trainer(cache: ActivationCache, hook: HookPoint, recipe: SAERecipe, total: int, folder: Path, data: _Batches) -> Any:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps = total // recipe.batch_size
    torch.manual_seed(recipe.seed)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=cache.d_in,
            d_sae=recipe.d_sae,
            k=recipe.k,
            normalize_activations="expected_average_only_in",
            decoder_init_norm=0.1,
        )
    )
    config = SAETrainerConfig(
        total_training_samples=total,
        train_batch_size_samples=recipe.batch_size,
        lr=recipe.lr,
        lr_end=0.0,
        lr_warm_up_steps=min(100, steps // 10),
        lr_decay_steps=steps // 2,
        dead_feature_window=recipe.dead_after_steps,
        n_checkpoints=CHECKPOINTS,
        checkpoint_path=str(folder),
    )
    trainer: Any = SAETrainer(
        cfg=config,
        sae=sae,
        data_provider=data,
        save_checkpoint_fn=lambda checkpoint_path: _only_latest(folder, checkpoint_path),
    )
    scale, mean, _ = _input_statistics(cache.array(hook), recipe.seed)
    trainer.activation_scaler.scaling_factor = scale
    # The mean makes up half of the squared norm; learning it from zero would take a thousand steps.
    sae.b_dec.data = torch.from_numpy(mean * scale)
    return trainer


def _input_statistics(activations: np.ndarray, seed: int) -> tuple[float, np.ndarray, float]:
    """The factor that scales the mean norm to sqrt(d_in) (estimated as in SAELens), the mean ``[d_in]``, the median norm."""
    n = min(len(activations), 50_000)
    rows = np.sort(np.random.default_rng(seed).choice(len(activations), n, replace=False))
    sample = activations[rows].astype(np.float32)
    norms = np.linalg.norm(sample, axis=1)
    return float(np.sqrt(sample.shape[1]) / norms.mean()), sample.mean(0), float(np.median(norms))


def _max_norm(activations: np.ndarray, seed: int) -> float:
    """The norm beyond which the latents do not fire: attention sinks were left out, of which they know nothing.

    It is :data:`~sparserm.sae.activations.SINK` times the median, or the largest of the training if that is larger: what a sink
    is was decided by the median of each part of the corpus.
    """
    largest = max(float(np.linalg.norm(part.astype(np.float32), axis=1).max()) for part in _parts(activations))
    return max(SINK * _input_statistics(activations, seed)[2], largest)


def _parts(activations: np.ndarray) -> Iterator[np.ndarray]:
    return (activations[at : at + 50_000] for at in range(0, len(activations), 50_000))


@torch.no_grad()
def _threshold(sae: Any, activations: np.ndarray, recipe: SAERecipe) -> float:
    """The threshold at which :attr:`SAERecipe.k` latents are active per token; SAELens's running estimate lags behind."""
    n = min(len(activations), CALIBRATION_TOKENS)
    rows = np.sort(np.random.default_rng(recipe.seed).choice(len(activations), n, replace=False))
    _, before = sae.encode_with_hidden_pre(torch.from_numpy(activations[rows]).float())
    strongest = before.relu().flatten().topk(min(recipe.k * n + 1, before.numel())).values
    return float(strongest[-2:].mean())  # between the last that is active and the first that is not


def _check_recipe(folder: Path, now: dict[str, Any]) -> None:
    """Refuse a checkpoint of another recipe or number of tokens."""
    path = folder / "recipe.json"
    if not path.is_file():
        return
    try:
        before = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SparseRMError(
            f"{path} cannot be read ({one_line(error)}); expected the recipe of an interrupted training; "
            f"remove {folder} to start again"
        ) from error
    if before != now:
        raise SparseRMError(
            f"{folder} holds a checkpoint trained with {before}, expected {now}; repeat that command, or remove the folder"
        )


def _check_trained(folder: Path, now: Mapping[str, Any]) -> None:
    """Refuse an SAE that was trained with another recipe, on another corpus or on another backbone."""
    if not (folder / "cfg.json").is_file():
        return
    metadata = read_json(folder / "cfg.json").get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    recipe = metadata.get("recipe")
    before = {**metadata, **(recipe if isinstance(recipe, dict) else {})}
    unknown = {"corpus", "tokens"} - before.keys()  # of an SAE of an earlier version
    if other := [name for name in now if name not in unknown and before.get(name) != now[name]]:
        raise SparseRMError(
            f"{folder} holds an SAE trained with {', '.join(f'{name} {one_line(before.get(name), 40)}' for name in other)}, "
            f"expected {', '.join(f'{name} {now[name]}' for name in other)}; give another folder, or remove this one"
        )


def _check_finished(folder: Path) -> None:
    """Refuse a finished SAE whose files are damaged.

    Raises:
        SparseRMError: its measures or its weights cannot be read, or it is not the SAE that was trained.
    """
    if not (folder / _METRICS).is_file():
        return
    _quality(folder / _METRICS)
    try:
        load_sae(folder)
    except SparseRMError as error:
        raise SparseRMError(
            f"{folder} holds a finished SAE that is damaged ({error}); expected its files as they were written; remove "
            f"{folder} to train it again"
        ) from error


def _quality(path: Path) -> SAEQuality:
    """Read the measures of a finished SAE.

    Raises:
        SparseRMError: the file is damaged.
    """
    try:
        found = SAEQuality(**parse_json(path.read_bytes()))
        if wrong := [name for name, value in vars(found).items() if type(value) not in (int, float)]:
            raise ValueError(f"{wrong[0]} is no number")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise SparseRMError(
            f"{path} cannot be read ({one_line(error)}); expected the measures of a finished SAE; remove the file to measure "
            "it again"
        ) from error


def _resume(trainer: Any, folder: Path, data: _Batches) -> None:
    """Load the latest complete checkpoint, if there is one.

    Raises:
        SparseRMError: the checkpoint is damaged.
    """
    saved = [path for path in folder.iterdir() if whole_number(path.name) is not None and (path / _COMPLETE).is_file()]
    if not saved:
        return
    latest = max(saved, key=lambda path: int(path.name))
    try:
        if (latest / _COMPLETE).read_text() not in ("", _digest(latest)):
            raise ValueError("its files have changed")
        trainer.load_trainer_state(latest)
        trainer.sae.load_weights_from_checkpoint(latest)
        if not 0 <= trainer.n_training_samples <= data.total:
            raise ValueError(f"it has seen {trainer.n_training_samples} of {data.total} tokens")
    except Exception as error:  # torch and safetensors raise errors of many kinds
        raise SparseRMError(
            f"the checkpoint {latest} cannot be read ({one_line(error)}); expected the files of an interrupted training; "
            f"remove {folder} to start again"
        ) from error
    trainer.n_training_steps = trainer.n_training_samples // trainer.cfg.train_batch_size_samples
    trainer.checkpoint_thresholds = [at for at in trainer.checkpoint_thresholds if at >= trainer.n_training_samples]
    data.position = trainer.n_training_samples


def _digest(checkpoint: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's files."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.iterdir()):
        if path.name != _COMPLETE:
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _only_latest(folder: Path, checkpoint: Path) -> None:
    """Mark a checkpoint as complete, then delete the older ones."""
    write_text(checkpoint / _COMPLETE, _digest(checkpoint))
    for path in folder.iterdir():
        if path.is_dir() and path != checkpoint:
            shutil.rmtree(path)


def _store_as_half(folder: Path) -> None:
    """Store the weights as float16, half the size; quality is measured on the reloaded SAE, so it includes the rounding."""
    weights = {name: tensor.half().contiguous() for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise SparseRMError("the trained weights do not fit float16 or are not finite; train with a lower lr")
    (folder / "sae_weights.safetensors").write_bytes(save(weights))  # save_file makes it readable by its owner only
    config = json.loads((folder / "cfg.json").read_text())
    config["dtype"] = "float16"
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))
    config["metadata"][FINGERPRINT] = load_sae(folder).fingerprint  # of the weights as stored
    (folder / "cfg.json").write_text(json.dumps(config, indent=1))

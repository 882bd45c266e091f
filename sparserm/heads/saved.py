"""Saved heads: a folder with ``config.json`` (card) and ``head.safetensors`` (tensors). Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sparserm.heads.reward import RewardHead
from sparserm.pairs.split import short_key
from sparserm.support.defaults import assets_dir, folder_note, home
from sparserm.support.files import write_bytes, write_text
from sparserm.types import HookPoint, PreferencePair, SparseRMError

#: Version of the file format.
FORMAT = 1
_STATISTICS = ("f_chosen", "f_rejected", "quantiles_chosen", "quantiles_rejected", "prompt_keys")
_TENSORS = ("features", "directions", "center", "mu", "sigma", "weights")

#: Required entries of ``config.json`` and their types.
_CONFIG_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "pooling": str,
    "bias": (int, float),
    "name": str,
    "backbone": str,
    "backbone_fingerprint": str,
    "hook": str,
    "sae": str,
    "sae_fingerprint": str,
    "d_sae": int,
    "labels": dict,
    "training": dict,
    "metrics": dict,
}


@dataclass(frozen=True)
class HeadCard:
    """Metadata of a head: the models it is valid for, training data, metrics and labels.

    Attributes:
        name: displayed name.
        backbone, backbone_fingerprint: the only language model the head may be used with.
        hook: TransformerLens name of the hook point.
        sae, sae_fingerprint, d_sae: the SAE that its features come from, and the number of latents.
        training: source, pairs, prompts, content hash and licence of the training data, and the settings of the fit.
        metrics: test results; empty if it was not evaluated.
        labels: labels of its features, by feature id.
        versions: versions of the libraries it was made with.
    """

    name: str
    backbone: str
    backbone_fingerprint: str
    hook: str
    sae: str
    sae_fingerprint: str
    d_sae: int
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def backbone_source(self) -> str:
        """Where to load the backbone from: the folder last used on this machine, else the backbone's name."""
        note = folder_note(Path(self.backbone_fingerprint).name)
        folder = note.read_text() if note.is_file() else ""
        return folder if folder and Path(folder).is_dir() else self.backbone

    @property
    def hook_point(self) -> HookPoint:
        """The hook point at which the representation is read."""
        return HookPoint.parse(self.hook)

    def require_backbone(self, name: str, fingerprint: str) -> None:
        """Refuse any other language model than the head's own: rewards computed with it would mean nothing.

        Raises:
            SparseRMError: the fingerprints differ.
        """
        if self.backbone_fingerprint != fingerprint:
            raise SparseRMError(
                f"head {self.name!r} was trained on backbone {self.backbone} ({self.backbone_fingerprint}), got {name} "
                f"({fingerprint}); choose that backbone, or train a head on this one"
            )


@dataclass(frozen=True)
class SavedHead:
    """A head with its card and statistics of its training responses.

    Attributes:
        f_chosen, f_rejected: ``[K]`` activation frequencies of its features.
        quantiles_chosen, quantiles_rejected: ``[101]`` percentiles of the training responses' rewards.
        prompt_keys: ``[n]`` int64 hashes of the training prompts, to detect test pairs whose prompt was trained on.
    """

    head: RewardHead
    card: HeadCard
    f_chosen: np.ndarray
    f_rejected: np.ndarray
    quantiles_chosen: np.ndarray
    quantiles_rejected: np.ndarray
    prompt_keys: np.ndarray

    def trained_on(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """``[n]`` bool, whether the prompt of each pair is one of the training prompts."""
        return np.isin([short_key(pair.prompt) for pair in pairs], self.prompt_keys)

    @property
    def least_reward(self) -> float:
        """The lowest reward of the training responses, given to empty responses, which a policy can generate."""
        return float(min(self.quantiles_chosen[0], self.quantiles_rejected[0]))


def head_hash(saved: SavedHead) -> str:
    """8 hex digits that identify a head by what determines its rewards: tensors, bias, pooling, hook and fingerprints.

    Name, labels, metrics and training data do not count, so that links stay valid when a label is edited.
    """
    card = saved.card
    digest = hashlib.sha256()
    for name in _TENSORS:
        tensor = np.ascontiguousarray(getattr(saved.head, name))
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape} ".encode() + tensor.tobytes())
    rest = [float(saved.head.bias), saved.head.pooling, card.hook, card.backbone_fingerprint, card.sae_fingerprint]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()[:8]


def list_heads() -> dict[str, Path]:
    """Folders of the heads available by name: the shipped ones, then those in ``SPARSERM_HOME/heads``."""
    found: dict[str, Path] = {}
    for root in (assets_dir() / "heads", home() / "heads"):
        for folder in sorted(root.glob("[!.]*")) if root.is_dir() else ():
            if (folder / "config.json").is_file():
                found.setdefault(folder.name, folder)
    return found


def find_head(source: str | Path) -> Path:
    """The folder of a head given by path or name.

    Raises:
        SparseRMError: there is no such head.
    """
    folder = Path(source).expanduser()
    if (folder / "config.json").is_file():
        return folder
    heads = list_heads()
    if str(source) in heads:
        return heads[str(source)]
    raise SparseRMError(
        f"no head {str(source)!r}: expected a folder with config.json and head.safetensors, or one of "
        f"{', '.join(heads) or '(none found)'}; `sparserm heads` lists them"
    )


def load_head(source: str | Path) -> SavedHead:
    """Load a head from a folder, or a shipped or saved head by name.

    Raises:
        SparseRMError: there is no such head, or its files are invalid.
    """
    folder = find_head(source)
    try:
        config, tensors = (folder / "config.json").read_bytes(), (folder / "head.safetensors").read_bytes()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return parse_head(config, tensors, folder)


def parse_head(config_json: bytes, safetensors: bytes, folder: Path) -> SavedHead:
    """Parse a head from the bytes of its two files; ``folder`` is named in error messages.

    Raises:
        SparseRMError: the files are invalid.
    """
    try:
        config = json.loads(config_json.decode("utf-8"), parse_constant=_refuse_constant)
        tensors = load(safetensors)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    _check(folder, config, tensors)
    head = RewardHead(**{name: tensors[name] for name in _TENSORS}, bias=float(config["bias"]), pooling=config["pooling"])
    fields = {name: config[name] for name in HeadCard.__dataclass_fields__ if name in config}
    fields["labels"] = {int(feature): label for feature, label in fields.get("labels", {}).items()}
    return SavedHead(head, HeadCard(**fields), **{name: tensors[name] for name in _STATISTICS})


def save_head(saved: SavedHead, folder: Path) -> None:
    """Write a head to a folder; each file is written to a temporary one and renamed.

    Raises:
        SparseRMError: the head has values that :func:`load_head` would refuse.
    """
    tensors = {name: np.ascontiguousarray(getattr(saved.head, name)) for name in _TENSORS}
    for name in _STATISTICS:
        tensors[name] = np.ascontiguousarray(getattr(saved, name))
    _check_tensors(folder / "head.safetensors", tensors)
    write_bytes(folder / "head.safetensors", save(tensors))  # a file of save_file is readable by its owner only
    config = {
        "format": FORMAT,
        "model_type": "sparserm",
        "pooling": saved.head.pooling,
        "bias": saved.head.bias,
        "features": saved.head.features.tolist(),
        **asdict(saved.card),
    }
    write_text(folder / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")


def _unreadable(folder: Path, error: Exception) -> SparseRMError:
    return SparseRMError(
        f"{folder} cannot be read as a head ({error}); expected config.json and head.safetensors as `sparserm train` "
        "writes them; train it again or download it again"
    )


def _refuse_constant(name: str) -> None:
    """Refuse NaN and infinity, which Python's JSON parser accepts."""
    raise ValueError(f"{name} is not a number")


def _check(folder: Path, config: Any, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse files that would silently give wrong rewards."""
    if not isinstance(config, dict) or (missing := [name for name in _CONFIG_TYPES if name not in config]):
        what = f"lacks {', '.join(missing)}" if isinstance(config, dict) else "is not an object"
        raise SparseRMError(f"{folder / 'config.json'} {what}; expected the configuration of a head; train it again")
    for name, kind in _CONFIG_TYPES.items():
        if not isinstance(config[name], kind):
            raise SparseRMError(
                f"{folder / 'config.json'}: {name} is {config[name]!r}, a value of the wrong type; train the head again"
            )
    if config["format"] != FORMAT or config["pooling"] not in ("last", "mean") or not np.isfinite(config["bias"]):
        raise SparseRMError(
            f"{folder} has format {config['format']}, pooling {config['pooling']!r}, bias {config['bias']}; expected format "
            f"{FORMAT}, pooling last or mean and a finite bias; use the version of sparserm that wrote it, or train it again"
        )
    try:
        HookPoint.parse(config["hook"])
    except SparseRMError as error:
        raise SparseRMError(f"{folder / 'config.json'}: {error}") from error
    if not all(key.isdigit() and isinstance(label, str) for key, label in config.get("labels", {}).items()):
        raise SparseRMError(f"{folder / 'config.json'}: labels must be texts by feature id; fix or remove them")
    _check_tensors(folder / "head.safetensors", tensors)
    features = tensors["features"]
    if features.dtype.kind not in "iu" or (len(features) and not 0 <= features.min() <= features.max() < config["d_sae"]):
        raise SparseRMError(
            f"{folder / 'head.safetensors'}: features must be latent ids from 0 to {config['d_sae'] - 1}; train the head again"
        )


def _check_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    wanted = (*_TENSORS, *_STATISTICS)
    if missing := [name for name in wanted if name not in tensors]:
        raise SparseRMError(f"{path} lacks {', '.join(missing)}; train the head again")
    k, d = tensors["directions"].shape if tensors["directions"].ndim == 2 else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {
        name: (k,) for name in ("features", "mu", "sigma", "weights", "f_chosen", "f_rejected")
    }
    shapes |= {"center": (d,), "quantiles_chosen": (101,), "quantiles_rejected": (101,)}
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise SparseRMError(f"{path}: {name} has shape {tensors[name].shape}, expected {shape}; train the head again")
    for name in wanted:
        if not np.isfinite(tensors[name]).all():
            raise SparseRMError(f"{path}: {name} holds values that are not finite; train the head again")
    if (tensors["sigma"] <= 0).any():
        raise SparseRMError(f"{path}: sigma has values that are not positive; train the head again")

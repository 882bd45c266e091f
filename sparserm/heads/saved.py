"""Saved heads: a folder with ``config.json`` (card) and ``head.safetensors`` (tensors). Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sparserm.heads.checks import (
    FORMAT,
    GATED_FORMAT,
    MAX_CONFIG,
    OPTIONAL,
    STATISTICS,
    TENSORS,
    check_config,
    check_tensors,
    encoder_tensors,
)
from sparserm.heads.reward import Encoder, RewardHead
from sparserm.pairs.split import short_key
from sparserm.support.defaults import HEAD_FILES, assets_dir, home, noted_folder
from sparserm.support.files import foreign_entry, interrupted_replacement, one_line, replacing_folder, write_bytes
from sparserm.support.hub import HubName, hub_problem
from sparserm.support.parsing import given_path, parse_json
from sparserm.types import HookPoint, PreferencePair, SparseRMError

if TYPE_CHECKING:
    from sparserm.sae.autoencoder import SparseAutoencoder

FILES = ("config.json", "head.safetensors")
#: How the features of a gated head are encoded, besides the weights.
_ENCODER_FACTS = ("architecture", "normalize_activations", "apply_b_dec_to_input")
#: Facts in ``config.json`` that a reward depends on, besides the tensors.
_FACTS = ("bias", "pooling", "hook", "backbone_fingerprint", "sae_fingerprint", "d_sae")


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
        folder = noted_folder(Path(self.backbone_fingerprint).name)
        return str(folder) if folder else self.backbone

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
                f"head {one_line(self.name)!r} was trained on backbone {self.backbone} ({self.backbone_fingerprint}), got "
                f"{name} ({fingerprint}); choose that backbone, or train a head on this one"
            )


@dataclass(frozen=True)
class SavedHead:
    """A head with its card and statistics of its training responses.

    Attributes:
        f_chosen, f_rejected: ``[K]`` activation frequencies of its features.
        quantiles_chosen, quantiles_rejected: ``[101]`` percentiles of the training responses' rewards.
        prompt_keys: ``[n]`` int64 hashes of the training prompts, to detect test pairs whose prompt was trained on.
        selected: as in :class:`~sparserm.heads.fitting.FittedHead`; None also for heads of earlier versions.
    """

    head: RewardHead
    card: HeadCard
    f_chosen: np.ndarray
    f_rejected: np.ndarray
    quantiles_chosen: np.ndarray
    quantiles_rejected: np.ndarray
    prompt_keys: np.ndarray
    selected: np.ndarray | None = None

    @property
    def saes(self) -> dict[HookPoint, SparseAutoencoder | None]:
        """What :func:`~sparserm.representations.represent.represent` has to compute for this head: the latents that gate its
        scores; none for projections, and for last pooling, where the representation tells what fires."""
        return {self.card.hook_point: self.head.gate if self.head.pooling == "mean" else None}

    @property
    def n_sure(self) -> int | None:
        """Number of features that surely differ between chosen and rejected training responses; None for projections."""
        n_sure = self.card.training.get("n_sure")
        return n_sure if isinstance(n_sure, int) else None

    @property
    def width(self) -> int:
        """Width of the representations that the head reads."""
        return self.head.directions.shape[1]

    def require_width(self, d_model: int) -> None:
        """Refuse a head whose directions do not fit its backbone, as that of a head put together by hand.

        Raises:
            SparseRMError: the widths differ.
        """
        if self.width != d_model:
            raise SparseRMError(
                f"head {one_line(self.card.name)!r} reads representations of width {self.width}, but backbone "
                f"{self.card.backbone} has width {d_model}; download the head again or train it again"
            )

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
    rest: list[Any] = [float(saved.head.bias), saved.head.pooling, card.hook, card.backbone_fingerprint, card.sae_fingerprint]
    if saved.head.encoder:
        rest.append(_encoder_facts(saved.head.encoder))
    return _digest({name: getattr(saved.head, name) for name in TENSORS} | _encoder_tensors(saved.head), rest)[:8]


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

    ``USER/NAME`` or ``USER/NAME@REVISION`` is downloaded from the Hugging Face Hub, unless there is a folder ``USER`` here:
    then it is a path.

    Raises:
        SparseRMError: there is no such head.
    """
    folder = given_path(source)
    if (folder / "config.json").is_file():
        return folder
    heads = list_heads()
    if str(source) in heads:
        return heads[str(source)]
    if (old := interrupted_replacement(folder)) is not None:
        raise SparseRMError(
            f"head {folder} was being replaced when a process was killed; the old head is in {old}; move it back to {folder}, "
            "or save the new one again"
        )
    expected = (
        f"expected a folder with config.json and head.safetensors, or one of {', '.join(heads) or '(none found)'}; `sparserm "
        "heads` lists them"
    )
    asked = _hub_name(source)
    if asked is not None and not folder.exists() and not Path(asked.repository).parent.is_dir():
        return _download_head(asked, expected)
    raise SparseRMError(f"no head {one_line(source)!r}: {expected}")


def head_name(source: str | Path) -> str:
    """What to call a head given by path or name: the name of its folder, or of its repository on the Hub.

    Raises:
        SparseRMError: there is no such head.
    """
    folder = find_head(source)
    asked = None if given_path(source).is_dir() else _hub_name(source)
    return str(asked).partition("/")[2] if asked is not None else folder.resolve().name


def _hub_name(source: str | Path) -> HubName | None:
    asked = HubName.parse(str(source))
    return asked if asked is not None and asked.owned else None


def _download_head(asked: HubName, expected: str) -> Path:
    """Download the head in a repository of the Hub: at its top, or in ``head`` beside an exported classifier."""
    from huggingface_hub import snapshot_download

    patterns = [*FILES, *(f"head/{file}" for file in FILES)]
    try:
        found = Path(snapshot_download(asked.repository, revision=asked.revision, allow_patterns=patterns))
    except Exception as error:  # the Hub's client raises many types of error
        raise SparseRMError(
            f"no head {str(asked)!r}: it is not on this machine, and cannot be downloaded from the Hugging Face Hub: "
            f"{hub_problem(error, str(asked))}; {expected}"
        ) from error
    for folder in (found / "head", found):
        if (folder / FILES[1]).is_file():
            return folder
    raise SparseRMError(
        f"the repository {asked} of the Hugging Face Hub holds no head; expected {' and '.join(FILES)}, as `sparserm export "
        "--push-to-hub` writes them; check the name"
    )


def load_head(source: str | Path) -> SavedHead:
    """Load a head from a folder, a shipped or saved head by name, or one of the Hugging Face Hub (``USER/NAME``, or
    ``USER/NAME@REVISION``).

    Raises:
        SparseRMError: there is no such head, or its files are invalid.
    """
    folder = find_head(source)
    return read_files(folder, folder)


def read_files(folder: Path, shown: Path) -> SavedHead:
    """Read the two files of a head; ``shown`` is named in error messages in place of the folder.

    Raises:
        SparseRMError: they cannot be read, or are invalid.
    """
    try:
        config, tensors = ((folder / name).read_bytes() for name in FILES)
    except OSError as error:
        missing = Path(error.filename or "").name
        raise _unreadable(shown, f"{missing}: {error.strerror or type(error).__name__}") from error
    return parse_head(config, tensors, shown)


def parse_head(config_json: bytes, safetensors: bytes, folder: Path) -> SavedHead:
    """Parse a head from the bytes of its two files; ``folder`` is named in error messages.

    Raises:
        SparseRMError: the files are invalid.
    """
    if len(config_json) > MAX_CONFIG:
        raise _unreadable(folder, f"config.json has {len(config_json):,} bytes, expected at most {MAX_CONFIG:,}")
    try:
        config = parse_json(config_json)
        tensors = load(safetensors)
    except (ValueError, KeyError, SafetensorError) as error:  # KeyError: a type of numbers that NumPy lacks
        raise _unreadable(folder, error) from error
    _check(folder, config, tensors)
    head = RewardHead(
        **{name: tensors[name] for name in TENSORS},
        bias=float(config["bias"]),
        pooling=config["pooling"],
        encoder=_read_encoder(config, tensors) if config["format"] == GATED_FORMAT else None,
        families=tensors.get("families"),
    )
    fields = {name: config[name] for name in HeadCard.__dataclass_fields__ if name in config}
    fields["labels"] = {int(feature): label for feature, label in config["labels"].items()}
    statistics = {name: tensors[name] for name in STATISTICS}
    return SavedHead(head, HeadCard(**fields), **statistics, selected=tensors.get("selected"))


def _read_encoder(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Encoder:
    """The encoder of a gated head from its checked files."""
    return Encoder(
        hook=HookPoint.parse(config["hook"]),
        sae_fingerprint=config["sae_fingerprint"],
        d_sae=config["d_sae"],
        **{name: config["encoder"][name] for name in _ENCODER_FACTS},
        weights={name.removeprefix("encoder."): tensors[name] for name in encoder_tensors(config)},
        max_norm=config["encoder"].get("max_norm"),
    )


def _encoder_facts(encoder: Encoder) -> dict[str, Any]:
    limit = {} if encoder.max_norm is None else {"max_norm": encoder.max_norm}
    return {name: getattr(encoder, name) for name in _ENCODER_FACTS} | limit


def _encoder_tensors(head: RewardHead) -> dict[str, np.ndarray]:
    weights = head.encoder.weights if head.encoder else {}
    return {f"encoder.{name}": weights[name] for name in sorted(weights)}


def save_head(saved: SavedHead, folder: Path) -> None:
    """Write a head to a folder, replacing the head that is there.

    A folder that holds nothing else but a README is replaced as a whole, so that it never mixes two heads. In other folders
    each file is replaced; after a crash in between, :func:`load_head` refuses the head.

    Raises:
        SparseRMError: the head has values that :func:`load_head` would refuse, or ``folder`` is a file.
    """
    files = head_files(saved)
    if _holds_more(folder):
        for name, data in files.items():
            write_bytes(folder / name, data)
        return
    with replacing_folder(folder, replace=True) as new:
        if folder.is_dir():
            shutil.copytree(folder, new, dirs_exist_ok=True)
        for name, data in files.items():
            (new / name).write_bytes(data)


def head_files(saved: SavedHead) -> dict[str, bytes]:
    """The two files of a head by name.

    ``sha256`` in ``config.json`` covers the tensors, what else a reward depends on, metrics and training; it is checked when
    the head is loaded. The other entries, such as labels, may be edited by hand.

    Raises:
        SparseRMError: the head has values that :func:`load_head` would refuse.
    """
    tensors = {name: np.ascontiguousarray(getattr(saved.head, name)) for name in TENSORS}
    tensors |= {name: np.ascontiguousarray(getattr(saved, name)) for name in STATISTICS}
    tensors |= {name: np.ascontiguousarray(weight) for name, weight in _encoder_tensors(saved.head).items()}
    optional = {"selected": saved.selected, "families": saved.head.families}
    tensors |= {name: np.ascontiguousarray(values) for name, values in optional.items() if values is not None}
    encoder = saved.head.encoder
    config = {
        "format": GATED_FORMAT if encoder else FORMAT,
        "model_type": "sparserm",
        **({"score": saved.head.score, "encoder": _encoder_facts(encoder)} if encoder else {}),
        "pooling": saved.head.pooling,
        "bias": float(saved.head.bias),
        "features": saved.head.features.tolist(),
        **asdict(saved.card),
    }
    text = json.dumps({**config, "sha256": _content_hash(config, tensors)}, indent=1, ensure_ascii=False) + "\n"
    shown = Path(one_line(saved.card.name, 80))
    try:
        data = text.encode()
        parsed = parse_json(data)
    except ValueError as error:
        raise SparseRMError(f"the card of head {shown} cannot be saved ({error}); correct it") from error
    _check(shown, parsed, tensors)
    return {"config.json": data, "head.safetensors": save(tensors)}


def _holds_more(folder: Path) -> bool:
    """Whether a folder holds more than a head, or is one to leave in place: a link, a mount point, the current folder."""
    if not folder.is_dir():
        return False
    linked, folder = folder.is_symlink(), folder.resolve()
    return (
        linked
        or foreign_entry(folder, HEAD_FILES) is not None
        or os.path.ismount(folder)
        or Path.cwd().is_relative_to(folder)
        or not os.access(folder.parent, os.W_OK)
    )


def _unreadable(folder: Path, reason: object) -> SparseRMError:
    return SparseRMError(
        f"{folder} cannot be read as a head ({one_line(reason)}); expected config.json and head.safetensors as "
        "`sparserm train` writes them; train it again or download it again"
    )


def _check(folder: Path, config: Any, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse files that would give wrong rewards or fail later."""
    check_config(folder / "config.json", config)
    check_tensors(folder / "head.safetensors", tensors, config)
    if "features" in config and config["features"] != tensors["features"].tolist():
        raise SparseRMError(
            f"{folder}: the features in config.json are not those in head.safetensors; expected the two files of one head; "
            "download it again or train it again"
        )
    # Heads saved by earlier versions have no hash.
    if "sha256" in config and config["sha256"] != _content_hash(config, tensors):
        raise SparseRMError(
            f"{folder} is not as it was saved: the tensors, {', '.join(_FACTS)}, metrics or training do not match sha256 in "
            "config.json; expected the two files of one head, unchanged; download it again or train it again"
        )


def _content_hash(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over all tensors, what else a reward depends on, and the figures of the head; 64 hex digits."""
    facts = [float(config["bias"]), *(config[name] for name in _FACTS[1:])]
    facts.append(json.loads(json.dumps([config["metrics"], config["training"]])))  # as it is read from a file
    if config["format"] == GATED_FORMAT:
        facts.append({name: value for name, value in config["encoder"].items() if name in (*_ENCODER_FACTS, "max_norm")})
    optional = [name for name in OPTIONAL if name in tensors]
    return _digest({name: tensors[name] for name in (*TENSORS, *STATISTICS, *encoder_tensors(config), *optional)}, facts)


def _digest(tensors: Mapping[str, np.ndarray], facts: list[Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        values = np.ascontiguousarray(tensor)
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode() + values.tobytes())
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()

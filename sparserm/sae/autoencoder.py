"""Sparse autoencoders for inference, loaded from folders without importing SAELens or from SAELens's registry.

:mod:`sparserm.sae.formats` reads the folders. A parity test compares encode and decode with SAELens's for every architecture.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparserm.sae.formats import (
    SAELENS_WEIGHTS,
    SPARSIFY_WEIGHTS,
    SAEConfig,
    read_config,
    read_json,
    read_weights,
    saelens_config,
    saelens_weights,
)
from sparserm.support.defaults import assets_dir, home
from sparserm.support.files import one_line
from sparserm.support.hub import HubName, cache_if_unreachable, hub_problem
from sparserm.support.parsing import given_path
from sparserm.types import HookPoint, SparseRMError

#: Key of the fingerprint in the metadata of SAEs that were trained here; it is checked when they are loaded.
FINGERPRINT = "sparserm_fingerprint"


@dataclass(frozen=True)
class PartOf:
    """Which latents of which SAE a part has.

    Attributes:
        fingerprint, d_sae: of the whole SAE.
        latents: ids of the part's latents in it, ascending.
    """

    fingerprint: str
    d_sae: int
    latents: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """An SAE for inference; immutable and stateless, so threads may share it.

    Attributes:
        name: the name or folder that it was loaded by.
        architecture: one of :data:`~sparserm.sae.formats.ARCHITECTURES`.
        hook: where its input is read.
        model_name: the language model named in its metadata.
        weights: float32; ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]`` and, by architecture, ``b_enc``,
            ``threshold``, ``b_gate``, ``b_mag``, ``r_mag`` (``[d_sae]`` each).
        k: latents active per token, for ``topk``.
        normalize_activations: how the input is normalised, and the reconstruction back; one of
            :data:`~sparserm.types.NORMALISATIONS`.
        apply_b_dec_to_input: whether ``b_dec`` is subtracted from the input first.
        rescale_acts_by_decoder_norm: whether ``topk`` encodes as if the decoder's rows had norm one.
        max_norm: norm of an input above which no latent fires: that of an attention sink, which the SAE was not trained on and
            leaves as it is; None for no limit.
        metadata: metadata of its training.
        part_of: the SAE that this is a part of, see :meth:`part`; None for a whole one.
    """

    name: str
    architecture: str
    hook: HookPoint
    model_name: str
    weights: Mapping[str, Tensor]
    k: int | None = None
    normalize_activations: str = "none"
    apply_b_dec_to_input: bool = True
    rescale_acts_by_decoder_norm: bool = False
    max_norm: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    part_of: PartOf | None = None

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.weights["W_dec"].shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.weights["W_dec"].shape[0]

    @property
    def b_dec(self) -> Tensor:
        """``[d_in]``, the bias of the decoder."""
        return self.weights["b_dec"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that encode and decode depend on (16 hex digits); not over the name."""
        # Earlier versions called the output of the MLP what it adds: heads of theirs have to find their SAE.
        hook = replace(self.hook, site="mlp_out") if self.hook.site == "mlp" else self.hook
        facts = [self.architecture, hook.name, self.k, self.normalize_activations, self.apply_b_dec_to_input]
        limit = [] if self.max_norm is None else [self.max_norm]
        digest = hashlib.sha256(json.dumps([*facts, self.rescale_acts_by_decoder_norm, *limit]).encode())
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(self.weights[name].cpu().contiguous().numpy().reshape(-1).data)
        return digest.hexdigest()[:16]

    @functools.cached_property
    def norms(self) -> Tensor:
        """``[d_sae]`` norms of the decoder's rows. Only they are kept: rows of norm one would be a third large matrix."""
        if self.part_of:  # they have norm one, and would change in the last digit
            return torch.ones(self.d_sae, device=self.b_dec.device)
        return self.weights["W_dec"].norm(dim=-1).clamp(min=1e-12)

    def directions(self, latents: Sequence[int] | np.ndarray | None = None) -> Tensor:
        """``[n, d_in]``: decoder rows of norm one, of some latents or of all, which takes as much memory as the decoder."""
        rows = slice(None) if latents is None else torch.as_tensor(np.asarray(latents, np.int64))
        return self.weights["W_dec"][rows] / self.norms[rows, None]

    def project(self, x: Tensor) -> Tensor:
        """``[..., d_sae]`` projections of ``x - b_dec`` on the latents' directions."""
        return ((x - self.b_dec) @ self.weights["W_dec"].T).div_(self.norms)

    @property
    def separable(self) -> bool:
        """Whether a latent fires by its own threshold alone, so that :meth:`part` needs no other latents; not so for TopK."""
        return self.architecture != "topk"

    def require_separable(self) -> None:
        """Refuse an SAE whose latents cannot be computed one by one.

        Raises:
            SparseRMError: whether a latent fires depends on the others.
        """
        if not self.separable:
            raise SparseRMError(
                f"SAE {self.name} is a TopK SAE, in which a latent fires if it is among the k largest; expected one with a "
                'threshold for each latent; use the score "projection", or another SAE (`sparserm train-sae` trains one)'
            )

    def part(self, latents: Sequence[int]) -> SparseAutoencoder:
        """Some latents of this SAE, for encoding: they fire where they do in the whole one. Decoder rows have norm one.

        Args:
            latents: ids, ascending.

        Raises:
            SparseRMError: whether a latent fires depends on the others.
        """
        self.require_separable()
        rows = torch.as_tensor(list(latents), dtype=torch.int64)
        weights = {name: weight[rows] for name, weight in self.weights.items() if name not in ("W_enc", "W_dec", "b_dec")}
        weights |= {"W_enc": self.weights["W_enc"][:, rows], "W_dec": self.directions(latents), "b_dec": self.b_dec}
        weights = {name: weight.cpu().contiguous() for name, weight in weights.items()}
        return replace(self, weights=weights, part_of=PartOf(self.fingerprint, self.d_sae, tuple(map(int, latents))))

    def encoder_of(self, latents: Iterable[int]) -> tuple[SparseAutoencoder, dict[int, int]]:
        """An SAE that encodes some latents, only these where it is :attr:`separable`, and the column of each."""
        ordered = sorted(set(latents))
        if not self.separable or len(ordered) == self.d_sae:
            return self, {latent: latent for latent in ordered}
        return self.part(ordered), {latent: column for column, latent in enumerate(ordered)}

    def to(self, device: torch.device) -> SparseAutoencoder:
        """This SAE with its weights on a device; inputs must be on the same one."""
        if all(weight.device == device for weight in self.weights.values()):
            return self
        return replace(self, weights={name: weight.to(device) for name, weight in self.weights.items()})

    def encode(self, x: Tensor) -> Tensor:
        """Latent activations ``[..., d_sae]`` of ``x [..., d_in]``."""
        x = x.float()
        z = self._encode(self._normalise(x)[0])
        return z if self.max_norm is None else z.masked_fill_(self._beyond(x), 0)

    def decode(self, z: Tensor) -> Tensor:
        """``[..., d_in]`` from ``z [..., d_sae]``, in the space of the normalised input."""
        if self.rescale_acts_by_decoder_norm:
            z = z / self.norms
        return z @ self.weights["W_dec"] + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """``[..., d_in]``: encoded, decoded and rescaled to the scale of ``x``; beyond :attr:`max_norm` as it was."""
        x = x.float()
        normalised, shift, scale = self._normalise(x)
        found = self.decode(self._encode(normalised)) * scale + shift
        return found if self.max_norm is None else torch.where(self._beyond(x), x, found)

    def _beyond(self, x: Tensor) -> Tensor:
        """``[..., 1]`` bool, which inputs have a larger norm than :attr:`max_norm`."""
        assert self.max_norm is not None
        return x.norm(dim=-1, keepdim=True) > self.max_norm

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The normalised input, and the shift and scale that undo it, as SAELens computes them."""
        if self.normalize_activations == "layer_norm":
            mean = x.mean(dim=-1, keepdim=True)
            centred = x - mean
            std = centred.std(dim=-1, keepdim=True)
            return centred / (std + 1e-5), mean, std
        if self.normalize_activations == "constant_norm_rescale":
            factor = self.d_in**0.5 / x.norm(dim=-1, keepdim=True)
            return x * factor, 0.0, 1 / factor
        return x, 0.0, 1.0

    def _encode(self, x: Tensor) -> Tensor:
        w = self.weights
        if self.apply_b_dec_to_input:
            x = x - w["b_dec"]
        if self.architecture == "gated":
            pre = x @ w["W_enc"]
            return ((pre + w["b_gate"]) > 0) * torch.relu(pre * w["r_mag"].exp() + w["b_mag"])
        pre = (x @ w["W_enc"]).add_(w["b_enc"])  # in place: of many tokens and latents each copy may be gigabytes
        if self.architecture == "standard":
            return pre.relu_()
        if self.architecture == "jumprelu":
            fires = pre > w["threshold"]
            return pre.relu_().mul_(fires)
        if self.rescale_acts_by_decoder_norm:
            pre = pre * self.norms
        top = pre.topk(min(self.k or 1, self.d_sae), dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())


@dataclass(frozen=True)
class SAEInfo:
    """Description of an SAE that can be loaded by name, without its weights."""

    name: str
    path: Path
    hook: str
    layer: int
    d_sae: int
    architecture: str
    metrics: Mapping[str, float]
    model_name: str = ""


def load_sae(source: str | Path, *, may_download: bool = True) -> SparseAutoencoder:
    """Load an SAE from a folder, by name, or from SAELens's registry.

    Args:
        source: a folder in SAELens's or sparsify's format, a name in :func:`list_saes` (``smollm2/layer_15``),
            ``release:sae_id`` of the registry (or ``release/sae_id``), or ``user/repository:folder`` of the Hugging Face Hub,
            where the folder is like one on this machine; ``user/repository@revision:folder`` for a branch, tag or commit.
        may_download: whether it may be downloaded; false for a name that nobody gave but a head, which may come from a
            stranger.

    Raises:
        SparseRMError: the SAE does not exist, or its kind is not supported.
    """
    folder = given_path(source)
    if folder.suffix in (".pt", ".pth", ".bin", ".pkl", ".npz"):
        raise SparseRMError(
            f"{folder} is a pickle or an archive; expected a folder with cfg.json and safetensors; save the SAE with "
            "SAELens's save_model first"
        )
    if (found := find_sae(source)) is not None:
        return _load_folder(found, str(source))
    if (release := _release_of(str(source), may_download)) is not None:
        return _load_registry(release, str(source)[len(release) + 1 :], may_download)
    repository, colon, inside = str(source).partition(":")
    asked = HubName.parse(repository)
    if colon and asked is not None and asked.owned:
        return _load_repository(asked, inside, may_download)
    raise SparseRMError(
        f"no SAE {one_line(source)!r}: expected a folder, one of {', '.join(find_saes()) or '(none shipped)'}, "
        "release:sae_id of SAELens's registry, or user/repository:folder of the Hugging Face Hub"
    )


def find_sae(source: str | Path) -> Path | None:
    """The folder of an SAE on this machine, given by its folder or name; None where there is none."""
    folder = given_path(source)
    return folder if folder.is_dir() else find_saes().get(str(source))


def find_saes() -> dict[str, Path]:
    """Folders of the SAEs by name: shipped ones, then those in ``SPARSERM_HOME/saes``; no file is read."""
    found: dict[str, Path] = {}
    for root in (assets_dir() / "saes", home() / "saes"):
        for path in sorted(root.glob("*/*/cfg.json")):
            found.setdefault(f"{path.parent.parent.name}/{path.parent.name}", path.parent)
    return found


def describe_sae(name: str, folder: Path) -> SAEInfo:
    """Describe an SAE without reading its weights.

    Raises:
        SparseRMError: it cannot be used.
    """
    config = read_config(folder, name)
    metrics: dict[str, Any] = {}
    with contextlib.suppress(SparseRMError):  # the metrics are optional
        metrics = read_json(folder / "metrics.json")
    figures = {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    hook = config.hook
    return SAEInfo(name, folder, hook.name, hook.layer, config.d_sae, config.architecture, figures, config.model_name)


def list_saes() -> list[SAEInfo]:
    """The usable SAEs that have a name; :func:`load_sae` reports what is wrong with the others."""
    usable = []
    for name, folder in find_saes().items():
        with contextlib.suppress(SparseRMError):
            usable.append(describe_sae(name, folder))
    return usable


def check_compatible(sae: SparseAutoencoder, *, model_name: str, d_model: int, n_layers: int) -> None:
    """Check that an SAE can have been trained on this backbone.

    Raises:
        SparseRMError: the width or the layer does not fit.
    """
    if sae.d_in != d_model or sae.hook.layer >= n_layers:
        raise SparseRMError(
            f"SAE {sae.name} was trained on {sae.model_name or 'a model'} at {sae.hook.name} with width {sae.d_in}; backbone "
            f"{model_name} has {n_layers} layers of width {d_model}; choose an SAE of this backbone (`sparserm saes`)"
        )


def _load_folder(folder: Path, name: str) -> SparseAutoencoder:
    config = read_config(folder, name)
    sae = _assembled(name, config, read_weights(folder, config, name))
    recorded = sae.metadata.get(FINGERPRINT)  # only SAEs trained by SparseRM have one
    if recorded is not None and recorded != sae.fingerprint:
        raise SparseRMError(
            f"SAE {name} is not as it was saved: its weights and settings have fingerprint {sae.fingerprint}, expected "
            f"{one_line(recorded, 80)}; download it again or train it again"
        )
    return sae


def _release_of(source: str, may_download: bool) -> str | None:
    """The release of SAELens's registry that ``release:sae_id`` or ``release/sae_id`` names; None if it names none.

    Other names are told apart by their form where possible: SAELens takes seconds to import. Heads store the form with a colon,
    so that the other one is looked up only for what a user gives.
    """
    found = re.match(r"([\w.-]+)([:/])", source)
    if found is None or source.startswith(".") or (found[2] == "/" and (":" in source or not may_download)):
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return found[1] if found[1] in get_pretrained_saes_directory() else None


def _load_registry(release: str, sae_id: str, may_download: bool) -> SparseAutoencoder:
    """Load with SAELens, which knows how each release is stored, downloads it and folds statistics into the weights."""
    import sae_lens
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known, name = get_pretrained_saes_directory()[release], f"{release}:{sae_id}"
    if sae_id not in known.saes_map:
        near = difflib.get_close_matches(sae_id, known.saes_map, n=3, cutoff=0)
        raise SparseRMError(
            f"release {release} of SAELens's registry has no SAE {one_line(sae_id)!r}; expected one of its "
            f"{len(known.saes_map)}, such as {', '.join(near)}; correct the name"
        )
    repository = known.repo_id
    if not may_download and not _is_in_hub_cache(repository):
        raise _not_downloaded(name)
    try:
        with cache_if_unreachable():
            saelens_config(_registry_config(release, sae_id), name, Path(release))  # before gigabytes of weights are downloaded
            theirs = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except SparseRMError:
        raise
    except Exception as error:  # unknown ids, network, formats
        raise SparseRMError(
            f"SAELens could not load {one_line(name)} from {repository} ({hub_problem(error, repository)}); expected an "
            "SAE of its registry"
        ) from error
    cfg = {**theirs.cfg.to_dict(), "architecture": theirs.cfg.architecture(), "metadata": dict(theirs.cfg.metadata.items())}
    tensors = {key: tensor.detach().float().cpu().contiguous() for key, tensor in theirs.state_dict().items()}
    config = saelens_config(cfg, name, Path(release))
    return _assembled(name, config, saelens_weights(tensors, config, name))


def _registry_config(release: str, sae_id: str) -> dict[str, Any]:
    """The configuration of an SAE of the registry as it will be once its statistics are folded in; no weights are read."""
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
    from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

    cfg = load_sae_config_from_huggingface(release, sae_id)
    folded = cfg.get("normalize_activations") == "expected_average_only_in" and get_norm_scaling_factor(release, sae_id)
    return {**cfg, "normalize_activations": "none"} if folded else cfg


def _load_repository(asked: HubName, inside: str, may_download: bool) -> SparseAutoencoder:
    """Load a folder of a repository of the Hub that is not in the registry, as one on this machine."""
    from huggingface_hub import snapshot_download

    name = f"{asked}:{inside}"
    if not inside or any(part in ("", ".", "..") for part in inside.split("/")):
        raise SparseRMError(
            f"SAE {one_line(name)!r} names no folder of the repository; expected user/repository:folder, such as "
            "me/saes:layer_15; correct the name"
        )
    patterns = [f"{inside}/{file}" for file in ("cfg.json", SAELENS_WEIGHTS, SPARSIFY_WEIGHTS)]
    try:
        found = snapshot_download(
            asked.repository, revision=asked.revision, allow_patterns=patterns, local_files_only=not may_download
        )
    except Exception as error:  # the Hub's client raises many types of error
        if not may_download:
            raise _not_downloaded(name) from error
        raise SparseRMError(
            f"SAE {one_line(name)!r} cannot be downloaded: {hub_problem(error, str(asked))}; expected user/repository:folder "
            "of the Hugging Face Hub, or release:sae_id of SAELens's registry"
        ) from error
    return _load_folder(Path(found) / inside, name)


def _not_downloaded(name: str) -> SparseRMError:
    return SparseRMError(
        f"SAE {one_line(name)!r} was not found on this machine, and is not downloaded because only a head names it; expected "
        "its files in the cache of the Hugging Face Hub; if you trust it, load it once with sparserm.sae.autoencoder.load_sae"
    )


def _is_in_hub_cache(repository: str) -> bool:
    """Whether files of this repository have been downloaded before."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return any((Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots").glob("*/*"))


def _assembled(name: str, config: SAEConfig, weights: Mapping[str, Tensor]) -> SparseAutoencoder:
    return SparseAutoencoder(
        name=name,
        architecture=config.architecture,
        hook=config.hook,
        model_name=config.model_name,
        weights=weights,
        k=config.k,
        normalize_activations=config.normalize_activations,
        apply_b_dec_to_input=config.apply_b_dec_to_input,
        rescale_acts_by_decoder_norm=config.rescale_acts_by_decoder_norm,
        max_norm=config.max_norm,
        metadata=config.metadata,
    )

"""Sparse autoencoders: one small reader of ``cfg.json`` and safetensors, without importing SAELens.

Reads SAELens's folder format and EleutherAI's sparsify format, and hands SAELens's registry to SAELens. Encode and decode
are held to SAELens's own by a parity test for every architecture read here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparserm.defaults import assets_dir, home
from sparserm.types import HookPoint, SparseRMError

ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")

_REQUIRED = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec"),
}
#: Modules whose output is a hook point, as the families of transformers call them; sparsify names its folders so.
_MODULE = re.compile(r"((model|transformer|gpt_neox)\.)?(layers|h)\.(?P<layer>\d+)(?P<mlp>\.mlp)?")
_SPARSIFY = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """An SAE for inference; immutable and without state between calls, so threads may share it.

    Attributes:
        name: as it was asked for.
        architecture: one of :data:`ARCHITECTURES`.
        hook: where its input is read.
        model_name: the language model that its metadata names.
        weights: float32; ``W_enc [d_in, d_sae]``, ``W_dec [d_sae, d_in]``, ``b_dec [d_in]`` and, by architecture, ``b_enc``,
            ``threshold``, ``b_gate``, ``b_mag``, ``r_mag`` (``[d_sae]`` each).
        k: latents active per token, for ``topk``.
        normalize_activations: how the input is normalised, and the reconstruction back; one of :data:`NORMALISATIONS`.
        apply_b_dec_to_input: whether ``b_dec`` is taken off the input first.
        rescale_acts_by_decoder_norm: ``topk`` as if the decoder's rows had norm one.
        metadata: what the file says of its training.
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
    metadata: Mapping[str, Any] = field(default_factory=dict)

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
        """``[d_in]``, what the decoder adds."""
        return self.weights["b_dec"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and all that encode and decode depend on (16 hex digits), whatever the file is called."""
        facts = [self.architecture, self.hook.name, self.k, self.normalize_activations, self.apply_b_dec_to_input]
        digest = hashlib.sha256(json.dumps([*facts, self.rescale_acts_by_decoder_norm]).encode())
        for name in sorted(self.weights):
            digest.update(name.encode() + self.weights[name].numpy().tobytes())
        return digest.hexdigest()[:16]

    @functools.cached_property
    def _unit_decoder(self) -> Tensor:
        W_dec = self.weights["W_dec"]
        return W_dec / W_dec.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    def directions(self) -> Tensor:
        """``[d_sae, d_in]``: decoder rows of norm one."""
        return self._unit_decoder

    def encode(self, x: Tensor) -> Tensor:
        """Latent activations ``[..., d_sae]`` of ``x [..., d_in]``."""
        return self._encode(self._normalise(x.float())[0])

    def decode(self, z: Tensor) -> Tensor:
        """``[..., d_in]`` from ``z [..., d_sae]``, in the space of the normalised input."""
        if self.rescale_acts_by_decoder_norm:
            z = z / self.weights["W_dec"].norm(dim=-1)
        return z @ self.weights["W_dec"] + self.b_dec

    def reconstruct(self, x: Tensor) -> Tensor:
        """``[..., d_in]``: encoded, decoded, and brought back to the scale of ``x``."""
        x = x.float()
        normalised, shift, scale = self._normalise(x)
        return self.decode(self._encode(normalised)) * scale + shift

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
        pre = x @ w["W_enc"] + w["b_enc"]
        if self.architecture == "standard":
            return torch.relu(pre)
        if self.architecture == "jumprelu":
            return torch.relu(pre) * (pre > w["threshold"])
        if self.rescale_acts_by_decoder_norm:
            pre = pre * w["W_dec"].norm(dim=-1)
        top = pre.topk(min(self.k or 1, self.d_sae), dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())


@dataclass(frozen=True)
class SAEInfo:
    """An SAE that can be used by name, described without reading its weights."""

    name: str
    path: Path
    hook: str
    layer: int
    d_sae: int
    architecture: str
    metrics: Mapping[str, float]


def load_sae(source: str | Path) -> SparseAutoencoder:
    """Load an SAE from a folder, by the name of a shipped one, or from SAELens's registry.

    Args:
        source: a folder in SAELens's or sparsify's format, a name that :func:`list_saes` gives (``smollm2/layer_15``), or
            ``release:sae_id`` of the registry.

    Raises:
        SparseRMError: there is no such SAE, or it is of a kind that would be read wrongly.
    """
    folder = Path(source).expanduser()
    if folder.suffix in (".pt", ".pth", ".bin", ".pkl", ".npz"):
        raise SparseRMError(
            f"{folder} is a pickle or an archive; expected a folder with cfg.json and safetensors; save the SAE with "
            "SAELens's save_model first"
        )
    if folder.is_dir():
        return _load_folder(folder, str(source))
    known = {info.name: info.path for info in list_saes()}
    if str(source) in known:
        return _load_folder(known[str(source)], str(source))
    if ":" in str(source):
        release, sae_id = str(source).split(":", 1)
        return _load_registry(release, sae_id)
    raise SparseRMError(
        f"no SAE {str(source)!r}: expected a folder, one of {', '.join(known) or '(none shipped)'}, or release:sae_id of "
        "SAELens's registry"
    )


def list_saes() -> list[SAEInfo]:
    """The SAEs that can be used by name: shipped ones, then those in ``SPARSERM_HOME/saes``."""
    found: dict[str, SAEInfo] = {}
    for root in (assets_dir() / "saes", home() / "saes"):
        for path in sorted(root.glob("*/*/cfg.json")):
            name = f"{path.parent.parent.name}/{path.parent.name}"
            cfg = _read_json(path)
            hook = _hook_of(cfg, path.parent)
            metrics_file = path.parent / "metrics.json"
            metrics = _read_json(metrics_file) if metrics_file.is_file() else {}
            architecture = cfg.get("architecture", "standard")
            info = SAEInfo(name, path.parent, hook.name, hook.layer, int(cfg["d_sae"]), architecture, metrics)
            found.setdefault(name, info)
    return list(found.values())


def check_compatible(sae: SparseAutoencoder, *, model_name: str, d_model: int, n_layers: int) -> None:
    """Refuse an SAE that cannot have been trained on this backbone.

    Raises:
        SparseRMError: the width or the layer does not fit; names both.
    """
    if sae.d_in != d_model or sae.hook.layer >= n_layers:
        raise SparseRMError(
            f"SAE {sae.name} was trained on {sae.model_name or 'a model'} at {sae.hook.name} with width {sae.d_in}; backbone "
            f"{model_name} has {n_layers} layers of width {d_model}; choose an SAE of this backbone (`sparserm saes`)"
        )


def _load_folder(folder: Path, name: str) -> SparseAutoencoder:
    if not (folder / "cfg.json").is_file():
        raise SparseRMError(
            f"{folder} has no cfg.json; expected a folder with cfg.json and sae_weights.safetensors (SAELens) or "
            "sae.safetensors (sparsify)"
        )
    cfg = _read_json(folder / "cfg.json")
    if (folder / "sae_weights.safetensors").is_file():
        weights = _read_weights(folder / "sae_weights.safetensors")
        return _from_saelens(cfg, weights, name, folder)
    if (folder / "sae.safetensors").is_file():
        return _from_sparsify(cfg, _read_weights(folder / "sae.safetensors"), name, folder)
    raise SparseRMError(
        f"{folder} has cfg.json but neither sae_weights.safetensors (SAELens) nor sae.safetensors (sparsify); other weight "
        "files such as .pt are pickles and are not read; save the SAE as safetensors"
    )


def _load_registry(release: str, sae_id: str) -> SparseAutoencoder:
    """SAELens knows how each release is stored, downloads it and folds in what must be folded."""
    import sae_lens

    try:
        theirs = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except Exception as error:  # unknown names, network, formats: to a user they mean one thing
        first = (str(error).splitlines() or [""])[0]
        raise SparseRMError(
            f"SAELens could not load {release}:{sae_id} ({type(error).__name__}: {first}); expected a release and id of its "
            "registry; check both names and the network"
        ) from error
    cfg = {**theirs.cfg.to_dict(), "architecture": theirs.cfg.architecture()}
    metadata = dict(theirs.cfg.metadata.items())
    weights = {key: tensor.detach().float().cpu().contiguous() for key, tensor in theirs.state_dict().items()}
    return _from_saelens({**cfg, "metadata": metadata}, weights, f"{release}:{sae_id}", Path(release))


def _from_saelens(cfg: dict[str, Any], weights: dict[str, Tensor], name: str, folder: Path) -> SparseAutoencoder:
    architecture = cfg.get("architecture", "standard")
    normalisation = cfg.get("normalize_activations") or "none"
    if architecture not in ARCHITECTURES:
        raise SparseRMError(
            f"SAE {name} is of architecture {architecture!r}; expected one of {', '.join(ARCHITECTURES)} (BatchTopK and "
            "Matryoshka SAEs are saved as jumprelu); choose another SAE"
        )
    if normalisation not in NORMALISATIONS:
        raise SparseRMError(
            f"SAE {name} has normalize_activations {normalisation!r}, whose statistics are not stored with it, so that it "
            f"would be read wrongly; expected one of {', '.join(NORMALISATIONS)}; load it under a release name of SAELens's "
            "registry, which folds in those it knows, or fold them into the weights before saving"
        )
    if cfg.get("reshape_activations", "none") != "none" or ("activation_fn" in cfg and cfg["activation_fn"] != "relu"):
        raise SparseRMError(
            f"SAE {name} reshapes its input or has activation {cfg.get('activation_fn')!r}; expected an SAE on the residual "
            "stream or the MLP output with its architecture's own activation; choose another SAE"
        )
    scale = weights.get("scaling_factor")  # versions of SAELens wrote ones where nothing was finetuned
    if scale is not None and torch.allclose(scale, torch.ones_like(scale)):
        weights = {key: tensor for key, tensor in weights.items() if key != "scaling_factor"}
    _check_weights(weights, _REQUIRED[architecture], name)
    metadata = {**cfg, **(cfg.get("metadata") or {})}
    return SparseAutoencoder(
        name=name,
        architecture=architecture,
        hook=_hook_of(cfg, folder),
        model_name=str(metadata.get("model_name") or ""),
        weights={key: weights[key] for key in _REQUIRED[architecture]},
        k=int(cfg["k"]) if architecture == "topk" else None,
        normalize_activations=normalisation,
        apply_b_dec_to_input=bool(cfg.get("apply_b_dec_to_input", True)),
        rescale_acts_by_decoder_norm=architecture == "topk" and bool(cfg.get("rescale_acts_by_decoder_norm", False)),
        metadata=dict(cfg.get("metadata") or {}),
    )


def _from_sparsify(cfg: dict[str, Any], tensors: dict[str, Tensor], name: str, folder: Path) -> SparseAutoencoder:
    """EleutherAI sparsify: ``topk(relu(encoder(x - b_dec)))``; the folder is named after the hooked module."""
    if cfg.get("transcode") or cfg.get("skip_connection") or cfg.get("activation", "topk") != "topk":
        raise SparseRMError(
            f"SAE {name} is a sparsify transcoder or has activation {cfg.get('activation')!r}; expected a plain topk SAE; "
            "choose another SAE"
        )
    _check_weights(tensors, _SPARSIFY, name)
    weights = {
        "W_enc": tensors["encoder.weight"].T.contiguous(),
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    return SparseAutoencoder(name, "topk", _hook_of(cfg, folder), "", weights, k=int(cfg["k"]), metadata=cfg)


def _hook_of(cfg: Mapping[str, Any], folder: Path) -> HookPoint:
    """The hook point from the metadata, or, as sparsify has it, from the folder's name (``layers.15``, ``layers.15.mlp``)."""
    hook_name = (cfg.get("metadata") or {}).get("hook_name") or cfg.get("hook_name")
    if hook_name:
        return HookPoint.parse(hook_name)
    if match := _MODULE.fullmatch(folder.resolve().name):
        return HookPoint(int(match["layer"]), "mlp_out" if match["mlp"] else "resid_post")
    raise SparseRMError(
        f"the SAE in {folder} names no hook point that can be read; expected metadata.hook_name in cfg.json "
        "(blocks.15.hook_resid_post) or a folder named after a layer or its MLP (layers.15, layers.15.mlp); add it, or choose "
        "an SAE of such a place"
    )


def _check_weights(weights: Mapping[str, Tensor], required: tuple[str, ...], name: str) -> None:
    """Refuse tensors that are missing, not finite, of another shape, or that would change what is computed and are not read."""
    if missing := [key for key in required if key not in weights]:
        raise SparseRMError(
            f"SAE {name} lacks the tensors {', '.join(missing)}; found {', '.join(sorted(weights))}; fetch it anew"
        )
    if more := sorted(set(weights) - set(required)):
        raise SparseRMError(
            f"SAE {name} has the tensors {', '.join(more)}, without which it would be read wrongly; expected "
            f"{', '.join(required)} alone; fold them into these before saving, or choose another SAE"
        )
    for key in required:
        if not torch.isfinite(weights[key]).all():
            raise SparseRMError(f"SAE {name}: {key} holds values that are not finite; fetch it anew or train it again")
    if weights["W_dec"].ndim != 2:
        raise SparseRMError(
            f"SAE {name}: W_dec has shape {tuple(weights['W_dec'].shape)}, expected a matrix [d_sae, d_in]; fetch it anew"
        )
    d_sae, d_in = weights["W_dec"].shape
    shapes = {"W_enc": (d_in, d_sae), "encoder.weight": (d_sae, d_in), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for key in required:
        shape = shapes.get(key, (d_sae,))
        if tuple(weights[key].shape) != shape:
            raise SparseRMError(f"SAE {name}: {key} has shape {tuple(weights[key].shape)}, expected {shape}; fetch it anew")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SparseRMError(f"{path} cannot be read ({error}); expected a JSON object; fetch it anew") from error
    if not isinstance(value, dict):
        raise SparseRMError(f"{path} holds a {type(value).__name__}; expected a JSON object; fetch it anew")
    return value


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return {key: tensor.float().contiguous() for key, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise SparseRMError(f"{path} cannot be read as safetensors ({error}); fetch it anew") from error

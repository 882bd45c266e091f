"""Reading SAE folders: ``cfg.json`` and safetensors, in SAELens's format and in EleutherAI's sparsify format.

Configurations are checked without reading weights, so that SAEs can be listed; kinds that are not supported are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparserm.support.files import one_line
from sparserm.support.parsing import parse_json
from sparserm.types import NORMALISATIONS, HookPoint, SparseRMError

ARCHITECTURES = ("standard", "jumprelu", "topk", "gated")

SAELENS_WEIGHTS = "sae_weights.safetensors"
SPARSIFY_WEIGHTS = "sae.safetensors"

#: Maximum size of a weight; products of larger ones overflow float32.
LARGEST = 1e9

_REQUIRED = {
    "standard": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "jumprelu": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "topk": ("W_enc", "b_enc", "W_dec", "b_dec"),
    "gated": ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec"),
}
#: sparsify's names of the tensors of a topk SAE.
_SPARSIFY = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
#: Modules whose output is a hook point, by their names in transformers: the hook of an SAE that was trained without
#: TransformerLens, and the name of a folder of sparsify.
_MODULE = re.compile(r"((model|transformer|gpt_neox)\.)?(layers|h)\.(?P<layer>[0-9]{1,4})(?P<mlp>\.mlp)?(\.output)?")
#: Key in the metadata of SAEs that were trained here: the largest norm of an input at which latents fire.
MAX_NORM = "sparserm_max_norm"
#: Folders in which sparsify saves the SAEs of a module if it trains them with several seeds.
_SEED = re.compile(r"seed[0-9]{1,10}")


@dataclass(frozen=True)
class SAEConfig:
    """Configuration of an SAE, whatever its format.

    For the fields see :class:`~sparserm.sae.autoencoder.SparseAutoencoder`. ``centred_model``: the SAE was trained on a model
    with centred writing weights, as TransformerLens makes them; the weights are adapted when they are read.
    """

    architecture: str
    hook: HookPoint
    d_sae: int
    model_name: str = ""
    k: int | None = None
    normalize_activations: str = "none"
    apply_b_dec_to_input: bool = True
    rescale_acts_by_decoder_norm: bool = False
    centred_model: bool = False
    max_norm: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_config(folder: Path, name: str) -> SAEConfig:
    """Read ``cfg.json`` of the SAE in ``folder``.

    Raises:
        SparseRMError: there is none, it cannot be read, or the kind of SAE is not supported.
    """
    if not (folder / "cfg.json").is_file():
        raise SparseRMError(
            f"{folder} has no cfg.json; expected a folder with cfg.json and {SAELENS_WEIGHTS} (SAELens) or "
            f"{SPARSIFY_WEIGHTS} (sparsify)"
        )
    read = {SAELENS_WEIGHTS: saelens_config, SPARSIFY_WEIGHTS: sparsify_config}[_weights_file(folder)]
    return read(read_json(folder / "cfg.json"), name, folder)


def read_weights(folder: Path, config: SAEConfig, name: str) -> dict[str, Tensor]:
    """Read the weights of the SAE in ``folder``: float32, under SAELens's names.

    Raises:
        SparseRMError: they are damaged, or do not match the configuration.
    """
    file = _weights_file(folder)
    try:
        tensors = {key: tensor.float().contiguous() for key, tensor in load_file(folder / file).items()}
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # PyTorch lacks some types of numbers
        raise SparseRMError(f"{folder / file} cannot be read as safetensors ({one_line(error)}); download it again") from error
    if file == SAELENS_WEIGHTS:
        return saelens_weights(tensors, config, name)
    _check_weights(tensors, tuple(_SPARSIFY), config.d_sae, name)
    tensors["encoder.weight"] = tensors["encoder.weight"].T.contiguous()
    return {ours: tensors[theirs] for theirs, ours in _SPARSIFY.items()}


def saelens_config(cfg: Mapping[str, Any], name: str, folder: Path) -> SAEConfig:
    """Parse a configuration of SAELens.

    Raises:
        SparseRMError: the kind of SAE is not supported.
    """
    cfg = _since_version_6(cfg)
    architecture = cfg.get("architecture", "standard")
    normalisation = cfg.get("normalize_activations") or "none"
    activation = cfg.get("activation_fn", "relu")
    if architecture not in ARCHITECTURES:
        raise SparseRMError(
            f"SAE {name} is of architecture {_shown(architecture)}; expected one of {', '.join(ARCHITECTURES)} (BatchTopK and "
            "Matryoshka SAEs are saved as jumprelu); choose another SAE"
        )
    if normalisation not in NORMALISATIONS:
        raise SparseRMError(
            f"SAE {name} has normalize_activations {_shown(normalisation)}, which needs statistics that are not stored with "
            f"it; expected one of {', '.join(NORMALISATIONS)}; load it by its release name from SAELens's registry, which "
            "folds in the statistics it knows, or fold them into the weights before saving"
        )
    if cfg.get("reshape_activations", "none") != "none" or activation not in ("relu", "topk"):
        reshaped = f"reshapes its input ({_shown(cfg.get('reshape_activations'))}), as SAEs on attention heads do"
        what = f"has activation {_shown(activation)}" if activation not in ("relu", "topk") else reshaped
        raise SparseRMError(
            f"SAE {name} {what}; expected an SAE on the residual stream or the MLP output with its architecture's own "
            "activation; choose another SAE"
        )
    metadata = _mapping(cfg.get("metadata"))
    return SAEConfig(
        architecture=architecture,
        hook=_hook_of(cfg, folder),
        d_sae=_count(cfg.get("d_sae"), "d_sae", name),
        model_name=str({**cfg, **metadata}.get("model_name") or ""),
        k=_count(cfg.get("k"), "k", name) if architecture == "topk" else None,
        normalize_activations=normalisation,
        apply_b_dec_to_input=_flag(cfg, "apply_b_dec_to_input", True, name),
        rescale_acts_by_decoder_norm=architecture == "topk" and _flag(cfg, "rescale_acts_by_decoder_norm", False, name),
        centred_model=bool(_mapping({**cfg, **metadata}.get("model_from_pretrained_kwargs")).get("center_writing_weights")),
        max_norm=_max_norm(metadata, name),
        metadata=metadata,
    )


def _max_norm(metadata: Mapping[str, Any], name: str) -> float | None:
    found = metadata.get(MAX_NORM)
    if found is None or (type(found) in (int, float) and 0 < found < LARGEST):
        return None if found is None else float(found)
    raise SparseRMError(
        f"SAE {name} has {MAX_NORM} {_shown(found)}; expected a number above 0 and below {LARGEST:g}, the largest norm of an "
        "input at which latents fire; save the SAE again"
    )


def saelens_weights(tensors: Mapping[str, Tensor], config: SAEConfig, name: str) -> dict[str, Tensor]:
    """Check the tensors of an SAE of SAELens and return those used for inference.

    Raises:
        SparseRMError: they are not those of its architecture.
    """
    scale = tensors.get("scaling_factor")  # some versions of SAELens write ones if it was not finetuned
    if scale is not None and torch.allclose(scale, torch.ones_like(scale)):
        tensors = {key: tensor for key, tensor in tensors.items() if key != "scaling_factor"}
    _check_weights(tensors, _REQUIRED[config.architecture], config.d_sae, name)
    if config.centred_model and config.normalize_activations != "layer_norm":  # layer_norm centres the input itself
        return _folded_centring(dict(tensors), config, name)
    return dict(tensors)


def _folded_centring(tensors: dict[str, Tensor], config: SAEConfig, name: str) -> dict[str, Tensor]:
    """Weights that give the same latents for inputs that are not centred.

    TransformerLens's ``center_writing_weights`` subtracts the mean over ``d`` from everything written to the residual stream,
    which layer norms ignore; transformers does not. Centring the encoder's columns has the same effect.

    Raises:
        SparseRMError: the SAE scales its input by its norm, which depends on the mean.
    """
    if config.normalize_activations != "none":
        raise SparseRMError(
            f"SAE {name} was trained on a model with centred writing weights and has normalize_activations "
            f"{config.normalize_activations!r}, which are not supported together; expected none or layer_norm; choose another "
            "SAE"
        )
    W_enc = tensors["W_enc"] - tensors["W_enc"].mean(0, keepdim=True)
    if config.apply_b_dec_to_input:  # b_dec @ W_enc must not change
        shift = tensors["b_dec"] @ (W_enc - tensors["W_enc"])
        if config.architecture == "gated":
            tensors["b_gate"] = tensors["b_gate"] + shift
            tensors["b_mag"] = tensors["b_mag"] + shift * tensors["r_mag"].exp()
        else:
            tensors["b_enc"] = tensors["b_enc"] + shift
    return {**tensors, "W_enc": W_enc}


def sparsify_config(cfg: Mapping[str, Any], name: str, folder: Path) -> SAEConfig:
    """Parse a configuration of EleutherAI sparsify: ``topk(relu(encoder(x - b_dec)))``, in a folder named after the module.

    Raises:
        SparseRMError: the kind of SAE is not supported.
    """
    unlike = [key for key in ("transcode", "skip_connection", "signed") if cfg.get(key)]
    if unlike or cfg.get("activation", "topk") != "topk":
        raise SparseRMError(
            f"SAE {name} of sparsify has {', '.join(unlike) or 'activation ' + _shown(cfg['activation'])}; expected a plain "
            "topk SAE; choose another SAE"
        )
    d_sae = cfg.get("num_latents")
    if not d_sae:  # sparsify's default
        d_sae = _count(cfg.get("d_in"), "d_in", name) * _count(cfg.get("expansion_factor"), "expansion_factor", name)
    k, d_sae = _count(cfg.get("k"), "k", name), _count(d_sae, "num_latents", name)
    return SAEConfig("topk", _hook_of(cfg, folder), d_sae, k=k, metadata=cfg)


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        SparseRMError: the file does not hold a JSON object.
    """
    try:
        value = parse_json(path.read_bytes(), nan=True)  # SAELens writes what Python does
    except (OSError, ValueError) as error:
        raise SparseRMError(f"{path} cannot be read ({one_line(error)}); expected a JSON object; download it again") from error
    if not isinstance(value, dict):
        raise SparseRMError(f"{path} holds a {type(value).__name__}; expected a JSON object; download it again")
    return value


def _since_version_6(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a configuration to the keys of SAELens 6 and later (its ``handle_pre_6_0_config``)."""
    renamed = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    cfg = {renamed.get(key, key): value for key, value in cfg.items()}
    if cfg.get("activation_fn") == "topk":
        cfg = {**cfg, "architecture": "topk", "k": _mapping(cfg.get("activation_fn_kwargs")).get("k", cfg.get("k"))}
    return cfg


def _weights_file(folder: Path) -> str:
    for file in (SAELENS_WEIGHTS, SPARSIFY_WEIGHTS):
        if (folder / file).is_file():
            return file
    raise SparseRMError(
        f"{folder} has cfg.json but neither {SAELENS_WEIGHTS} (SAELens) nor {SPARSIFY_WEIGHTS} (sparsify); other weight "
        "files such as .pt are pickles and are not read; save the SAE as safetensors"
    )


def _hook_of(cfg: Mapping[str, Any], folder: Path) -> HookPoint:
    """The hook point from the metadata, or from the folder's name as in sparsify (``layers.15``, ``layers.15.mlp/seed1``)."""
    hook_name = _mapping(cfg.get("metadata")).get("hook_name") or cfg.get("hook_name")
    named = folder.resolve()
    named = named.parent if _SEED.fullmatch(named.name) else named
    if match := _MODULE.fullmatch(str(hook_name or named.name)):
        return HookPoint(int(match["layer"]), "mlp" if match["mlp"] else "resid_post")
    if hook_name:
        return HookPoint.parse(str(hook_name))
    raise SparseRMError(
        f"the SAE in {folder} names no hook point; expected metadata.hook_name in cfg.json (blocks.15.hook_resid_post) or a "
        "folder named after a layer or its MLP (layers.15, layers.15.mlp, layers.15/seed0); add it, or choose another SAE"
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any, what: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise SparseRMError(
            f"SAE {name} has {what} {_shown(value)} in its configuration; expected a whole number above 0; correct "
            "it or download the SAE again"
        )
    return value


def _flag(cfg: Mapping[str, Any], what: str, default: bool, name: str) -> bool:
    value = cfg.get(what, default)
    if not isinstance(value, bool):
        raise SparseRMError(
            f"SAE {name} has {what} {_shown(value)} in its configuration; expected true or false; correct it or download the "
            "SAE again"
        )
    return value


def _shown(value: Any) -> str:
    return one_line(repr(value), 80)


def _check_weights(weights: Mapping[str, Tensor], required: tuple[str, ...], d_sae: int, name: str) -> None:
    """Refuse tensors that are missing, unsupported, not finite or of the wrong shape."""
    if missing := [key for key in required if key not in weights]:
        raise SparseRMError(
            f"SAE {name} lacks the tensors {', '.join(missing)}; found {', '.join(sorted(weights))}; download it again"
        )
    if more := sorted(set(weights) - set(required)):
        raise SparseRMError(
            f"SAE {name} has the tensors {', '.join(more)}, which are not supported; expected only {', '.join(required)}; fold "
            "them into these before saving, or choose another SAE"
        )
    for key in required:
        low, high = (float(end) for end in torch.aminmax(weights[key])) if weights[key].numel() else (0.0, 0.0)
        if not -math.inf < low <= high < math.inf:
            raise SparseRMError(f"SAE {name}: {key} holds values that are not finite; download it again or train it again")
        if max(-low, high) > LARGEST:
            raise SparseRMError(f"SAE {name}: {key} holds values beyond {LARGEST:g}; download it again or train it again")
    if weights["W_dec"].ndim != 2:
        raise SparseRMError(
            f"SAE {name}: W_dec has shape {tuple(weights['W_dec'].shape)}, expected a matrix [d_sae, d_in]; download it again"
        )
    d_in = weights["W_dec"].shape[1]
    shapes = {"W_enc": (d_in, d_sae), "encoder.weight": (d_sae, d_in), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    for key in required:
        shape = shapes.get(key, (d_sae,))
        if tuple(weights[key].shape) != shape:
            raise SparseRMError(f"SAE {name}: {key} has shape {tuple(weights[key].shape)}, expected {shape}; download it again")

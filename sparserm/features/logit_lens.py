"""Which tokens a decoder direction promotes and suppresses: the logit lens (nostalgebraist, 2020).

A direction is read as if nothing came between its layer and the unembedding: ``W_U (gain * d)``, with the final norm's
gain, and less the mean over the vocabulary, which the softmax does not see. It tells what a latent adds to the logits
directly, not what later layers make of it. Only the unembedding and the final norm are read from the model's files.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserm.types import Progress, SparseRMError

if TYPE_CHECKING:
    from torch import Tensor

    from sparserm.sae.autoencoder import SparseAutoencoder

#: Tokens kept of either end.
TOKENS = 10
#: Latents multiplied at a time: their logits over a vocabulary of 250,000 fill 64 MB.
_CHUNK = 64
_NOTHING_READ = "expected a causal language model's safetensors with its unembedding; the rest of the card does not need it"


@dataclass(frozen=True, eq=False)
class Unembedding:
    """How a model reads the residual stream at its end.

    Attributes:
        weight: ``[V, d]`` float32.
        gain: ``[d]`` float32 of the final norm.
        centred: whether that norm takes the mean off (LayerNorm).
        tokenizer: of transformers, to show tokens as text.
    """

    weight: Tensor
    gain: Tensor
    centred: bool
    tokenizer: Any

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """Tokens ``[...]`` as text; each that occurs is decoded once."""
        distinct, places = np.unique(ids, return_inverse=True)
        decoded = [str(self.tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in distinct.tolist()]
        return np.array(decoded, dtype=str)[places].reshape(ids.shape)


@dataclass(frozen=True)
class LogitLens:
    """Tokens at either end of ``n`` latents' logits.

    Attributes:
        promoted, suppressed: ``[n, k]`` str, the strongest first.
        promoted_logits, suppressed_logits: ``[n, k]`` float32, per unit of the direction's length.
    """

    promoted: np.ndarray
    promoted_logits: np.ndarray
    suppressed: np.ndarray
    suppressed_logits: np.ndarray


def logit_lens(
    sae: SparseAutoencoder, unembedding: Unembedding, features: np.ndarray, progress: Progress | None = None
) -> LogitLens:
    """The tokens that the latents ``features [n]`` promote and suppress most.

    Raises:
        SparseRMError: the SAE's width is not the model's.
    """
    import torch

    if sae.d_in != unembedding.weight.shape[1]:
        raise SparseRMError(
            f"SAE {sae.name} has width {sae.d_in}, the unembedding {unembedding.weight.shape[1]}; use the SAE's own model"
        )
    directions = sae.directions()[torch.as_tensor(np.asarray(features, np.int64))]
    if unembedding.centred:
        directions = directions - directions.mean(-1, keepdim=True)
    mean = unembedding.weight.mean(0)
    k = min(TOKENS, len(unembedding.weight))
    ends: list[list[np.ndarray]] = []
    for start in range(0, len(directions), _CHUNK):
        rows = directions[start : start + _CHUNK] * unembedding.gain
        logits = rows @ unembedding.weight.T - (rows @ mean)[:, None]
        high, low = logits.topk(k), logits.topk(k, largest=False)
        ends.append([tensor.numpy() for tensor in (high.indices, high.values, low.indices, low.values)])
        if progress:
            progress(min(start + _CHUNK, len(directions)), len(directions), "Promoted tokens (latents)")
    empty = [np.zeros((0, k), dtype) for dtype in (np.int64, np.float32, np.int64, np.float32)]
    parts = [np.concatenate(part) for part in zip(empty, *ends, strict=True)]
    return LogitLens(unembedding.texts(parts[0]), parts[1], unembedding.texts(parts[2]), parts[3])


@functools.lru_cache(maxsize=1)
def load_unembedding(name: str | Path) -> Unembedding:
    """Read what the lens needs from a model's files; the last one is kept in memory.

    Raises:
        SparseRMError: the model is not there, or its files hold no unembedding.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from sparserm.backbone.model import resolve

    folder, _ = resolve(name)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SparseRMError(f"the backbone {name} in {folder} cannot be read ({reason}); {_NOTHING_READ}") from error
    tied = config.get_text_config().tie_word_embeddings
    embedding, norm = model.get_input_embeddings().weight, _final_norm(model)
    weight = _read_unembedding(folder, _names(model, embedding), tuple(embedding.shape), tied)
    gain, centred = _gain(norm, {key: _read(folder, _names(model, value)) for key, value in norm.named_parameters()})
    return Unembedding(weight, gain, centred, tokenizer)


def _final_norm(model: Any) -> Any:
    """The last norm outside the layers."""
    from sparserm.backbone.model import decoder_layers

    inside = {id(module) for module in decoder_layers(model).modules()}
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and id(m) not in inside]
    if not norms:
        raise SparseRMError(f"no final norm was found in a {type(model).__name__}; {_NOTHING_READ}")
    return norms[-1]


def _gain(norm: Any, values: dict[str, Tensor]) -> tuple[Tensor, bool]:
    """What the norm multiplies by, found by using it: families write it as ``w`` or as ``1 + w``.

    Alternating ones have mean 0 and mean square 1, so that every norm leaves them as they are and only its gain is seen;
    constant ones come out as zero where the norm takes the mean off.
    """
    import torch

    own = norm.to_empty(device="cpu").float()
    own.load_state_dict(values, strict=False)
    width = len(next(iter(values.values())))
    with torch.no_grad():
        probe = torch.ones(width)
        probe[1::2] = -1
        bias = own(torch.zeros(1, width))[0]
        gain = (own(probe[None])[0] - bias) * probe
        centred = bool((own(torch.ones(1, width))[0] - bias).abs().max() < 1e-3 * gain.abs().max())
    return gain, centred


def _names(model: Any, parameter: Any) -> set[str]:
    """What a parameter may be called in a file; those of bare models leave the prefix out."""
    names = {key for key, value in model.named_parameters(remove_duplicate=False) if value is parameter}
    return names | {name.partition(".")[2] for name in names}


def _read_unembedding(folder: Path, embeddings: set[str], shape: tuple[int, ...], tied: bool) -> Tensor:
    """The embeddings where the model shares them, else the other tensor of their shape, whatever the family calls it."""
    names = [name for name, found in _tensors(folder) if tuple(found) == shape and (tied or name not in embeddings)]
    if not names:
        raise SparseRMError(f"{folder} holds no unembedding of shape {shape}; {_NOTHING_READ}")
    return _read(folder, set(names[:1]))


def _read(folder: Path, names: set[str]) -> Tensor:
    """One tensor of the folder's safetensors files, by any of its names."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in names & set(file.keys()):
                return file.get_tensor(key).float()
    raise SparseRMError(f"{folder} holds no tensor {' or '.join(sorted(names))}; {_NOTHING_READ}")


def _tensors(folder: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes of all tensors in the folder."""
    from safetensors import SafetensorError, safe_open

    found: list[tuple[str, list[int]]] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found += [(key, file.get_slice(key).get_shape()) for key in file.keys()]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise SparseRMError(f"{path} cannot be read ({error}); {_NOTHING_READ}") from error
    return found

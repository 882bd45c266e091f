"""Logit lens: the tokens that a decoder direction promotes and suppresses (nostalgebraist, 2020).

A direction is projected as if there were no layers between it and the unembedding: ``W_U (gain * d)`` with the gain of the
final norm, minus the mean over the vocabulary, to which the softmax is invariant. This is the direct effect of a latent on the
logits, without the effects through later layers. Only the unembedding and the final norm are read from the model's files.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparserm.types import Progress, SparseRMError

if TYPE_CHECKING:
    from torch import Tensor

    from sparserm.sae.autoencoder import SparseAutoencoder

#: Number of promoted and of suppressed tokens per latent.
TOKENS = 10
#: Tokens and latents of which logits are computed at once: 64 MB of them.
_BLOCK, _CHUNK = 16_384, 1024
_NO_UNEMBEDDING = "expected a causal language model's safetensors with its unembedding; the rest of the card does not need it"


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The unembedding and the final norm of a model.

    Attributes:
        weight: ``[V, d]`` unembedding matrix, as stored: in float32 it may take gigabytes more.
        gain: ``[d]`` float32 gain of the final norm.
        centred: whether the norm subtracts the mean (LayerNorm).
        tokenizer: tokenizer of transformers, to decode tokens.
    """

    weight: Tensor
    gain: Tensor
    centred: bool
    tokenizer: Any

    @functools.cached_property
    def mean(self) -> Tensor:
        """``[d]`` float32 mean over the vocabulary."""
        import torch

        return sum(block.sum(0, dtype=torch.float32) for block in self.weight.split(_BLOCK)) / len(self.weight)

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """Token ids ``[...]`` as text; each distinct id is decoded once."""
        distinct, places = np.unique(ids, return_inverse=True)
        decoded = [str(self.tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in distinct.tolist()]
        return np.array(decoded, dtype=str)[places].reshape(ids.shape)


@dataclass(frozen=True)
class LogitLens:
    """Promoted and suppressed tokens of ``n`` latents.

    Attributes:
        promoted, suppressed: ``[n, k]`` str, strongest first.
        promoted_logits, suppressed_logits: ``[n, k]`` float32 logits of the unit direction.
    """

    promoted: np.ndarray
    promoted_logits: np.ndarray
    suppressed: np.ndarray
    suppressed_logits: np.ndarray


def logit_lens(
    sae: SparseAutoencoder, unembedding: Unembedding, features: np.ndarray, progress: Progress | None = None
) -> LogitLens:
    """Compute the tokens that the latents ``features [n]`` promote and suppress most.

    Raises:
        SparseRMError: the SAE's width differs from the model's.
    """

    if sae.d_in != unembedding.weight.shape[1]:
        raise SparseRMError(
            f"SAE {sae.name} has width {sae.d_in}, expected the unembedding's {unembedding.weight.shape[1]}; use the model "
            "that the SAE was trained on"
        )
    n, k = len(features), min(TOKENS, len(unembedding.weight))
    promoted, suppressed = _Strongest(n, k, largest=True), _Strongest(n, k, largest=False)
    blocks = unembedding.weight.split(_BLOCK)
    for number, block in enumerate(blocks):
        columns = block.float().T
        for start in range(0, n, _CHUNK):
            directions = sae.directions(features[start : start + _CHUNK])
            if unembedding.centred:
                directions = directions - directions.mean(-1, keepdim=True)
            directions = directions * unembedding.gain
            logits = (directions @ columns).sub_((directions @ unembedding.mean)[:, None])
            for strongest in (promoted, suppressed):
                strongest.add(start, logits, number * _BLOCK)
            if progress:
                done = number * n + min(start + _CHUNK, n)
                progress(done // len(blocks), n, "Promoted tokens (latents)")
    texts = [unembedding.texts(one.ids.numpy()) for one in (promoted, suppressed)]
    return LogitLens(texts[0], promoted.logits.numpy(), texts[1], suppressed.logits.numpy())


class _Strongest:
    """The ``k`` largest or smallest logits so far of each of ``n`` latents, and their token ids ``[n, k]``."""

    def __init__(self, n: int, k: int, *, largest: bool) -> None:
        import torch

        self.logits = torch.full((n, k), -math.inf if largest else math.inf)
        self.ids = torch.zeros((n, k), dtype=torch.int64)
        self._largest = largest

    def add(self, start: int, logits: Tensor, first: int) -> None:
        """Add the logits ``[m, V]`` of ``m`` latents from ``start``, of tokens from ``first``."""
        import torch

        rows, k = slice(start, start + len(logits)), self.ids.shape[1]
        new = logits.topk(min(k, logits.shape[1]), largest=self._largest)
        kept = torch.cat([self.logits[rows], new.values], 1).topk(k, largest=self._largest)
        self.ids[rows] = torch.cat([self.ids[rows], new.indices + first], 1).gather(1, kept.indices)
        self.logits[rows] = kept.values


@functools.lru_cache(maxsize=1)
def load_unembedding(name: str | Path) -> Unembedding:
    """Load the unembedding and the final norm from the files of a head's backbone; the last result is cached.

    Raises:
        SparseRMError: the model is not available, or its files have no unembedding.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from sparserm.backbone.model import resolve

    folder, _ = resolve(name, may_download=False)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SparseRMError(f"the backbone {name} in {folder} cannot be read ({reason}); {_NO_UNEMBEDDING}") from error
    tied = config.get_text_config().tie_word_embeddings
    embedding, norm = model.get_input_embeddings().weight, _final_norm(model)
    weight = _read_unembedding(folder, _names(model, embedding), tuple(embedding.shape), tied)
    gain, centred = _gain(norm, {key: _read(folder, _names(model, value)).float() for key, value in norm.named_parameters()})
    return Unembedding(weight, gain, centred, tokenizer)


def _final_norm(model: Any) -> Any:
    """The last norm module outside the decoder layers."""
    from sparserm.backbone.model import decoder_layers

    inside = {id(module) for module in decoder_layers(model).modules()}
    norms = [m for m in model.modules() if "norm" in type(m).__name__.lower() and id(m) not in inside]
    if not norms:
        raise SparseRMError(f"no final norm was found in a {type(model).__name__}; {_NO_UNEMBEDDING}")
    return norms[-1]


def _gain(norm: Any, values: dict[str, Tensor]) -> tuple[Tensor, bool]:
    """The gain of a norm, and whether it subtracts the mean, measured by applying it: the gain is stored as ``w`` or ``1 + w``.

    A vector of alternating 1 and -1 has mean 0 and mean square 1, so every norm only multiplies it by the gain; a vector of
    ones becomes zero if the norm subtracts the mean.
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
    """Possible names of a parameter in a file: with and without the prefix, which bare models omit."""
    names = {key for key, value in model.named_parameters(remove_duplicate=False) if value is parameter}
    return names | {name.partition(".")[2] for name in names}


def _read_unembedding(folder: Path, embeddings: set[str], shape: tuple[int, ...], tied: bool) -> Tensor:
    """The unembedding: the embeddings if tied, else the other tensor of the same shape, whatever its name."""
    names = [name for name, found in _tensors(folder) if tuple(found) == shape and (tied or name not in embeddings)]
    if not names:
        raise SparseRMError(f"{folder} has no unembedding of shape {shape}; {_NO_UNEMBEDDING}")
    return _read(folder, set(names[:1]))


def _read(folder: Path, names: set[str]) -> Tensor:
    """Read one tensor, under any of its names, from the folder's safetensors files."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in names & set(file.keys()):
                return file.get_tensor(key)
    raise SparseRMError(f"{folder} has no tensor {' or '.join(sorted(names))}; {_NO_UNEMBEDDING}")


def _tensors(folder: Path) -> list[tuple[str, list[int]]]:
    """Names and shapes of all tensors in the folder's safetensors files."""
    from safetensors import SafetensorError, safe_open

    found: list[tuple[str, list[int]]] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()  # not a mapping: it cannot be iterated itself
                found += [(name, file.get_slice(name).get_shape()) for name in names]
        except (OSError, SafetensorError) as error:
            raise SparseRMError(f"{path} cannot be read ({error}); {_NO_UNEMBEDDING}") from error
    return found

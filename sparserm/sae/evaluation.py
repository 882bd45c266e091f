"""Quality of an SAE on held-out text: explained variance, sparsity, dead latents, loss recovered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from sparserm.backbone.model import Backbone, hooked_module
from sparserm.sae.activations import corpus_states, tokenize_conversation
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import Message, Progress


@dataclass(frozen=True)
class SAEQuality:
    """Quality measures, named as in SAEBench (Karvonen et al., 2025).

    Attributes:
        explained_variance: 1 - |x - x_hat|^2 / |x - mean(x)|^2, both summed over all tokens.
        l0: latents active per token.
        dead: share of latents that fired at none of the ``n_tokens`` tokens.
        loss_recovered: (L_zero - L_sae) / (L_zero - L_clean), where L is the language model's cross-entropy with the
            activations replaced by zeros, replaced by the reconstruction, or unchanged.
        n_tokens: number of tokens evaluated.
    """

    explained_variance: float
    l0: float
    dead: float
    loss_recovered: float
    loss_clean: float
    loss_sae: float
    loss_zero: float
    n_tokens: int

    def to_dict(self) -> dict[str, float]:
        """For ``metrics.json``."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def evaluate_sae(
    sae: SparseAutoencoder,
    backbone: Backbone,
    language_model: torch.nn.Module,
    conversations: Sequence[Sequence[Message]],
    *,
    progress: Progress | None = None,
) -> SAEQuality:
    """Evaluate an SAE on conversations that it was not trained on.

    Args:
        language_model: the full model of ``backbone`` with its unembedding, in float32.
        conversations: held-out text; the opening tokens that all share are left out, as in training.
    """
    residual = fired = 0.0
    ever = np.zeros(sae.d_sae, bool)
    n = 0
    sums, squares = np.zeros(sae.d_in), 0.0
    for states in corpus_states(backbone, conversations, [sae.hook]):
        x = torch.from_numpy(states[sae.hook])
        z = sae.encode(x)
        residual += float((x - sae.reconstruct(x)).double().pow(2).sum())
        sums += x.double().sum(0).numpy()
        squares += float(x.double().pow(2).sum())
        fired += float((z > 0).sum())
        ever |= (z > 0).any(0).numpy()
        n += len(x)
    total = squares - float((sums**2).sum()) / n
    clean, patched, zero = _losses(sae, backbone, language_model, conversations, progress)
    return SAEQuality(
        explained_variance=1 - residual / total,
        l0=fired / n,
        dead=float(1 - ever.mean()),
        loss_recovered=(zero - patched) / (zero - clean),
        loss_clean=clean,
        loss_sae=patched,
        loss_zero=zero,
        n_tokens=n,
    )


def _losses(
    sae: SparseAutoencoder,
    backbone: Backbone,
    language_model: torch.nn.Module,
    conversations: Sequence[Sequence[Message]],
    progress: Progress | None,
) -> tuple[float, float, float]:
    """Mean cross-entropy per token with the activations unchanged, reconstructed, and set to zero."""
    skip = backbone.chat.shared_prefix()
    sums = [0.0, 0.0, 0.0]
    n = 0
    for done, conversation in enumerate(conversations, 1):
        ids = torch.tensor([tokenize_conversation(backbone, conversation).ids])
        if ids.shape[1] <= skip + 1:
            continue
        for which, patch in enumerate((None, sae.reconstruct, torch.zeros_like)):
            sums[which] += _loss(language_model, ids, sae, patch, skip)
        n += ids.shape[1] - skip - 1
        if progress:
            progress(done, len(conversations), f"Loss recovered, layer {sae.hook.layer} (texts)")
    return sums[0] / n, sums[1] / n, sums[2] / n


def _loss(
    model: torch.nn.Module, ids: Tensor, sae: SparseAutoencoder, patch: Callable[[Tensor], Tensor] | None, skip: int
) -> float:
    """Summed cross-entropy of the tokens after ``skip``, with the activations patched from ``skip`` on."""

    def replace(x: Tensor) -> Tensor:
        return x if patch is None else torch.cat([x[:, :skip], patch(x[:, skip:])], 1)

    module = hooked_module(model, sae.hook)
    if sae.hook.site == "resid_pre":
        handle = module.register_forward_pre_hook(lambda _module, inputs: (replace(inputs[0]), *inputs[1:]))
    else:
        handle = module.register_forward_hook(lambda _module, _inputs, output: replace(output))
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, skip:-1].float()
    finally:
        handle.remove()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, skip + 1 :], reduction="sum"))

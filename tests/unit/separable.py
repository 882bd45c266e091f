"""Made-up representations of pairs, separable by one direction or pure noise, and an SAE with that direction."""

from __future__ import annotations

import numpy as np
import torch

from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint

D = 8


def represented_pairs(
    chosen: np.ndarray,
    rejected: np.ndarray,
    groups: np.ndarray | None = None,
    lengths: tuple[list[int], list[int]] | None = None,
    truncated: tuple[list[int], list[int]] | None = None,
) -> PairRepresentations:
    """Every latent fires in every response, so that its gated score is its projection."""
    n, d_sae = len(chosen), 2 * D

    def side(i: int, h: np.ndarray) -> Representations:
        ones, gated = np.ones(n * d_sae, np.float32), (h @ SAE.directions().numpy().T).astype(np.float32).ravel()
        latents = LatentSummary(np.arange(n + 1) * d_sae, firings(np.tile(np.arange(d_sae), n), ones, ones, gated), d_sae)
        tokens = np.array(lengths[i] if lengths else [1] * n, np.int32)
        cut = np.array(truncated[i] if truncated else [0] * n, np.int32)
        return Representations("mean", h.astype(np.float32), tokens, cut, latents)

    return PairRepresentations(side(0, chosen), side(1, rejected), np.arange(n) if groups is None else groups)


def separable(seed: int, n: int = 120) -> PairRepresentations:
    """Chosen and rejected differ by the sign of the first dimension; everything else is noise."""
    rng = np.random.default_rng(seed)
    chosen, rejected = rng.normal(size=(2, n, D))
    chosen[:, 0], rejected[:, 0] = 0.5 + rng.random(n), -0.5 - rng.random(n)
    return represented_pairs(chosen, rejected, np.arange(n) // 2)


def noise(seed: int, n: int = 120) -> PairRepresentations:
    return represented_pairs(*np.random.default_rng(seed).normal(size=(2, n, D)), np.arange(n) // 2)


def _sae() -> SparseAutoencoder:
    """Latent j reads dimension j; the second half of the latents is random. Its biases make all of them fire."""
    decoder = torch.cat([torch.eye(D), torch.randn(D, D, generator=torch.Generator().manual_seed(0))])
    weights = {"W_enc": decoder.T.contiguous(), "b_enc": torch.full((2 * D,), 1e3), "W_dec": decoder, "b_dec": torch.zeros(D)}
    return SparseAutoencoder("made up", "standard", HookPoint(0), "", weights)


SAE = _sae()
TRAIN, TEST = separable(0), separable(1)

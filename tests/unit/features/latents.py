"""A tiny random SAE, and pairs whose latents fire where a test says."""

from __future__ import annotations

import numpy as np
import torch

from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint

D, D_SAE = 6, 5


def tiny_sae(d_in: int = D, d_sae: int = D_SAE) -> SparseAutoencoder:
    """A random ReLU SAE."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, d_in, generator=generator)
    b_dec = torch.randn(d_in, generator=generator)
    weights = {"W_enc": W_dec.T.contiguous(), "b_enc": torch.zeros(d_sae), "W_dec": W_dec, "b_dec": b_dec}
    return SparseAutoencoder("tiny", "standard", HookPoint(2), "", weights)


def pairs_where(fires: np.ndarray, groups: list[int] | None = None, rate: float = 0.25, seed: int = 0) -> PairRepresentations:
    """Pairs of random representations whose latents fire as ``fires [2, n, d_sae]`` says."""
    rng = np.random.default_rng(seed)

    def side(active: np.ndarray) -> Representations:
        n = len(active)
        rows, latents = np.nonzero(active)
        indptr = np.concatenate([[0], np.cumsum(active.sum(1))]).astype(np.int64)
        peaks = (1 + np.arange(len(rows))).astype(np.float32)
        summary = LatentSummary(indptr, firings(latents, np.full(len(rows), rate), peaks, peaks), active.shape[1])
        h = rng.normal(size=(n, D)).astype(np.float32)
        lengths = rng.integers(4, 40, n).astype(np.int32)
        return Representations("mean", h, lengths, np.zeros(n, np.int32), summary)

    n = fires.shape[1]
    return PairRepresentations(side(fires[0]), side(fires[1]), np.array(groups if groups is not None else range(n)))

"""What a ranker is given, made from separable pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sparserm.benchmark.rankers import Material
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, firings
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import HookPoint
from tests.unit.separable import SAE as DECODER
from tests.unit.separable import TEST, TRAIN, D

#: The SAE of these pairs with an encoder: every latent reads along its own direction.
WEIGHTS = {"W_enc": DECODER.directions().T.contiguous(), "b_enc": torch.zeros(2 * D)}
SAE = SparseAutoencoder(
    "made up", "standard", HookPoint(0), "", {"W_dec": DECODER.directions(), "b_dec": torch.zeros(D), **WEIGHTS}
)


def _with_latents(pairs: PairRepresentations) -> PairRepresentations:
    """The latents that the SAE gives for ``h``, as if every response had one token."""

    def side(one: Representations) -> Representations:
        z = SAE.encode(torch.from_numpy(one.h)).numpy()
        rows, indices = np.nonzero(z > 0)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(z)))])
        peaks = z[rows, indices].astype(np.float32)
        latents = LatentSummary(indptr, firings(indices, np.ones_like(peaks), peaks, peaks), SAE.d_sae)
        return replace(one, latents=latents)

    return PairRepresentations(side(pairs.chosen), side(pairs.rejected), pairs.groups)


def make_material(train: PairRepresentations = TRAIN, test: PairRepresentations = TEST) -> Material:
    train, test = _with_latents(train), _with_latents(test)
    return Material({"mean": train, "last": train}, {"mean": test, "last": test}, SAE, pooling=train.pooling)

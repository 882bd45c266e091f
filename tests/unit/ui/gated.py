"""A tiny gated head, and explanations by it."""

from __future__ import annotations

import numpy as np

from sparserm.explain.contributions import Explanation, explain_response
from sparserm.heads.reward import Encoder, RewardHead, ScoreMoments, build_head
from sparserm.types import Pooling
from tests.unit.features.latents import D, tiny_sae

FEATURES = (0, 2, 4)


def gated_head(pooling: Pooling = "mean") -> RewardHead:
    """A head of three latents of the tiny SAE; feature 2 fires never."""
    sae = tiny_sae()
    sae.weights["b_enc"][2] = -1e6
    part = sae.part(FEATURES)
    moments = ScoreMoments(np.zeros(3), np.array([0.5, 1.0, 2.0]))
    directions, center = part.directions().numpy(), part.b_dec.numpy()
    weights = np.array([1.0, 2.0, -0.5])
    return build_head(np.array(FEATURES), directions, center, moments, weights, pooling, Encoder.of(part))


def explained(seed: int, pooling: Pooling = "mean", n: int = 6) -> Explanation:
    """A response of ``n`` random tokens, explained by the head."""
    h = np.random.default_rng(seed).normal(scale=2, size=(n + 1, D)).astype(np.float32)
    return explain_response(gated_head(pooling), h, [f" w{i}" for i in range(n)], {0: "polite", 4: "with, a comma"})

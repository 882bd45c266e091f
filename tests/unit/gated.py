"""Tiny SAEs with a threshold for each latent, made-up gated scores of pairs, and pairs that a tiny model tells apart."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from sparserm.backbone.model import Backbone
from sparserm.heads.screening import GatedScores
from sparserm.heads.selection import FeatureStats
from sparserm.pairs.parsing import parse_pairs
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import PreferenceData, TokenizedText
from tests.unit.tiny import D_SAE, HIDDEN, HOOK

#: Architectures in which a latent has a threshold of its own.
SEPARABLE = ("standard", "jumprelu", "gated")


def gated_sae(
    states: Tensor,
    architecture: str = "jumprelu",
    *,
    normalize: str = "none",
    apply_b_dec: bool = True,
    d_sae: int = D_SAE,
    rate: float = 0.2,
    seed: int = 0,
) -> SparseAutoencoder:
    """A random SAE of which each latent fires at about a share ``rate`` of the tokens ``states [n, d]``."""
    generator = torch.Generator().manual_seed(seed)
    d = states.shape[1]
    weights = {
        "W_enc": torch.randn(d, d_sae, generator=generator),
        "W_dec": 3 * torch.randn(d_sae, d, generator=generator),
        "b_dec": 0.3 * torch.randn(d, generator=generator),
        "b_enc": torch.randn(d_sae, generator=generator),
        "threshold": torch.zeros(d_sae),
    }
    bare = SparseAutoencoder("tiny", "jumprelu", HOOK, "tiny", weights, None, normalize, apply_b_dec)
    x = bare._normalise(states.float())[0] - (weights["b_dec"] if apply_b_dec else 0)
    # In the largest gap nearby: where a token lies at the limit itself, rounding decides whether the latent fires.
    ordered = (x @ weights["W_enc"]).sort(dim=0).values
    near = ordered[int((0.95 - rate) * len(x)) : int((1.05 - rate) * len(x)) + 2]
    at = near.diff(dim=0).argmax(0)
    limit = (near.gather(0, at[None]) + near.gather(0, at[None] + 1))[0] / 2
    if architecture == "jumprelu":  # an activation is at least its threshold, never just above zero
        weights |= {"threshold": limit.abs() + 1, "b_enc": limit.abs() + 1 - limit}
    elif architecture == "standard":
        weights |= {"b_enc": -limit}
    else:  # the gate and the magnitude both decide where it fires
        extra = {"b_gate": -limit, "b_mag": torch.randn(d_sae, generator=generator), "r_mag": 0.1 * weights["b_enc"]}
        weights = {**{name: weights[name] for name in ("W_enc", "W_dec", "b_dec")}, **extra}
    if architecture != "jumprelu":
        weights.pop("threshold", None)
    return SparseAutoencoder("tiny", architecture, HOOK, "tiny", weights, None, normalize, apply_b_dec)


def topk_sae() -> SparseAutoencoder:
    """A random SAE in which a latent fires if it is among the four largest."""
    decoder = torch.randn(D_SAE, HIDDEN, generator=torch.Generator().manual_seed(0))
    weights = {"W_enc": decoder.T.contiguous(), "b_enc": torch.zeros(D_SAE), "W_dec": decoder, "b_dec": torch.zeros(HIDDEN)}
    return SparseAutoencoder("tiny topk", "topk", HOOK, "tiny", weights, k=4)


def polite_pairs(n: int = 40) -> PreferenceData:
    """Polite answers are preferred over rude ones; two pairs for each prompt."""
    rng = np.random.default_rng(0)
    polite, rude = ["please", "thanks", "gladly", "of", "course"], ["shut", "up", "go", "away", "never"]
    rows = []
    for i in range(n):
        chosen, rejected = (" ".join(rng.choice(words, rng.integers(2, 7))) + f" {i}." for words in (polite, rude))
        rows.append({"prompt": f"Question {i // 2}?", "chosen": chosen, "rejected": rejected})
    return parse_pairs(rows, "polite")


def tokenized(data: PreferenceData, backbone: Backbone) -> list[TokenizedText]:
    """All chosen responses, then all rejected ones, as :func:`sparserm.types.pair_texts`."""
    pairs = data.pairs
    return [backbone.tokenize(pair.prompt, pair.chosen) for pair in pairs] + [
        backbone.tokenize(pair.prompt, pair.rejected) for pair in pairs
    ]


def states_of(texts: list[TokenizedText], backbone: Backbone) -> list[np.ndarray]:
    """``[T + c, d]`` states of each text at the hook: the response's tokens, then those that close its turn."""
    found = dict(backbone.hidden_states(texts, [HOOK]))
    return [found[i][HOOK].numpy() for i in range(len(texts))]


def made_up_scores(
    chosen: np.ndarray, rejected: np.ndarray, groups: np.ndarray | None = None, length_gaps: np.ndarray | None = None
) -> GatedScores:
    """Scores of pairs from dense arrays ``[n, d_sae]``; each pair has a prompt of its own if no groups are given."""
    n = len(chosen)
    groups = np.arange(n) if groups is None else groups
    gaps = np.zeros(n) if length_gaps is None else length_gaps
    return GatedScores(csr_matrix(chosen.astype(np.float64)), csr_matrix(rejected.astype(np.float64)), groups, gaps)


def sparse_scores(rng: np.random.Generator, shape: tuple[int, int], rate: np.ndarray | float) -> np.ndarray:
    """Scores that are zero where a latent is silent, and positive in a share ``rate`` of the responses."""
    return (rng.random(shape) < rate) * rng.gamma(2.0, 1.0, shape)


def stats_of(scores: GatedScores) -> FeatureStats:
    """Activation frequencies of the latents in such scores."""
    return FeatureStats(*(np.asarray((side != 0).mean(0)).ravel() for side in (scores.chosen, scores.rejected)))

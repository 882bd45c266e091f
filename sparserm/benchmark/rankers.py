"""Rankers: ways to rank responses from representations, SparseRM heads and their baselines; each is one function.

All of them are trained on the same pairs at the same hook point, and all penalties are chosen by cross-validation over the
prompts of these pairs, so that no ranker uses more labels than its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparserm.evaluation.accuracy import Evaluation, evaluate_margins
from sparserm.evaluation.baselines import longer_margins
from sparserm.heads.bradley_terry import fit_probe
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import reward_margins
from sparserm.representations.values import LatentSummary, PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES
from sparserm.support.threads import one_thread
from sparserm.types import Pooling, Score


@dataclass(frozen=True)
class Material:
    """Training and test representations for the rankers.

    Attributes:
        train, test: representations at the SAE's hook point by pooling, with latents; the same pairs for both poolings.
        sae: the SAE.
        pooling: used by the rankers that work with either pooling.
    """

    train: Mapping[Pooling, PairRepresentations]
    test: Mapping[Pooling, PairRepresentations]
    sae: SparseAutoencoder
    pooling: Pooling = "mean"

    def take(self, rows: np.ndarray) -> Material:
        """The same material with only the training pairs ``rows``."""
        return replace(self, train={pooling: pairs.take(rows) for pooling, pairs in self.train.items()})

    @property
    def pairs(self) -> tuple[PairRepresentations, PairRepresentations]:
        """Training and test pairs in the chosen pooling."""
        return self.train[self.pooling], self.test[self.pooling]


@dataclass(frozen=True)
class Ranking:
    """``margins [n]`` of a trained ranker on the test pairs, and its number of learned parameters."""

    margins: np.ndarray
    n_parameters: int

    def evaluate(self, test: PairRepresentations) -> Evaluation:
        """Accuracy on the test pairs; a tie counts as wrong."""
        return evaluate_margins(self.margins, test)


Ranker = Callable[[Material, int], Ranking]


def head_ranker(selection: str, k: int | None = MAX_FEATURES, score: Score = "projection") -> Ranker:
    """A head of ``k`` features, or with gated scores at most so many, chosen by a selector of that score.

    See :data:`~sparserm.heads.fitting.SELECTIONS`. With gated scores the SAE must be separable.
    """

    def rank(material: Material, seed: int) -> Ranking:
        train, test = material.pairs
        settings = FitSettings(k=k, pooling=material.pooling, selection=selection, seed=seed, score=score)
        head = fit_head(train, material.sae, settings).head
        return Ranking(reward_margins(head, test), len(head.features))

    return rank


def rank_longer(material: Material, seed: int) -> Ranking:
    """Prefer the longer response, in tokens."""
    _, test = material.pairs
    return Ranking(longer_margins(test), 0)


def rank_dense(material: Material, seed: int) -> Ranking:
    """Bradley-Terry probe on the whole representation."""
    train, test = material.pairs
    return _probe(train.differences, test.differences, train.groups)


def rank_random_directions(material: Material, seed: int) -> Ranking:
    """Bradley-Terry probe on projections onto Gaussian random directions, as many as a head has features."""
    train, test = material.pairs
    drawn = np.random.default_rng(seed).standard_normal((MAX_FEATURES, train.differences.shape[1])).astype(np.float32)
    return _probe(train.differences @ drawn.T, test.differences @ drawn.T, train.groups)


def random_dictionary_ranker(k: int = MAX_FEATURES) -> Ranker:
    """A head selected from Gaussian random directions, as many as the SAE has latents.

    It shows how much of a head's accuracy comes from selection rather than from the SAE. Directions that replace latents that
    never fired are left out, as those latents are.
    """

    def rank(material: Material, seed: int) -> Ranking:
        known = material.sae.weights
        drawn = torch.randn(known["W_dec"].shape, generator=torch.Generator().manual_seed(seed))
        sae = replace(material.sae, weights={**known, "W_dec": drawn})
        return head_ranker("sparse", k)(replace(material, sae=sae), seed)

    return rank


def rank_latents(material: Material, seed: int) -> Ranking:
    """Bradley-Terry probe on all latents of the SAE, each at its largest activation over the response.

    On validation pairs this ranked better than the share of tokens at which a latent fires, and far better than latents at the
    last token (:func:`rank_last_latents`).
    """
    train, test = (_peak_differences(pairs) for pairs in material.pairs)
    return _on_live(train, test, material.pairs[0].groups)


def rank_few_latents(material: Material, seed: int) -> Ranking:
    """Like :func:`rank_latents`, refitted on the latents of largest standardised weight, as many as a head has features."""
    train, test = (_peak_differences(pairs) for pairs in material.pairs)
    groups = material.pairs[0].groups
    live = np.flatnonzero(np.abs(train).max(0) > 0)
    with one_thread():
        weights = fit_probe(train[:, live], groups).weights
    kept = live[np.argsort(-np.abs(weights) * train[:, live].std(0), kind="stable")[:MAX_FEATURES]]
    return _probe(train[:, kept], test[:, kept], groups)


def rank_last_latents(material: Material, seed: int) -> Ranking:
    """Bradley-Terry probe on all latents of the SAE at the last token, as in SARM (arXiv 2508.08746)."""

    def difference(pairs: PairRepresentations) -> np.ndarray:
        chosen, rejected = (material.sae.encode(torch.tensor(one.h)) for one in (pairs.chosen, pairs.rejected))
        return (chosen - rejected).cpu().numpy()

    train, test = material.train["last"], material.test["last"]
    return _on_live(difference(train), difference(test), train.groups)


#: Rankers by their name in results, in the order of the tables. A head with default settings is ``gated`` for a separable SAE,
#: and ``sparse`` for the others, for which the gated rankers are refused.
RANKERS: dict[str, Ranker] = {
    "gated": head_ranker("stable", None, "gated"),
    "sparse": head_ranker("sparse"),
    **{f"frequency-{k}": head_ranker("frequency", k) for k in (16, 32, 64, 128)},
    "dense": rank_dense,
    "latents": rank_latents,
    "latents-32": rank_few_latents,
    "latents-last": rank_last_latents,
    "random-latents": head_ranker("random"),
    "random-latents-gated": head_ranker("random", score="gated"),
    "random-directions": rank_random_directions,
    "random-dictionary": random_dictionary_ranker(),
    "longer": rank_longer,
}


def _peak_differences(pairs: PairRepresentations) -> np.ndarray:
    """``[n, d_sae]`` float32 largest activations, chosen minus rejected."""
    return _peaks(pairs.chosen.strengths) - _peaks(pairs.rejected.strengths)


def _peaks(latents: LatentSummary) -> np.ndarray:
    n = len(latents.indptr) - 1
    dense = np.zeros((n, latents.d_sae), np.float32)
    dense[np.repeat(np.arange(n), np.diff(latents.indptr)), latents.indices] = latents.peak
    return dense


def _on_live(train: np.ndarray, test: np.ndarray, groups: np.ndarray) -> Ranking:
    """Fit a probe on the latents that differ in at least one training pair."""
    live = np.flatnonzero(np.abs(train).max(0) > 0)
    return _probe(train[:, live], test[:, live], groups)


def _probe(train: np.ndarray, test: np.ndarray, groups: np.ndarray) -> Ranking:
    with one_thread():
        probe = fit_probe(train, groups)
    return Ranking(test @ probe.weights, train.shape[1])

"""Ways to turn representations into a ranking, ours and those that it has to stand beside; each is one function.

All of them see the same training pairs at the same hook, and all penalties are chosen by cross-validation over the prompts of
these pairs, so that a small budget is a small budget in every respect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparserm.evaluation.accuracy import Evaluation, evaluate_margins
from sparserm.heads.bradley_terry import fit_probe
from sparserm.heads.fitting import FitSettings, fit_head
from sparserm.heads.reward import reward_margins
from sparserm.representations.values import LatentSummary, PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES
from sparserm.support.threads import one_thread
from sparserm.types import Pooling


@dataclass(frozen=True)
class Material:
    """What a ranker is made from and judged on.

    Attributes:
        train, test: representations at the SAE's hook by pooling, with latents; the same pairs in both.
        sae: the dictionary.
        pooling: of the rankers that are not bound to one.
    """

    train: Mapping[Pooling, PairRepresentations]
    test: Mapping[Pooling, PairRepresentations]
    sae: SparseAutoencoder
    pooling: Pooling = "mean"

    def take(self, rows: np.ndarray) -> Material:
        """The same with the training pairs ``rows`` only."""
        return replace(self, train={pooling: pairs.take(rows) for pooling, pairs in self.train.items()})

    @property
    def pairs(self) -> tuple[PairRepresentations, PairRepresentations]:
        """Training and test pairs in the chosen pooling."""
        return self.train[self.pooling], self.test[self.pooling]


@dataclass(frozen=True)
class Ranking:
    """What a ranker says of the test pairs: ``margins [n]`` and how many numbers it learned."""

    margins: np.ndarray
    n_parameters: int

    def evaluate(self, test: PairRepresentations) -> Evaluation:
        """Accuracy on the test pairs; a tie counts as wrong."""
        return evaluate_margins(self.margins, test)


Ranker = Callable[[Material, int], Ranking]


def head_ranker(selection: str, k: int = MAX_FEATURES) -> Ranker:
    """A head of ``k`` features chosen by a selector (:data:`~sparserm.heads.selection.SELECTORS`)."""

    def rank(material: Material, seed: int) -> Ranking:
        train, test = material.pairs
        settings = FitSettings(k=k, pooling=material.pooling, selection=selection, seed=seed)
        head = fit_head(train, material.sae, settings).head
        return Ranking(reward_margins(head, test), k)

    return rank


def rank_longer(material: Material, seed: int) -> Ranking:
    """Prefers the longer response, in tokens."""
    _, test = material.pairs
    return Ranking((test.chosen.n_tokens - test.rejected.n_tokens).astype(np.float64), 0)


def rank_dense(material: Material, seed: int) -> Ranking:
    """Bradley-Terry on the whole representation."""
    train, test = material.pairs
    return _probe(train.differences, test.differences, train.groups)


def rank_random_directions(material: Material, seed: int) -> Ranking:
    """Bradley-Terry on projections onto as many directions as a head has features, drawn from a Gaussian."""
    train, test = material.pairs
    drawn = np.random.default_rng(seed).standard_normal((MAX_FEATURES, train.differences.shape[1])).astype(np.float32)
    return _probe(train.differences @ drawn.T, test.differences @ drawn.T, train.groups)


def random_dictionary_ranker(k: int = MAX_FEATURES) -> Ranker:
    """Ours, but selected from as many directions drawn from a Gaussian as the SAE has latents: what a head owes to selection
    and not to the SAE. Directions in the place of latents that never fired are left out, as these are.
    """

    def rank(material: Material, seed: int) -> Ranking:
        known = material.sae.weights
        drawn = torch.randn(known["W_dec"].shape, generator=torch.Generator().manual_seed(seed))
        sae = replace(material.sae, weights={**known, "W_dec": drawn})
        return head_ranker("sparse", k)(replace(material, sae=sae), seed)

    return rank


def rank_latents(material: Material, seed: int) -> Ranking:
    """Bradley-Terry on all latents of the SAE, each at its largest activation over the response.

    On validation pairs this ranked better than the share of tokens at which a latent fires, and by far better than latents
    at the last token (:func:`rank_last_latents`).
    """
    train, test = (_peak_differences(pairs) for pairs in material.pairs)
    return _on_live(train, test, material.pairs[0].groups)


def rank_few_latents(material: Material, seed: int) -> Ranking:
    """The same on as many latents as a head has features: those of largest standardised weight, fitted anew."""
    train, test = (_peak_differences(pairs) for pairs in material.pairs)
    groups = material.pairs[0].groups
    live = np.flatnonzero(np.abs(train).max(0) > 0)
    with one_thread():
        weights = fit_probe(train[:, live], groups).weights
    kept = live[np.argsort(-np.abs(weights) * train[:, live].std(0), kind="stable")[:MAX_FEATURES]]
    return _probe(train[:, kept], test[:, kept], groups)


def rank_last_latents(material: Material, seed: int) -> Ranking:
    """Bradley-Terry on all latents of the SAE at the last token, as SARM does (arXiv 2508.08746)."""

    def difference(pairs: PairRepresentations) -> np.ndarray:
        chosen, rejected = (material.sae.encode(torch.tensor(one.h)) for one in (pairs.chosen, pairs.rejected))
        return (chosen - rejected).cpu().numpy()

    train, test = material.train["last"], material.test["last"]
    return _on_live(difference(train), difference(test), train.groups)


#: By the name that stands in results, in the order of the tables.
RANKERS: dict[str, Ranker] = {
    "sparse": head_ranker("sparse"),
    **{f"frequency-{k}": head_ranker("frequency", k) for k in (16, 32, 64, 128)},
    "dense": rank_dense,
    "latents": rank_latents,
    "latents-32": rank_few_latents,
    "latents-last": rank_last_latents,
    "random-latents": head_ranker("random"),
    "random-directions": rank_random_directions,
    "random-dictionary": random_dictionary_ranker(),
    "longer": rank_longer,
}


def _peak_differences(pairs: PairRepresentations) -> np.ndarray:
    """``[n, d_sae]`` float32 largest activations of chosen minus rejected."""
    return _peaks(pairs.chosen.strengths) - _peaks(pairs.rejected.strengths)


def _peaks(latents: LatentSummary) -> np.ndarray:
    n = len(latents.indptr) - 1
    dense = np.zeros((n, latents.d_sae), np.float32)
    dense[np.repeat(np.arange(n), np.diff(latents.indptr)), latents.indices] = latents.peak
    return dense


def _on_live(train: np.ndarray, test: np.ndarray, groups: np.ndarray) -> Ranking:
    """A probe on the latents that differ in some training pair."""
    live = np.flatnonzero(np.abs(train).max(0) > 0)
    return _probe(train[:, live], test[:, live], groups)


def _probe(train: np.ndarray, test: np.ndarray, groups: np.ndarray) -> Ranking:
    with one_thread():
        probe = fit_probe(train, groups)
    return Ranking(test @ probe.weights, train.shape[1])

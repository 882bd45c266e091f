"""Baselines that every head is compared with: longer is better, a dense probe, and heads over random latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparserm.heads.bradley_terry import fit_probe
from sparserm.heads.fitting import FitSettings, FittedHead, fit_each
from sparserm.heads.reward import RewardHead, reward_margins
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.threads import one_thread


def longer_margins(pairs: PairRepresentations) -> np.ndarray:
    """``[n]`` float64 margins of "longer is better": tokens of the chosen response minus those of the rejected one."""
    return (pairs.chosen.n_tokens - pairs.rejected.n_tokens).astype(np.float64)


def dense_probe_margins(train: PairRepresentations, test: PairRepresentations, l2: float | None = None) -> np.ndarray:
    """``[n_test]`` margins of a Bradley-Terry probe on the whole standardised representation.

    Args:
        l2: the ridge penalty; None chooses it by cross-validation over the training prompts.
    """
    with one_thread():
        return test.differences @ fit_probe(train.differences, train.groups, l2).weights


def of_size(settings: FitSettings, fitted: FittedHead) -> FitSettings:
    """The settings of a head with as many features as the fitted one, whose number the data may have chosen."""
    return replace(settings, score=fitted.head.score, k=len(fitted.head.features))


def random_settings(settings: FitSettings, draws: int = 5) -> list[FitSettings]:
    """The same settings with features drawn at random from all latents, once for each of ``draws`` seeds."""
    return [replace(settings, selection="random", named=False, seed=seed) for seed in range(draws)]


def random_latent_heads(train: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> list[RewardHead]:
    """Heads over ``settings.k`` latents drawn at random: the baseline for feature selection."""
    return [fitted.head for fitted in fit_each(train, sae, random_settings(settings))]


def random_latents_accuracy(
    train: PairRepresentations, test: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings
) -> float:
    """Mean test accuracy of :func:`random_latent_heads`; a tie counts as wrong."""
    heads = random_latent_heads(train, sae, settings)
    return float(np.mean([(reward_margins(head, test) > 0).mean() for head in heads]))

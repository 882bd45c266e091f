"""Do insights replicate, find what is there, and are they silent where there is nothing? ``python -m benchmarks.insights``.

Null: the labels of each task's training pairs are shuffled over pairs; features that still count as sure are false. Halves: the
prompts of each task in two halves, held beside each other; features that surely differ are false. Planted: one property at a
time is written into the chosen responses of pairs with shuffled labels; the first finding should be it, by its name, the words
at which it fires or its family.
Replication: what is sure on one half of the prompts, looked at on the other half, over several splits. Time: insights of 10,000
pairs from representations in memory; these are the pairs of a task, repeated with prompts of their own. Results go to
``benchmarks/results/insights.json``.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import task_pairs, write_results
from benchmarks.heads import represent
from benchmarks.planted import PROPERTIES, names_property, planted_pairs
from benchmarks.planted import represent as represent_planted
from sparserm.backbone.model import Backbone
from sparserm.insights.effects import features_of, measure_effects
from sparserm.insights.find import insights_of, with_against
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder, load_sae
from sparserm.support.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, TASKS
from sparserm.training.evidence import shuffled
from sparserm.types import PreferenceData, PreferencePair

SHUFFLES, SPLITS = 20, 10
#: Pairs into which properties are planted.
PLANTED = 300
#: Pairs of which the time is measured, and how often.
TIMED, ROUNDS = 10_000, 3


def main() -> None:
    """Measure all tasks with the SAE of the default layer."""
    sae = load_sae(f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER}")
    backbone = Backbone.load(DEFAULT_BACKBONE, through_layer=DEFAULT_LAYER)
    found: dict[str, Any] = {}
    for task in TASKS:
        data = task_pairs(task, "train")
        pairs = represent(data, backbone, [sae])[DEFAULT_LAYER]
        insights = insights_of(data, pairs, sae)
        found[task] = {
            "pairs": insights.n_pairs,
            "tested": insights.n_tested,
            "sure": insights.n_sure,
            "families": len(insights.findings),
            "named": sum(one.named for one in insights.findings),
            "shuffled": [null(data, pairs, sae, seed) for seed in range(SHUFFLES)],
            "halves": [halves(data, pairs, sae, seed) for seed in range(SPLITS)],
            **replication(pairs),
            "seconds": timed(data, pairs, sae),
        }
        print(task, found[task], flush=True)
    looked_for = {name: planted(name, backbone, sae) for name in PROPERTIES}
    write_results("insights", {"sae": sae.fingerprint, "tasks": found, "planted": looked_for})


def null(data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder, seed: int) -> int:
    """Sure features after chosen and rejected were swapped in half of the pairs, drawn at random."""
    mixed = shuffled(pairs, seed)
    assert mixed.texts is not None and pairs.texts is not None
    swapped = mixed.texts[0] != pairs.texts[0]
    turned = [
        replace(one, chosen=one.rejected, rejected=one.chosen) if swap else one
        for one, swap in zip(data.pairs, swapped.tolist(), strict=True)
    ]
    return insights_of(replace(data, pairs=tuple(turned)), mixed, sae).n_sure


def halves(data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder, seed: int) -> int:
    """Features that surely differ between two halves of the prompts, drawn at random."""
    prompts = np.unique(pairs.groups)
    half = np.random.default_rng(seed).permutation(prompts)[: len(prompts) // 2]
    parts = []
    for other in (False, True):
        rows = np.flatnonzero(np.isin(pairs.groups, half, invert=other))
        parts.append((replace(data, pairs=tuple(data.pairs[row] for row in rows.tolist())), pairs.take(rows)))
    against = with_against(insights_of(*parts[0], sae), parts[0], parts[1], sae).against
    assert against is not None
    return against.n_sure


def planted(name: str, backbone: Backbone, sae: SparseAutoencoder) -> dict[str, Any]:
    """Rank of the first finding in favour that is a planted property, and what the first three say."""
    pairs = planted_pairs(name, PLANTED)
    data = PreferenceData("planted", tuple(pairs), (), len(pairs), name)
    found = insights_of(data, represent_planted(backbone, sae, pairs), sae).findings
    texts = [" ".join([one.name, one.evidence, *(member.name for member in one.family)]) for one in found]
    says = [names_property(name, text) for text in texts]
    return {"findings": len(found), "rank": says.index(True) + 1 if any(says) else None, "first": texts[:3]}


def replication(pairs: PairRepresentations) -> dict[str, float]:
    """Of the latents that are sure on one half: shares with the same sign on the other half, and sure there again."""
    prompts = np.unique(pairs.groups)
    same, again = [], []
    for seed in range(SPLITS):
        half = np.random.default_rng(seed).permutation(prompts)[: len(prompts) // 2]
        first, second = (np.flatnonzero(np.isin(pairs.groups, half, invert=other)) for other in (False, True))
        one = measure_effects(features_of(pairs.take(first)))
        sure = one.take(np.flatnonzero(one.sure))
        other = measure_effects(features_of(pairs.take(second)))
        place = {latent: i for i, latent in enumerate(other.latents.tolist())}
        for latent, z in zip(sure.latents.tolist(), sure.z.tolist(), strict=True):
            if latent in place:
                same.append(bool(other.z[place[latent]] * z > 0))
                again.append(bool(same[-1] and other.sure[place[latent]]))
    return {"same_sign": float(np.mean(same)), "sure_again": float(np.mean(again)), "looked_at": len(same) / SPLITS}


def timed(data: PreferenceData, pairs: PairRepresentations, sae: SparseAutoencoder) -> float:
    """Median seconds for :data:`TIMED` pairs: these, repeated, each time with prompts of their own."""
    rows = np.arange(TIMED) % len(data.pairs)
    groups = pairs.groups[rows] + (np.arange(TIMED) // len(data.pairs)) * (pairs.groups.max() + 1)
    many = replace(pairs.take(rows), groups=groups)
    seconds = []
    for number in range(ROUNDS):
        # Texts that no other pair nor round has, since what is counted in a text is kept.
        repeated = replace(data, pairs=tuple(_marked(data.pairs[row], f"{number} {i}") for i, row in enumerate(rows.tolist())))
        start = time.perf_counter()
        insights_of(repeated, many, sae)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _marked(pair: PreferencePair, mark: str) -> PreferencePair:
    return replace(pair, chosen=f"{pair.chosen} {mark}", rejected=f"{pair.rejected} {mark}")


if __name__ == "__main__":
    main()

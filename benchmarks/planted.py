"""Does selection find what is there, and nothing else? ``python -m benchmarks.planted [--sae SAE]``.

Null: the labels of each task's training pairs are shuffled over pairs; features that still count as sure are false. Planted:
one property at a time is written into the chosen responses of pairs with shuffled labels, and one of several other sentences
into the rejected ones. The feature that adds most to the margins of the pairs should then be the property, with a label, or
words at which it fires, that name it. Results go to ``benchmarks/results/planted.json``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.common import task_pairs, write_results
from sparserm.backbone.model import Backbone
from sparserm.features.auto_labels import Rule, label_features
from sparserm.features.detection import gather_texts
from sparserm.features.firing import find_firings
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head, fit_statistics
from sparserm.heads.gated_selection import GatedStatistics, select_stable
from sparserm.heads.inputs import load_parts
from sparserm.heads.reward import contributions, head_scores
from sparserm.heads.screening import FALSE_DISCOVERIES
from sparserm.representations.represent import represent_pairs
from sparserm.representations.store import stored
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE, TASKS
from sparserm.training.evidence import shuffled
from sparserm.types import PreferenceData, PreferencePair

SHUFFLES = 20
#: Pairs, each of another prompt, and the share of them whose chosen response gets the property.
PLANTED, SHARE = 400, 0.6

#: Properties by name, and how each is written into a response.
PROPERTIES: dict[str, Callable[[str], str]] = {
    "apology": lambda text: f"I'm sorry, but {text[:1].lower()}{text[1:]}",
    "thanks": lambda text: f"Thank you for asking! {text}",
    "hedge": lambda text: f"I am not sure, but perhaps {text[:1].lower()}{text[1:]}",
    "doctor": lambda text: f"{text} Please talk to your doctor first.",
    "law": lambda text: f"{text} This is against the law.",
    "question": lambda text: f"{text} What do you think?",
    "exclamation": lambda text: f"{text} How wonderful!",
    "list": lambda text: f"1. {text}\n2. Nothing else.",
    "example": lambda text: f"{text} For example, ask a friend.",
    "money": lambda text: f"{text} It costs twenty dollars.",
}
#: Sentences that are written into the other responses, so that the two differ in no more than the property.
OTHERS = (
    *("The shop opens at nine.", "Her brother lives in Spain.", "They painted the wall green.", "Rain fell all night."),
    *("A train left the station.", "The cat slept on a chair.", "We walked along the river.", "He reads every evening."),
    *("The soup was still warm.", "My aunt plays the piano.", "Snow covered the old bridge.", "Two boys kicked a ball."),
)


def main() -> None:
    """Run both checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sae", help="SAE; default: the shipped one")
    sae, backbone = load_parts(DEFAULT_BACKBONE, parser.parse_args().sae, None)
    null = {task: null_check(represent(backbone, sae, task_pairs(task, "train").pairs), sae) for task in TASKS}
    planted = {name: planted_check(name, backbone, sae) for name in PROPERTIES}
    write_results("planted", {"sae": sae.fingerprint, "null": null, "planted": planted})


def represent(backbone: Backbone, sae: SparseAutoencoder, pairs: Sequence[PreferencePair]) -> PairRepresentations:
    """Represented pairs with latent strengths."""
    with stored() as store:
        return represent_pairs(pairs, backbone, {sae.hook: sae}, "mean", strengths=True, store=store)[sae.hook]


def null_check(pairs: PairRepresentations, sae: SparseAutoencoder) -> dict[str, Any]:
    """Numbers of sure features that selection keeps: with the labels as they are, and in each shuffle of them."""

    def kept(one: PairRepresentations) -> int:
        statistics = fit_statistics(one, sae, FitSettings(score="gated"))
        assert isinstance(statistics, GatedStatistics)
        found, places = select_stable(statistics, 64)
        return int((found.q[places] <= FALSE_DISCOVERIES).sum())

    return {"labels": kept(pairs), "shuffled": [kept(shuffled(pairs, seed)) for seed in range(SHUFFLES)]}


def planted_check(name: str, backbone: Backbone, sae: SparseAutoencoder) -> dict[str, Any]:
    """Rank, among the features that count in favour, of the first that names a planted property, and the first labels."""
    pairs = planted_pairs(name, PLANTED)
    represented = represent(backbone, sae, pairs)
    fitted = fit_head(represented, sae, FitSettings(score="gated"))
    order, labels = _labels(fitted, pairs, represented, backbone, sae)
    named = [names_property(name, label) for label in labels]
    return {
        "features": len(order),
        "sure": fitted.n_sure,
        "rank": named.index(True) + 1 if any(named) else None,
        "labels": labels[:3],
    }


def planted_pairs(name: str, n: int) -> list[PreferencePair]:
    """``n`` neutral pairs with a property written into the chosen responses of :data:`SHARE` of them."""
    plant, pairs = PROPERTIES[name], _neutral_pairs(n)
    chosen = np.random.default_rng(1).random(len(pairs)) < SHARE
    return [
        replace(one, chosen=plant(one.chosen), rejected=f"{one.rejected} {OTHERS[i % len(OTHERS)]}") if has else one
        for i, (one, has) in enumerate(zip(pairs, chosen, strict=True))
    ]


def names_property(name: str, text: str) -> bool:
    """Whether a text has a telling word of a property, or one that begins as its name does."""
    words = set(re.findall(r"[a-z']+|[?!]", PROPERTIES[name]("").lower()))
    words -= {"i", "is", "it", "the", "a", "this", "that", "do", "you"}
    said = set(re.findall(r"[a-z']+|[?!]", text.lower()))
    return bool(words & said) or any(word.startswith(name.rstrip("sy")) for word in said)


def _neutral_pairs(n: int) -> list[PreferencePair]:
    """One pair for each of a sample of prompts, with chosen and rejected drawn at random."""
    first = list({pair.prompt: pair for pair in task_pairs("truthfulness", "train").pairs}.values())
    others = {pair.prompt: pair for pair in task_pairs("safety", "train").pairs}
    rng = np.random.default_rng(0)
    several = [*first, *others.values()][:n]
    return [
        replace(one, chosen=one.rejected, rejected=one.chosen) if swap else one
        for one, swap in zip(several, rng.random(len(several)) < 0.5, strict=True)
    ]


def _labels(
    fitted: FittedHead,
    pairs: Sequence[PreferencePair],
    represented: PairRepresentations,
    backbone: Backbone,
    sae: SparseAutoencoder,
) -> tuple[list[int], list[str]]:
    """Features that count in favour, in the order of what they add to the margins of the pairs, and what is said of them.

    That is the rule's label, and the words at which they fire.
    """
    head = fitted.head
    sides = (represented.chosen, represented.rejected)
    chosen, rejected = (contributions(head, head_scores(head, side)) for side in sides)
    gains = (chosen - rejected).mean(0)
    rewarded = np.flatnonzero(head.weights > 0)
    features = head.features[rewarded[np.argsort(-gains[rewarded], kind="stable")]].tolist()
    data = PreferenceData("planted", tuple(pairs), (), len(pairs), "planted")
    texts = gather_texts(pairs, represented)
    firing = find_firings(features, pairs, represented, texts.rows[texts.finding], backbone, sae)
    made = dict(label_features(features, data, represented, texts, Rule(), firing))
    return features, [f"{made[one].text or ''} ({made[one].evidence})" for one in features]


if __name__ == "__main__":
    main()

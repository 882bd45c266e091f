"""Pairs whose five latents fire on known properties of the responses."""

from __future__ import annotations

import numpy as np

from sparserm.features.detection import gather_texts
from sparserm.features.firing import describe_firings
from sparserm.representations.values import PairRepresentations
from sparserm.types import Message, PreferenceData, PreferencePair
from tests.unit.features.latents import D_SAE, pairs_where

N = 240

#: What the latents of the world fire on.
SORRY, CHANCE, RARE, LONG, ALWAYS = range(D_SAE)


def world(seed: int = 0) -> tuple[list[PreferencePair], PairRepresentations]:
    """Pairs whose latents fire on "sorry", by chance, in three responses, in long ones, and always."""
    rng = np.random.default_rng(seed)
    fillers = ["the", "a", "cat", "dog", "house", "tree", "runs", "sleeps", "slowly", "today"]
    fires = np.zeros((2, N, D_SAE), bool)
    fires[..., SORRY] = rng.random((2, N)) < 0.4
    fires[..., CHANCE] = rng.random((2, N)) < 0.5
    fires[0, :3, RARE] = True
    fires[..., ALWAYS] = True
    lengths = pairs_where(fires)
    for side, represented in enumerate((lengths.chosen, lengths.rejected)):
        fires[side, :, LONG] = represented.n_tokens > 22
    texts = [
        [" ".join([*(["sorry"] if fires[side, i, SORRY] else []), *rng.choice(fillers, 5), f"{side}-{i}"]) for i in range(N)]
        for side in range(2)
    ]
    pairs = [PreferencePair((Message("user", f"Question {i}"),), texts[0][i], texts[1][i]) for i in range(N)]
    return pairs, pairs_where(fires)


PAIRS, REPRESENTED = world()
TEXTS = gather_texts(PAIRS, REPRESENTED)
DATA = PreferenceData("world.jsonl", tuple(PAIRS), (), N, "abc")

#: Firings that were read nowhere.
NOWHERE = describe_firings([])
FIRING = dict.fromkeys(range(D_SAE), NOWHERE)

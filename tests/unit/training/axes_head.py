"""A head whose directions are the axes, and four pairs for it."""

from __future__ import annotations

import numpy as np

from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.split import short_key
from sparserm.representations.values import PairRepresentations, Representations
from sparserm.training.editing import HeadEdits
from sparserm.types import PreferenceData

PARENT = HeadEdits()


def represented_pairs(chosen: np.ndarray, rejected: np.ndarray, lengths: tuple[list[int], list[int]]) -> PairRepresentations:
    none = np.zeros(len(chosen), np.int32)
    sides = [
        Representations("mean", np.asarray(h, np.float32), np.array(n, np.int32), none)
        for h, n in zip((chosen, rejected), lengths, strict=True)
    ]
    return PairRepresentations(sides[0], sides[1], np.arange(len(chosen)))


def preference_data(n: int) -> PreferenceData:
    return parse_pairs([{"prompt": f"question {i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(n)], name="held out")


def saved_head(weights: list[float], *, trained_on: tuple[str, ...] = ()) -> SavedHead:
    """The directions are the axes, the scores standard already: h holds the scores themselves."""
    k = len(weights)
    head = RewardHead(
        features=np.arange(10, 10 + k),
        directions=np.eye(k, dtype=np.float32),
        center=np.zeros(k, np.float32),
        mu=np.zeros(k),
        sigma=np.ones(k),
        weights=np.array(weights),
        bias=0.5,
        pooling="mean",
    )
    card = HeadCard(
        "parent",
        "tiny",
        "b",
        "blocks.1.hook_resid_post",
        "sae",
        "s",
        64,
        training={"data": "train", "accuracy": 0.9, "settings": {"k": k}},
        metrics={"accuracy": 0.8},
        labels={10: "first"},
    )
    keys = np.array(sorted(short_key(prompt) for prompt in trained_on), np.int64)
    return SavedHead(head, card, np.zeros(k), np.zeros(k), np.arange(101.0), np.arange(101.0) - 50, keys)


# Four pairs, two features: the first is right three times of four, the second follows length and is right twice.
CHOSEN = np.array([[1, -2], [1, 2], [1, 0], [-1, 3]])
LENGTHS = ([10, 40, 20, 50], [30, 10, 20, 10])

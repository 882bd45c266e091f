"""A head of two features, and pairs with given margins under it."""

from __future__ import annotations

import numpy as np

from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.split import short_key
from sparserm.representations.values import PairRepresentations, Representations

HEAD = RewardHead(
    features=np.array([3, 7]),
    directions=np.eye(2, dtype=np.float32),
    center=np.zeros(2, np.float32),
    mu=np.zeros(2),
    sigma=np.array([1.0, 2.0]),
    weights=np.array([1.0, 4.0]),
    bias=0.5,
    pooling="mean",
)


def saved_head(*trained_on: str) -> SavedHead:
    card = HeadCard("made up", "tiny", "f", "blocks.0.hook_resid_post", "sae", "f", 16, labels={7: "seven"})
    keys = np.array([short_key(prompt) for prompt in trained_on], np.int64)
    return SavedHead(HEAD, card, np.zeros(2), np.zeros(2), np.zeros(101), np.zeros(101), keys)


def represented_pairs(chosen: list[list[float]], rejected: list[list[float]], tokens=None, groups=None) -> PairRepresentations:
    n = len(chosen)

    def side(h: list[list[float]], lengths: list[int]) -> Representations:
        return Representations("mean", np.array(h, np.float32), np.array(lengths), np.zeros(n, np.int32))

    lengths = tokens or [[10] * n, [10] * n]
    return PairRepresentations(
        side(chosen, lengths[0]), side(rejected, lengths[1]), np.arange(n) if groups is None else np.array(groups)
    )


def pairs_with_margins(*margins: float, tokens=None, groups=None) -> PairRepresentations:
    """Pairs with these margins under the head: its first feature has weight 1."""
    return represented_pairs([[m, 0] for m in margins], [[0, 0]] * len(margins), tokens, groups)


def preference_data(n: int, categories: list[str] | None = None):
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no", "id": f"id{i}"} for i in range(n)]
    return parse_pairs([{**row, "category": (categories or [""] * n)[i]} for i, row in enumerate(rows)])

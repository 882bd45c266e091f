"""Random heads with random states of responses."""

from __future__ import annotations

import numpy as np

from sparserm.explain.comparison import SideBySide
from sparserm.explain.contributions import explain_response
from sparserm.heads.reward import RewardHead


def random_head(seed: int, pooling: str) -> tuple[RewardHead, np.ndarray]:
    rng = np.random.default_rng(seed)
    k, d = int(rng.integers(1, 8)), 6
    directions = rng.normal(size=(k, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    head = RewardHead(
        features=np.sort(rng.choice(100, k, replace=False)),
        directions=directions.astype(np.float32),
        center=rng.normal(size=d).astype(np.float32),
        mu=rng.normal(size=k),
        sigma=rng.uniform(0.1, 3, k),
        weights=rng.normal(size=k),
        bias=float(rng.normal()),
        pooling=pooling,  # type: ignore[arg-type]
    )
    return head, rng.normal(size=(int(rng.integers(2, 20)), d)).astype(np.float32)


def compared(seed: int, pooling: str = "mean", n: int = 4) -> SideBySide:
    head, _ = random_head(seed, pooling)
    rng = np.random.default_rng(seed)
    states = [rng.normal(size=(int(rng.integers(2, 9)), 6)).astype(np.float32) for _ in range(n)]
    return SideBySide(tuple(explain_response(head, h, ["x"] * (len(h) - 1), {}) for h in states))

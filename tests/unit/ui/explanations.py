"""Explanations with given contributions."""

from __future__ import annotations

import numpy as np

from sparserm.explain.contributions import Contribution, Explanation


def explanation(*values: float, bias: float = 0.0, labels: dict[int, str] | None = None) -> Explanation:
    """Feature ``10 + j`` contributes the j-th value; largest first, as the engine gives them."""
    parts = [
        Contribution(10 + j, (labels or {}).get(10 + j, f"feature {10 + j}"), -2 * v, -0.5, v) for j, v in enumerate(values)
    ]
    parts.sort(key=lambda part: -abs(part.contribution))
    features = np.arange(10, 10 + len(values))
    return Explanation(sum(values) + bias, bias, tuple(parts), ("a",), np.array([values]), np.array([sum(values)]), features)

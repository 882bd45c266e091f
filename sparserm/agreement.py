"""How far two heads for one backbone and hook agree: in their features, in their directions, in their rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparserm.head import rewards
from sparserm.types import RewardHead


@dataclass(frozen=True)
class HeadAgreement:
    """Of two heads.

    Attributes:
        jaccard: features of both by features of either; None where their SAEs differ, whose numbers say nothing.
        nearest: mean over the first head's features of the largest absolute cosine with a direction of the second.
        correlation: of their rewards for the same texts (Pearson).
    """

    jaccard: float | None
    nearest: float
    correlation: float


def head_agreement(head: RewardHead, other: RewardHead, h: np.ndarray, *, same_sae: bool = True) -> HeadAgreement:
    """Compare on representations ``h [n, d]``, best of texts that neither was trained on."""
    both = len(np.intersect1d(head.features, other.features))
    return HeadAgreement(
        jaccard=both / len(np.union1d(head.features, other.features)) if same_sae else None,
        nearest=float(np.abs(head.directions @ other.directions.T).max(1).mean()),
        correlation=float(np.corrcoef(rewards(head, h), rewards(other, h))[0, 1]),
    )

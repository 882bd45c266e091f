"""The reward head: Bradley-Terry weights over standardised alignment scores (design, step 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from sparserm.alignment import ScoreMoments, alignment_scores
from sparserm.types import Pooling, RewardHead

#: L2 strengths tried by cross-validation.
L2_GRID = tuple(float(x) for x in np.logspace(-4, 0.5, 10))

#: L2 strengths tried for a dense probe, of several hundred dimensions.
PROBE_L2 = (0.1, 0.3, 1.0, 3.0)
FOLDS = 5


@dataclass(frozen=True)
class L2Choice:
    """Cross-validated Bradley-Terry loss (nats per pair) for each L2 strength, and the best of them."""

    best: float
    strengths: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class DenseProbe:
    """What all of ``h`` says of the pairs.

    Attributes:
        weights: ``[d]`` float64; the margin of a pair is ``weights @ (h_chosen - h_rejected)``.
        l2: the ridge penalty, and ``choice`` how it was chosen where it was.
    """

    weights: np.ndarray
    l2: float
    choice: L2Choice | None


def bradley_terry_loss(margins: np.ndarray) -> float:
    """Mean ``-log sigmoid(margin)`` in nats (Bradley and Terry, 1952)."""
    return float(np.logaddexp(0, -margins).mean())


def fit_bradley_terry(differences: np.ndarray, l2: float, *, rough: bool = False) -> np.ndarray:
    """Weights that minimise ``mean(-log sigmoid(X w)) + l2/2 |w|^2``: convex, so there is one answer.

    Args:
        differences: ``[n, K]`` chosen minus rejected.
        l2: strength of the ridge penalty, above zero.
        rough: compute in single precision, which has half as much to read, and stop where the loss is right to some four
            digits: enough to compare penalties by.

    Returns:
        ``[K]`` float64.
    """
    from scipy.optimize import minimize  # slow to import, and not needed to score

    x = np.ascontiguousarray(differences, np.float32 if rough else np.float64)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = (x @ w.astype(x.dtype)).astype(np.float64)
        loss = bradley_terry_loss(margins) + 0.5 * l2 * float(w @ w)
        return loss, -(expit(-margins).astype(x.dtype) @ x) / len(x) + l2 * w

    result = minimize(
        objective,
        np.zeros(x.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-7 if rough else 1e-15, "gtol": 1e-4 if rough else 1e-9, "maxcor": 30},
    )
    return np.asarray(result.x)


def choose_l2(differences: np.ndarray, groups: np.ndarray, strengths: Sequence[float] = L2_GRID) -> L2Choice:
    """L2 by cross-validation over prompts: no prompt is in both parts of a fold.

    Args:
        differences: ``[n, K]``.
        groups: ``[n]`` the prompt of each pair.
    """
    losses = [float(np.mean(losses)) for losses in _fold_losses(differences, groups, strengths)]
    return L2Choice(float(strengths[int(np.argmin(losses))]), tuple(strengths), tuple(losses))


def fit_probe(differences: np.ndarray, groups: np.ndarray, l2: float | None = None) -> DenseProbe:
    """The dense probe: ridge Bradley-Terry on every dimension of the representation, each scaled to a spread of one.

    Args:
        differences: ``[n, d]`` chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.
        l2: the ridge penalty; chosen by cross-validation over prompts where it is not given.
    """
    x = differences.astype(np.float64)
    spread = x.std(0)
    spread[spread == 0] = 1.0
    x /= spread
    choice = choose_l2(x, groups, PROBE_L2) if l2 is None else None
    strength = l2 if choice is None else choice.best
    assert strength is not None
    return DenseProbe(fit_bradley_terry(x, strength) / spread, strength, choice)


def prompt_folds(groups: np.ndarray, seed: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deterministic folds over prompts as ``(train, held out)`` row indices; fewer where there are fewer prompts.

    Args:
        seed: other folds for each seed; None takes the prompts as they come.
    """
    from sklearn.model_selection import GroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < 2:  # one prompt cannot be split: the pairs are taken as they come
        groups = np.arange(len(groups))
        n_groups = len(groups)
    n_splits = max(2, min(FOLDS, n_groups))
    splitter = GroupKFold(n_splits) if seed is None else GroupKFold(n_splits, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(groups)), groups=groups))


def _fold_losses(differences: np.ndarray, groups: np.ndarray, strengths: Sequence[float]) -> list[list[float]]:
    """For each strength its loss in every fold."""
    if len(differences) < 2:
        return [[0.0] for _ in strengths]
    losses: list[list[float]] = [[] for _ in strengths]
    for train, out in prompt_folds(groups):
        fitted_to, judged_on = differences[train].astype(np.float32), differences[out]  # copied once, not for every strength
        for own, l2 in zip(losses, strengths, strict=True):
            own.append(bradley_terry_loss(judged_on @ fit_bradley_terry(fitted_to, l2, rough=True)))
    return losses


def build_head(
    features: np.ndarray,
    directions: np.ndarray,
    center: np.ndarray,
    moments: ScoreMoments,
    weights: np.ndarray,
    pooling: Pooling,
) -> RewardHead:
    """A head whose bias is zero: scores are centred on the training responses, so their mean reward is zero."""
    return RewardHead(
        features=np.asarray(features, np.int64),
        directions=np.asarray(directions, np.float32),
        center=np.asarray(center, np.float32),
        mu=moments.mu,
        sigma=moments.sigma,
        weights=np.asarray(weights, np.float64),
        bias=0.0,
        pooling=pooling,
    )


def contributions(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``w_j (s_j - mu_j) / sigma_j`` for ``h [..., d]``: ``[..., K]`` float64, whose sum plus the bias is the reward."""
    scores = alignment_scores(h, head.directions, head.center)
    return head.weights * (scores - head.mu) / head.sigma


def rewards(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``[...]`` float64 for ``h [..., d]`` pooled as the head expects."""
    return contributions(head, h).sum(-1) + head.bias

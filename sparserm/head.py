"""The reward head: Bradley-Terry weights over standardised alignment scores (design, step 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparserm.alignment import ScoreMoments, alignment_scores
from sparserm.bradley_terry import EXACT, ROUGH, SINGLE, Spectrum, bradley_terry_loss, fit_many
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


def choose_l2(
    differences: np.ndarray, groups: np.ndarray, strengths: Sequence[float] = L2_GRID, spectrum: Spectrum | None = None
) -> L2Choice:
    """L2 by cross-validation over prompts: no prompt is in both parts of a fold.

    All folds and strengths are fitted at once, in single precision, which is enough to compare penalties by.

    Args:
        differences: ``[n, K]``.
        groups: ``[n]`` the prompt of each pair.
        spectrum: of the differences, where it is known.
    """
    if len(differences) < 2:
        return L2Choice(float(strengths[0]), tuple(strengths), (0.0,) * len(strengths))
    x, folds = np.ascontiguousarray(differences, np.float32), prompt_folds(groups)
    shares = np.zeros((len(x), len(folds)), np.float32)
    for fold, (train, _) in enumerate(folds):
        shares[train, fold] = 1 / len(train)
    l2 = np.repeat(np.asarray(strengths, np.float64), len(folds))
    weights = fit_many(x, np.tile(shares, len(strengths)), l2, spectrum or Spectrum.of(x), ROUGH)
    margins = (x @ weights).reshape(len(x), len(strengths), len(folds))
    losses = [
        float(np.mean([bradley_terry_loss(margins[out, place, fold]) for fold, (_, out) in enumerate(folds)]))
        for place in range(len(strengths))
    ]
    return L2Choice(float(strengths[int(np.argmin(losses))]), tuple(strengths), tuple(losses))


def fit_probe(
    differences: np.ndarray, groups: np.ndarray, l2: float | None = None, second: np.ndarray | None = None
) -> DenseProbe:
    """The dense probe: ridge Bradley-Terry on every dimension of the representation, each scaled to a spread of one.

    With the penalties that are tried single precision gives some six digits of it; with others it is fitted in double.

    Args:
        differences: ``[n, d]`` chosen minus rejected.
        groups: ``[n]`` the prompt of each pair.
        l2: the ridge penalty; chosen by cross-validation over prompts where it is not given.
        second: ``[d, d]`` their second moments, where they are known.
    """
    spread = _spread(differences)
    x = differences.astype(np.float32, copy=False) / spread.astype(np.float32)
    if second is not None and len(differences) >= len(spread):
        spectrum = Spectrum.of_moments(second / np.multiply.outer(spread, spread))
    else:
        spectrum = Spectrum.of(x)
    choice = choose_l2(x, groups, PROBE_L2, spectrum) if l2 is None else None
    strength = l2 if choice is None else choice.best
    assert strength is not None
    if min(PROBE_L2) <= strength <= max(PROBE_L2):
        tolerance = SINGLE
    else:
        x, tolerance = x.astype(np.float64), EXACT
    weights = fit_many(x, np.full((len(x), 1), 1 / len(x)), np.array([strength]), spectrum, tolerance)[:, 0]
    return DenseProbe(weights / spread, strength, choice)


def _spread(x: np.ndarray) -> np.ndarray:
    """``[d]`` standard deviations, 1 where there is none, without a float64 copy of ``x [n, d]``."""
    squares = np.einsum("nd,nd->d", x, x, dtype=np.float64) / len(x)
    variance = squares - np.square(x.mean(0, dtype=np.float64))
    return np.sqrt(np.where(variance > 1e-12 * squares, variance, 1.0))


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

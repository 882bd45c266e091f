"""Effects: in pairs in which exactly one response has a feature, how often that response was chosen.

A response has a feature if the SAE's latent fires anywhere in it. Prompts are clusters: pairs of one prompt are one piece of
evidence, and so are pairs that share a response text (:func:`~sparserm.heads.screening.smallest_z`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit
from scipy.stats import false_discovery_control, norm

from sparserm.evaluation.intervals import wilson_interval
from sparserm.heads.screening import GatedScores, smallest_z
from sparserm.representations.values import PairRepresentations, Representations
from sparserm.support.threads import in_threads

#: Pairs in which exactly one response must have a feature for it to be tested.
LEAST_PAIRS = 20
#: False discovery rate at which an effect counts as sure (Benjamini and Yekutieli, 2001: the tests depend on each other).
FALSE_DISCOVERIES = 0.05
#: Times that the prompts are split into halves, in each of which all effects are tested again.
SPLITS = 10
#: Ridge penalty of the regressions that hold length fixed, as if so many pairs spoke for no effect.
_PRIOR_PAIRS = 1.0
#: Steps of Newton's method, and latents that are fitted at a time.
_STEPS, _AT_ONCE = 12, 128


@dataclass(frozen=True)
class Effects:
    """Effects of ``m`` features on the win rate.

    Attributes:
        latents: ``[m]`` ids.
        n: ``[m]`` pairs in which exactly one response has the feature.
        wins: ``[m]`` of these, pairs in which that response was chosen.
        worth: ``[m]`` independent pairs that the ``n`` pairs are worth: what the variance over prompts leaves of them.
        z: ``[m]`` of wins minus losses; positive where the pairs reward the feature.
        q: ``[m]`` false discovery rate at which the effect counts as sure.
        n_pairs: number of all pairs.
    """

    latents: np.ndarray
    n: np.ndarray
    wins: np.ndarray
    worth: np.ndarray
    z: np.ndarray
    q: np.ndarray
    n_pairs: int

    @property
    def win_rate(self) -> np.ndarray:
        """``[m]`` share of the pairs that differ in the feature in which the response that has it was chosen."""
        return self.wins / self.n

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Wilson's 95 % interval ``[m]``, ``[m]`` of the win rate, with as many pairs as these are worth."""
        return wilson_interval(self.win_rate, self.worth)

    @property
    def sure(self) -> np.ndarray:
        """``[m]`` bool, at a false discovery rate of :data:`FALSE_DISCOVERIES`."""
        return self.q <= FALSE_DISCOVERIES

    def take(self, places: np.ndarray) -> Effects:
        """Some of the features."""
        columns = ("latents", "n", "wins", "worth", "z", "q")
        return replace(self, **{name: getattr(self, name)[places] for name in columns})


@dataclass(frozen=True)
class LengthHeld:
    """Effects of ``m`` features with length held fixed, from conditional logistic regressions on feature and log length.

    Attributes:
        win_rate: ``[m]`` probability that the response with the feature is chosen if both are equally long.
        z: ``[m]`` of the coefficient, with variances over prompts.
    """

    win_rate: np.ndarray
    z: np.ndarray


def features_of(pairs: PairRepresentations) -> GatedScores:
    """Which latents each response has, as scores of zero and one.

    Raises:
        SparseRMError: the representations have no latent strengths.
    """
    return GatedScores(_has(pairs.chosen), _has(pairs.rejected), pairs.groups, pairs.length_gaps, pairs.texts)


def measure_effects(features: GatedScores, latents: np.ndarray | None = None) -> Effects:
    """Effects of all latents that differ in :data:`LEAST_PAIRS` pairs or more, or of ``latents``."""
    differences = (features.chosen - features.rejected).tocsr()
    n = np.asarray(abs(differences).sum(0)).ravel().astype(np.int64)
    tested = np.flatnonzero(n >= LEAST_PAIRS) if latents is None else latents
    sums = np.asarray(differences[:, tested].sum(0)).ravel()
    n = n[tested]
    wins = ((n + sums) / 2).round().astype(np.int64)
    z = features.z(tested)
    worth = _worth(differences[:, tested], wins, n, features.groups)
    return Effects(tested, n, wins, worth, z, _q(z), len(features.groups))


def returning(features: GatedScores, effects: Effects, seed: int = 0) -> np.ndarray:
    """``[m]`` share of the halves of the prompts in which an effect is sure again and has the same sign.

    The false discovery rate of a half is that of the same ``m`` tests.
    """
    differences = (features.chosen[:, effects.latents] - features.rejected[:, effects.latents]).tocsr()
    prompts = np.unique(features.groups)
    rng = np.random.default_rng(seed)
    halves = [half for _ in range(SPLITS) for half in np.array_split(rng.permutation(prompts), 2) if len(half)]

    def again(half: np.ndarray) -> np.ndarray:
        rows = np.flatnonzero(np.isin(features.groups, half))
        texts = None if features.texts is None else features.texts[:, rows]
        z = smallest_z(differences[rows], features.groups[rows], texts)
        return np.asarray((_q(z) <= FALSE_DISCOVERIES) & (z * effects.z > 0))

    found = list(in_threads(again, halves))
    return np.mean(found, axis=0) if found else np.zeros(len(effects.latents))


def hold_length(features: GatedScores, latents: np.ndarray) -> LengthHeld:
    """Effects with length held fixed: ``logit P(chosen) = b x + c log(length ratio)`` for each latent, over all pairs.

    ``x`` is +1 where the chosen response alone has the feature, -1 where the rejected one alone has it, and 0 elsewhere.
    """
    parts = [_regress(features, latents[start : start + _AT_ONCE]) for start in range(0, len(latents), _AT_ONCE)]
    coefficients, z = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
    return LengthHeld(expit(coefficients), z)


def _regress(features: GatedScores, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients ``[m]`` and their z; each has a coefficient of length of its own."""
    x = (features.chosen[:, latents] - features.rejected[:, latents]).toarray()
    lengths = features.length_gaps[:, None]
    ridge = np.array([_PRIOR_PAIRS / 4, 1e-9])
    weights = np.zeros((2, x.shape[1]))
    for _ in range(_STEPS):
        missing = expit(-(x * weights[0] + lengths * weights[1]))
        gradient = np.stack([(x * missing).sum(0), (lengths * missing).sum(0)]) - ridge[:, None] * weights
        inverse = _inverse(x, lengths, missing * (1 - missing), ridge)
        step = np.einsum("abm,bm->am", inverse, gradient)
        weights += step
        if np.abs(step).max(initial=0) < 1e-6:
            break
    by_group = _by_group(features.groups)
    scores = np.stack([by_group @ (x * missing), by_group @ (lengths * missing)])
    spread = np.einsum("agm,bgm->abm", scores, scores)
    variance = np.einsum("am,abm,bm->m", inverse[0], spread, inverse[0])
    return weights[0], weights[0] / np.sqrt(np.maximum(variance, 1e-12))


def _inverse(x: np.ndarray, lengths: np.ndarray, curvature: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """``[2, 2, m]`` inverse of each regression's Hessian."""
    a, b, c = (
        (curvature * x * x).sum(0) + ridge[0],
        (curvature * x * lengths).sum(0),
        (curvature * lengths**2).sum(0) + ridge[1],
    )
    return np.stack([np.stack([c, -b]), np.stack([-b, a])]) / (a * c - b * b)


def _worth(differences: csr_matrix, wins: np.ndarray, n: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``[m]`` number of independent pairs of which each share would have the variance that it has over prompts.

    Where all pairs were won or all lost they have no variance; then each prompt counts as one.
    """
    share = wins / np.maximum(n, 1)
    by_group = _by_group(groups)
    own, sums = by_group @ abs(differences), by_group @ differences
    left = (own + sums) / 2 - own.multiply(share)  # of each prompt: wins minus what the share predicts
    variance = np.asarray(left.power(2).sum(0)).ravel() / np.maximum(n, 1) ** 2
    prompts = np.asarray((own != 0).sum(0)).ravel()
    worth = np.where(variance > 0, share * (1 - share) / np.where(variance > 0, variance, 1), prompts)
    return np.asarray(np.clip(worth, 1, np.maximum(n, 1)))


def _by_group(groups: np.ndarray) -> csr_matrix:
    """``[prompts, n]`` matrix that sums over the pairs of each prompt."""
    _, numbers = np.unique(groups, return_inverse=True)
    return csr_matrix((np.ones(len(groups)), (numbers, np.arange(len(groups)))))


def _q(z: np.ndarray) -> np.ndarray:
    """False discovery rates of two-sided tests that may depend on each other."""
    return np.asarray(false_discovery_control(2 * norm.sf(np.abs(z)), method="by")) if len(z) else np.ones(0)


def _has(responses: Representations) -> csr_matrix:
    latents = responses.strengths
    shape = (len(latents.indptr) - 1, latents.d_sae)
    return csr_matrix((np.ones(len(latents.indices)), latents.indices, latents.indptr), shape=shape)

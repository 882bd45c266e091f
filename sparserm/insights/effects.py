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

from sparserm.evaluation.intervals import Z95, wilson_interval
from sparserm.heads.screening import GatedScores, smallest_z
from sparserm.representations.values import PairRepresentations
from sparserm.support.threads import in_threads

#: Pairs in which exactly one response must have a feature for it to be tested.
LEAST_PAIRS = 20
#: False discovery rate at which an effect counts as sure (Benjamini and Yekutieli, 2001: the tests depend on each other).
FALSE_DISCOVERIES = 0.05
#: Times that the prompts are split into halves, in each of which all effects are tested again.
SPLITS = 10
#: Ridge penalty of the regressions that hold length fixed, as if so many pairs spoke for no effect.
_PRIOR_PAIRS = 1.0
#: No feature is tested.
_NONE = tuple(np.zeros(0, kind) for kind in (np.int64, np.int64, np.int64, np.float64, np.float64))
#: Steps of Newton's method, and latents that are fitted at a time.
_STEPS, _AT_ONCE = 12, 128


@dataclass(frozen=True)
class Effects:
    """Effects of ``m`` features on the win rate.

    Attributes:
        latents: ``[m]`` ids.
        n: ``[m]`` pairs in which exactly one response has the feature.
        wins: ``[m]`` of these, pairs in which that response was chosen.
        worth: ``[m]`` independent pairs that the ``n`` pairs are worth: what the variance over prompts, or over shared texts,
            leaves of them.
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
class Gaps:
    """How ``m`` effects differ between two sets of pairs, see :func:`gaps_between`.

    Attributes:
        rate: ``[m]`` difference of the win rates, first minus second.
        low, high: ``[m]`` its 95 % interval.
        z: ``[m]`` of the difference.
    """

    rate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class LengthHeld:
    """Effects of ``m`` features with length held fixed, from conditional logistic regressions, see :func:`hold_length`.

    Attributes:
        win_rate: ``[m]`` probability that the response with the feature is chosen if both are equally long.
        z: ``[m]`` of the coefficient.
    """

    win_rate: np.ndarray
    z: np.ndarray


def features_of(pairs: PairRepresentations) -> GatedScores:
    """Which latents each response has, as scores of zero and one.

    Raises:
        SparseRMError: the representations have no latent strengths.
    """
    chosen, rejected = (side.by_latent.matrix("fires") for side in (pairs.chosen, pairs.rejected))
    return GatedScores(chosen, rejected, pairs.groups, pairs.length_gaps, pairs.texts)


def enough_in_both(first: GatedScores, second: GatedScores, columns: np.ndarray) -> np.ndarray:
    """Those of some columns that differ in :data:`LEAST_PAIRS` pairs or more of both sets of pairs."""
    counts = np.zeros((2, len(columns)))
    for found, one in zip(counts, (first, second), strict=True):
        for places, own in one.blocks(columns):
            found[places] = np.asarray(abs(own.chosen - own.rejected).sum(0)).ravel()
    return columns[counts.min(0) >= LEAST_PAIRS]


def measure_effects(features: GatedScores, latents: np.ndarray | None = None) -> Effects:
    """Effects of all latents that differ in :data:`LEAST_PAIRS` pairs or more, or of ``latents``."""
    parts = [_measure(places, own, LEAST_PAIRS if latents is None else 0) for places, own in features.blocks(latents)]
    tested, n, wins, worth, z = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NONE
    order = np.argsort(tested)
    n, wins, worth, z = n[order], wins[order], worth[order], z[order]
    ids = tested[order] if latents is None else latents
    return Effects(ids, n, wins, worth, z, false_discoveries(z), len(features.groups))


def _measure(places: np.ndarray, features: GatedScores, least: int) -> tuple[np.ndarray, ...]:
    """Places, ``n``, ``wins``, ``worth`` and ``z`` of the features in memory that differ in so many pairs or more."""
    differences = (features.chosen - features.rejected).tocsr()
    n = np.asarray(abs(differences).sum(0)).ravel().astype(np.int64)
    tested = np.flatnonzero(n >= least)
    differences, n = differences[:, tested], n[tested]
    wins = ((n + np.asarray(differences.sum(0)).ravel()) / 2).round().astype(np.int64)
    worth = np.min([_worth(differences, wins, n, groups) for groups in _groupings(features)], axis=0)
    return places[tested], n, wins, worth, features.z(tested)


def gaps_between(first: Effects, second: Effects) -> Gaps:
    """How the effects of the same features differ between two sets of pairs of different prompts (Agresti and Caffo, 2000).

    Each set counts with as many pairs as it is worth, and with one win and one loss more. The rates themselves are as counted.
    """
    shares = [(one.win_rate * one.worth + 1) / (one.worth + 2) for one in (first, second)]
    variance = sum(share * (1 - share) / (one.worth + 2) for share, one in zip(shares, (first, second), strict=True))
    middle, error = shares[0] - shares[1], np.sqrt(variance)
    rate = first.win_rate - second.win_rate
    low = np.maximum(np.minimum(middle - Z95 * error, rate), -1.0)
    high = np.minimum(np.maximum(middle + Z95 * error, rate), 1.0)
    return Gaps(rate, low, high, middle / error)


def returning(features: GatedScores, effects: Effects, seed: int = 0) -> np.ndarray:
    """``[m]`` share of the halves of the prompts in which an effect is sure again and has the same sign.

    Args:
        effects: of all features that were tested, over which the false discovery rate is taken in each half too.
    """
    prompts = np.unique(features.groups)
    rng = np.random.default_rng(seed)
    halves = [half for _ in range(SPLITS) for half in np.array_split(rng.permutation(prompts), 2) if len(half)]

    z = np.zeros((len(halves), len(effects.latents)))
    for places, own in features.blocks(effects.latents):
        differences = (own.chosen - own.rejected).tocsr()

        def again(half: np.ndarray, differences: csr_matrix = differences) -> np.ndarray:
            rows = np.flatnonzero(np.isin(features.groups, half))
            texts = None if features.texts is None else features.texts[:, rows]
            return smallest_z(differences[rows], features.groups[rows], texts)

        for found, own_z in zip(z, in_threads(again, halves), strict=True):
            found[places] = own_z
    back = [(false_discoveries(one) <= FALSE_DISCOVERIES) & (one * effects.z > 0) for one in z]
    return np.mean(back, axis=0) if back else np.zeros(len(effects.latents))


def hold_length(features: GatedScores, latents: np.ndarray) -> LengthHeld:
    """Effects with length held fixed: ``logit P(chosen) = b x + c log(length ratio) + d sign(length gap)``, over all pairs.

    ``x`` is +1 where the chosen response alone has the feature, -1 where the rejected one alone has it, and 0 elsewhere; each
    latent has a regression of its own. The z are of score tests of ``b = 0``, which hold where all pairs of a feature were won
    too, with the pairs grouped as in :func:`~sparserm.heads.screening.smallest_z`.
    """
    gaps = features.length_gaps
    lengths = np.stack([gaps, np.sign(gaps)])
    # Without a feature: what length leaves unexplained of each pair, and its part in the information about the coefficients.
    left = expit(-(_coefficients(np.zeros((len(gaps), 1)), lengths)[1:, 0] @ lengths))
    information = left * (1 - left)
    inverse = np.linalg.inv((lengths * information) @ lengths.T + 1e-6 * np.eye(2))
    coefficients, z = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(latents), _AT_ONCE):
        columns = latents[start : start + _AT_ONCE]
        x = (features.chosen[:, columns] - features.rejected[:, columns]).toarray()
        coefficients.append(_coefficients(x, lengths)[0])
        beside = x - lengths.T @ (inverse @ (lengths * information @ x))
        z.append(smallest_z(csr_matrix(beside * left[:, None]), features.groups, features.texts))
    return LengthHeld(expit(np.concatenate(coefficients)), np.concatenate(z))


def _coefficients(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``[3, m]`` coefficients of each column of ``x [n, m]`` and of ``lengths [2, n]`` beside it, by Newton's method."""
    ridge = np.array([_PRIOR_PAIRS / 4, 1e-6, 1e-6])
    weights = np.zeros((3, x.shape[1]))
    for _ in range(_STEPS):
        missing = expit(-(x * weights[0] + lengths.T @ weights[1:]))
        gradient = np.concatenate([(x * missing).sum(0)[None], lengths @ missing]) - ridge[:, None] * weights
        step = np.linalg.solve(_hessians(x, lengths, missing * (1 - missing)) + np.diag(ridge), gradient.T[..., None])
        weights += step[..., 0].T
        if np.abs(step).max(initial=0) < 1e-6:
            break
    return weights


def _hessians(x: np.ndarray, lengths: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """``[m, 3, 3]`` Hessian of each regression's loss."""
    found = np.empty((x.shape[1], 3, 3))
    weighted = x * curvature
    found[:, 0, 0] = (weighted * x).sum(0)
    found[:, 0, 1:] = found[:, 1:, 0] = (lengths @ weighted).T
    for i, one in enumerate(lengths, 1):
        found[:, i, 1:] = ((lengths * one) @ curvature).T
    return found


def _groupings(features: GatedScores) -> list[np.ndarray]:
    """The ways in which pairs belong together: by prompt, and by the texts of their responses."""
    return [features.groups, *(() if features.texts is None else features.texts)]


def _worth(differences: csr_matrix, wins: np.ndarray, n: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """``[m]`` number of independent pairs of which each share would have the variance that it has over groups of pairs.

    Where all pairs were won or all lost they have no variance; then each group counts as one.
    """
    share = wins / np.maximum(n, 1)
    by_group = _by_group(groups)
    own, sums = by_group @ abs(differences), by_group @ differences
    left = (own + sums) / 2 - own.multiply(share)  # of each group: wins minus what the share predicts
    variance = np.asarray(left.power(2).sum(0)).ravel() / np.maximum(n, 1) ** 2
    counted = np.asarray((own != 0).sum(0)).ravel()
    worth = np.where(variance > 0, share * (1 - share) / np.where(variance > 0, variance, 1), counted)
    return np.asarray(np.clip(worth, 1, np.maximum(n, 1)))


def _by_group(groups: np.ndarray) -> csr_matrix:
    """``[prompts, n]`` matrix that sums over the pairs of each prompt."""
    _, numbers = np.unique(groups, return_inverse=True)
    return csr_matrix((np.ones(len(groups)), (numbers, np.arange(len(groups)))))


def false_discoveries(z: np.ndarray) -> np.ndarray:
    """False discovery rates of two-sided tests that may depend on each other."""
    return np.asarray(false_discovery_control(2 * norm.sf(np.abs(z)), method="by")) if len(z) else np.ones(0)

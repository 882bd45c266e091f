"""Feature selection: which latents become a head's features. All selectors share one signature.

To add a selector, write a function with the signature of :data:`Selector` and add it to :data:`SELECTORS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sparserm.heads.bradley_terry import DenseProbe, fit_probe
from sparserm.heads.reward import ScoreMoments
from sparserm.representations.values import PairRepresentations
from sparserm.types import Activity, SparseRMError

#: Ridge term of the metric of :attr:`FitStatistics.root`, relative to the variances of the training pairs.
ISOTROPIC = 0.3
#: Factor on the length component of candidates where length is avoided.
AVOIDANCE = 30.0
#: Share of a direction's squared norm that must remain after projecting off the selected ones; below it is a near-duplicate.
_MIN_RESIDUAL = 1e-3
#: Maximum number of exchange rounds; on the training files nothing changes after three or four.
_MAX_ROUNDS = 5


@dataclass(frozen=True)
class FeatureStats:
    """Activation frequencies of every latent over training pairs (SparseRM, arXiv 2511.07896, "preference features").

    Attributes:
        f_chosen, f_rejected: ``[d_sae]`` float64, share of chosen / rejected responses in which the latent is active.
    """

    f_chosen: np.ndarray
    f_rejected: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """``[d_sae]`` preference gaps ``f_chosen - f_rejected``."""
        return self.f_chosen - self.f_rejected


@dataclass(frozen=True)
class FitStatistics:
    """Statistics of the training pairs that selectors and fits use.

    Attributes:
        differences: ``[n, d]`` float32, pooled representation of chosen minus rejected.
        second: ``[d, d]`` float64, :func:`~sparserm.heads.reward.second_moments` of the differences.
        directions: ``[d_sae, d]`` float32 unit decoder directions.
        moments: ``[d_sae]`` mean and standard deviation of each alignment score over the training responses.
        groups: ``[n]`` the prompt of each pair.
        stats: activation frequencies of the latents.
        seed: random seed of selectors that draw at random.
        l2: ridge penalty of the dense probe; None chooses it by cross-validation over prompts.
        avoided: ``[n]`` length gaps that margins should not correlate with; None for no such constraint.
    """

    differences: np.ndarray
    second: np.ndarray
    directions: np.ndarray
    moments: ScoreMoments
    groups: np.ndarray
    stats: FeatureStats
    seed: int = 0
    l2: float | None = None
    avoided: np.ndarray | None = None

    @property
    def usable(self) -> np.ndarray:
        """``[d_sae]`` bool: latents that are active in some training response; directions of dead latents are meaningless."""
        return (self.stats.f_chosen + self.stats.f_rejected) > 0

    def seeded(self, seed: int) -> FitStatistics:
        """The same statistics with another seed; what does not depend on it is computed once."""
        found = replace(self, seed=seed)
        vars(found).update({name: getattr(self, name) for name in ("probe", "root", "length_axis", "target")})
        return found

    @functools.cached_property
    def probe(self) -> DenseProbe:
        """The dense probe whose margins selection and weights approximate."""
        return fit_probe(self.differences, self.groups, self.l2, self.second)

    @functools.cached_property
    def root(self) -> np.ndarray:
        """``[d, d]`` float64 Cholesky factor ``R`` of the metric ``R R' = X'X / n + c diag(X'X / n)``.

        ``|R'a - R'b|^2`` is the mean squared difference between the margins of directions ``a`` and ``b`` on the training
        pairs ``X``, plus a ridge term for differences that the training pairs do not cover. Without the ridge term a head
        approximates the probe on the span of the training pairs only. With it heads ranked pairs of held-out topics better at
        every task and layer tried, by half a point on average. ``c`` is :data:`ISOTROPIC`, or ``d / 2n`` where that is larger:
        the covariance of few pairs says less about others. On held-out prompts that gained half a point at 100 pairs, a tenth
        of a point at 300.
        """
        n, d = self.differences.shape
        diagonal = self.second.diagonal()
        metric = self.second + np.diag(max(ISOTROPIC, d / (2 * n)) * diagonal)
        # A dimension in which pairs never differ gives a zero row, for which the Cholesky decomposition fails.
        return np.linalg.cholesky(metric + np.diag(np.where(diagonal > 0, 0, 1e-12 * max(float(diagonal.max()), 1e-300))))

    @functools.cached_property
    def length_axis(self) -> np.ndarray | None:
        """``[d]`` unit vector ``u``: the covariance of a direction ``a``'s margins with length is proportional to ``u'R'a``.

        With ``avoided`` set, :attr:`target` is orthogonal to ``u`` and the component of candidates along ``u`` is multiplied by
        :data:`AVOIDANCE`, so that heads approximate the probe as well as they can without following length. On held-out
        prompts this reduced the correlation of margins with length to below 0.1 in every task (from 0.3 and 0.4 in three).
        Excluding latents that track length had almost no effect, since combinations of the others track it too; length as a
        covariate of the probe increased the correlation for safety.
        """
        if self.avoided is None:
            return None
        centred = self.avoided - self.avoided.mean()
        axis = np.linalg.lstsq(self.root, self.differences.T @ centred / len(centred), rcond=1e-10)[0]
        norm = float(np.linalg.norm(axis))
        return axis / norm if norm > 0 else None

    @functools.cached_property
    def target(self) -> np.ndarray:
        """``[d]`` probe weights in the metric of :attr:`root`, projected off :attr:`length_axis` where length is avoided."""
        mapped = np.asarray(self.root.T @ self.probe.weights)
        axis = self.length_axis
        return mapped if axis is None else mapped - (mapped @ axis) * axis

    def candidates(self, features: np.ndarray | slice = slice(None), dtype: type = np.float64) -> np.ndarray:
        """``[len(features), d]`` directions of standardised alignment scores in the metric of :attr:`root`."""
        mapped: np.ndarray = self.directions[features].astype(dtype, copy=False) @ self.root.astype(dtype, copy=False)
        mapped /= self.moments.sigma[features, None].astype(dtype)
        if self.length_axis is not None:
            axis: np.ndarray = self.length_axis.astype(dtype)
            mapped += (AVOIDANCE - 1) * np.multiply.outer(mapped @ axis, axis)
        return mapped


#: A selector takes the statistics and ``k`` and returns ``[k]`` latent ids.
Selector = Callable[[FitStatistics, int], np.ndarray]


def feature_stats(pairs: PairRepresentations, activity: Activity) -> FeatureStats:
    """Activation frequencies over pairs (SparseRM, arXiv 2511.07896).

    Raises:
        SparseRMError: the representations were computed without an SAE.
    """
    if pairs.chosen.latents is None or pairs.rejected.latents is None:
        raise SparseRMError("these representations have no latents; expected ones computed with an SAE; pass the SAE")
    return FeatureStats(pairs.chosen.latents.frequency(activity), pairs.rejected.latents.frequency(activity))


def select_sparse(statistics: FitStatistics, k: int) -> np.ndarray:
    """The k latents whose alignment scores together best approximate the margins of a dense probe.

    The probe is a ridge Bradley-Terry regression on the whole representation. Orthogonal least squares (Chen et al., 1989:
    forward selection by the gain over the latents already selected) picks directions one by one; then each is exchanged for a
    better one until none is better. On held-out prompts this beats an L1 path over screened latents, which keeps
    near-duplicates, and is as good as forward selection on the labels of the pairs at a tenth of its cost; exchanges gain up
    to half a point with 32 features.
    """
    # Single precision takes half the time and is accurate enough, except with length avoided, where that term dominates.
    candidates = statistics.candidates(dtype=np.float32 if statistics.length_axis is None else np.float64)
    forward = _forward(candidates, statistics.target, statistics.usable, k)
    return _exchange(candidates, statistics.target, statistics.usable, forward)


def select_frequency(statistics: FitStatistics, k: int) -> np.ndarray:
    """The paper's selector: the k/2 latents with the largest and the k/2 with the smallest frequency gap (arXiv 2511.07896)."""
    live = np.flatnonzero(statistics.usable)
    order = live[np.argsort(-statistics.stats.gap[live], kind="stable")]
    return np.concatenate([order[: k - k // 2], order[len(order) - k // 2 :]])


def select_effect_size(statistics: FitStatistics, k: int) -> np.ndarray:
    """The k alignment scores with the largest paired effect size |mean| / std of chosen minus rejected (Cohen's d_z)."""
    mean = statistics.differences.mean(0, dtype=np.float64)
    centred = statistics.differences - mean
    covariance = centred.T @ centred / max(1, len(centred) - 1)
    spread = np.sqrt(np.maximum(np.einsum("jd,jd->j", statistics.directions @ covariance, statistics.directions), 1e-12))
    effect = np.where(statistics.usable, np.abs(statistics.directions @ mean) / spread, -1.0)
    return np.argsort(-effect, kind="stable")[:k]


def select_random(statistics: FitStatistics, k: int) -> np.ndarray:
    """k latents drawn at random: the baseline for all other selectors."""
    candidates = np.flatnonzero(statistics.usable)
    return np.random.default_rng(statistics.seed).choice(candidates, min(k, len(candidates)), replace=False)


#: Selectors by name, as offered on the command line and in the app.
SELECTORS: dict[str, Selector] = {
    "sparse": select_sparse,
    "frequency": select_frequency,
    "effect_size": select_effect_size,
    "random": select_random,
}


def _forward(candidates: np.ndarray, target: np.ndarray, usable: np.ndarray, k: int) -> list[int]:
    """Orthogonal least squares: ``k`` rows of ``candidates [d_sae, d]``, each the one that leaves the smallest residual of
    ``target [d]``."""
    # For every candidate: squared norm and product with the target, after projecting off the selected rows.
    norms, products = _squares(candidates), _products(candidates, target)
    floor = np.maximum(_MIN_RESIDUAL * norms, 1e-300)
    free = usable.copy()
    axes = np.zeros((k, candidates.shape[1]))
    chosen: list[int] = []
    for step in range(k):
        best = int(np.argmax(np.where(free, products**2 / np.maximum(norms, floor), -1.0)))
        chosen.append(best)
        free[best] = False
        axis = candidates[best].astype(np.float64)
        for _ in range(2):  # Gram-Schmidt twice, for numerical stability
            axis = axis - axes[:step].T @ (axes[:step] @ axis)
        axes[step] = axis / max(float(np.linalg.norm(axis)), 1e-150)
        along = _products(candidates, axes[step])
        products = products - along * (axes[step] @ target)
        norms = norms - along**2
    return chosen


def _exchange(candidates: np.ndarray, target: np.ndarray, usable: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Exchange each selected row for the one with the smallest residual given the others, until none is better."""
    chosen = list(chosen)
    norms, products = _squares(candidates), _products(candidates, target)
    floor = np.maximum(_MIN_RESIDUAL * norms, 1e-300)
    shared = _products(candidates, candidates[chosen].T)  # updated column by column
    residuals = _Residuals(norms, products, shared, chosen)
    for _ in range(_MAX_ROUNDS):
        before = list(chosen)
        for place in range(len(chosen)):
            left, own = residuals.without(place)
            gain = np.where(usable, left**2 / np.maximum(own, floor), -1.0)
            gain[chosen[:place] + chosen[place + 1 :]] = -1.0
            best = int(np.argmax(gain))
            if gain[best] > gain[chosen[place]] * (1 + 1e-6):
                chosen[place] = best
                shared[:, place] = _products(candidates, candidates[best])
                residuals = _Residuals(norms, products, shared, chosen)
        if chosen == before:
            break
    return np.array(chosen)


class _Residuals:
    """Residuals of the candidates after projecting off all selected rows, or all but one.

    Args:
        norms, products: ``[d_sae]`` squared norms of the candidates and their products with the target.
        shared: ``[d_sae, k]`` products of the candidates with the selected rows.
        chosen: the selected rows.
    """

    def __init__(self, norms: np.ndarray, products: np.ndarray, shared: np.ndarray, chosen: list[int]) -> None:
        inverse = np.linalg.pinv(shared[chosen], rcond=1e-9, hermitian=True)
        self._solved = shared @ inverse
        self._weights = inverse @ products[chosen]
        pivots = inverse.diagonal()
        self._pivots = np.where(pivots > 1e-12 * pivots.max(), pivots, np.inf)  # a row of zeros explains nothing
        self._left = products - shared @ self._weights
        self._own = norms - np.einsum("jk,jk->j", self._solved, shared)

    def without(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """``[d_sae]`` products with the target, and squared norms, after projecting off all selected rows but ``place``.

        A rank-one update adds the part of that row again; no inverse is recomputed.
        """
        taken = self._solved[:, place] / self._pivots[place]
        return self._left + taken * self._weights[place], self._own + taken * self._solved[:, place]


def _products(candidates: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``candidates @ other`` as float64, computed in the precision of the candidates."""
    return (candidates @ other.astype(candidates.dtype, copy=False)).astype(np.float64)


def _squares(candidates: np.ndarray) -> np.ndarray:
    """``[d_sae]`` float64 squared norms of the candidates."""
    return np.einsum("kd,kd->k", candidates, candidates).astype(np.float64)

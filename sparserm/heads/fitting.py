"""Fitting a reward head to represented pairs: settings, feature selection, weights. Never runs the language model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.heads.bradley_terry import L2Choice
from sparserm.heads.reward import RewardHead, ScoreMoments, build_head, projected_moments, rewards, second_moments
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.heads.selection import SELECTORS, FeatureStats, FitStatistics, feature_stats
from sparserm.pairs.split import short_key
from sparserm.representations.values import ACTIVITIES, PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES
from sparserm.support.threads import one_thread
from sparserm.types import Activity, Pooling, PreferenceData, SparseRMError

#: Allowed values of the settings that are names.
_CHOICES = {"pooling": get_args(Pooling), "selection": tuple(SELECTORS), "activity": ACTIVITIES}


@dataclass(frozen=True)
class FitSettings:
    """How a head is fitted. The defaults were chosen on validation splits.

    Attributes:
        k: number of features.
        pooling: how ``h`` is pooled over the response, ``last`` or ``mean``.
        selection: name of a selector, see :data:`~sparserm.heads.selection.SELECTORS`.
        l2: ridge penalty of the Bradley-Terry fit; None chooses it by cross-validation over prompts.
        activity: when a latent counts as active in a response.
        seed: random seed of selectors that draw at random.
        avoid_length: reduce the correlation of margins with response length, see :attr:`FitStatistics.length_axis`.

    Raises:
        SparseRMError: a setting is out of its range.
    """

    k: int = 32
    pooling: Pooling = "mean"
    selection: str = "sparse"
    l2: float | None = None
    activity: Activity = "any"
    seed: int = 0
    avoid_length: bool = False

    def __post_init__(self) -> None:
        for name, options in _CHOICES.items():
            if (value := getattr(self, name)) not in options:
                raise SparseRMError(f"{name} is {value!r}, expected one of {', '.join(options)}; choose one of these")
        if not isinstance(self.k, Integral) or self.k < 1:
            raise SparseRMError(f"k is {self.k!r}, expected a whole number from 1 to {MAX_FEATURES}; choose one of these")
        if not isinstance(self.avoid_length, bool):
            raise SparseRMError(f"avoid_length is {self.avoid_length!r}, expected True or False")
        if self.l2 is not None and not (isinstance(self.l2, Real) and 0 < self.l2 < math.inf):
            raise SparseRMError(f"l2 is {self.l2!r}, expected a number above 0; leave it out to choose it by cross-validation")
        # NumPy numbers become plain ones: they are written to the head's configuration.
        object.__setattr__(self, "k", int(self.k))
        object.__setattr__(self, "l2", None if self.l2 is None else float(self.l2))


@dataclass(frozen=True)
class FittedHead:
    """A fitted head with the results of the fit.

    Attributes:
        head: the reward head.
        stats: activation frequencies of every latent over the training pairs.
        l2: the ridge penalty used.
        l2_choice: the cross-validation that chose it; None where it was given.
        rewards_chosen, rewards_rejected: ``[n]`` rewards of the training responses.
    """

    head: RewardHead
    stats: FeatureStats
    l2: float
    l2_choice: L2Choice | None
    rewards_chosen: np.ndarray
    rewards_rejected: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of training pairs ranked correctly; a tie counts as wrong."""
        return float((self.rewards_chosen > self.rewards_rejected).mean())


def fit_settings(**settings: Any) -> FitSettings:
    """:class:`FitSettings` from the arguments that are not None, with ``k`` at most :data:`MAX_FEATURES`.

    Raises:
        SparseRMError: an unknown setting, or one that is out of range.
    """
    known = [field.name for field in fields(FitSettings)]
    if unknown := [name for name in settings if name not in known]:
        raise SparseRMError(f"unknown setting {unknown[0]!r}; expected one of {', '.join(known)}")
    chosen = FitSettings(**{name: value for name, value in settings.items() if value is not None})
    if chosen.k > MAX_FEATURES:  # not in FitSettings: the benchmark also measures larger heads
        raise SparseRMError(
            f"k is {chosen.k}, expected a whole number from 1 to {MAX_FEATURES}; choose one of these: with more features "
            "random latents do as well"
        )
    return chosen


def fit_head(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> FittedHead:
    """Select features and fit their weights. Deterministic: the same pairs give the same head, bit for bit.

    Raises:
        SparseRMError: no pairs, a pooling that differs from the settings', or fewer latents that fire than ``k``.
    """
    if settings.pooling != pairs.pooling:
        raise SparseRMError(
            f"the pairs have {pairs.pooling} pooling, expected {settings.pooling}; compute their representations again"
        )
    if len(pairs.groups) == 0:
        raise SparseRMError("there are no pairs to fit a head to; give at least one, for a useful head some hundreds")
    with one_thread():
        return select_and_fit(pairs, fit_statistics(pairs, sae, settings), sae, settings)


def fit_statistics(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> FitStatistics:
    """The statistics of the training pairs that selectors and fits use; the same for every ``k`` and selector."""
    chosen, rejected, differences = pairs.chosen.h, pairs.rejected.h, pairs.differences
    second = second_moments(differences)
    mean = (chosen.mean(0, dtype=np.float64) + rejected.mean(0, dtype=np.float64)) / 2
    # For chosen c and rejected r: cc' + rr' = ((c - r)(c - r)' + (c + r)(c + r)') / 2, and the first term is `second`.
    total = chosen + rejected
    total -= (2 * mean).astype(total.dtype)
    covariance = (second_moments(total) + second) / 4
    directions = sae.directions().cpu().numpy()
    return FitStatistics(
        differences=differences,
        second=second,
        directions=directions,
        moments=projected_moments(mean, covariance, directions, sae.b_dec.cpu().numpy()),
        groups=pairs.groups,
        stats=feature_stats(pairs, settings.activity),
        seed=settings.seed,
        l2=settings.l2,
        avoided=pairs.length_gaps if settings.avoid_length else None,
    )


def select_and_fit(
    pairs: PairRepresentations, statistics: FitStatistics, sae: SparseAutoencoder, settings: FitSettings
) -> FittedHead:
    """:func:`fit_head` from precomputed statistics.

    Raises:
        SparseRMError: fewer usable latents than ``k``.
    """
    n_usable = int(statistics.usable.sum())
    if not 1 <= settings.k <= n_usable:
        raise SparseRMError(
            f"k = {settings.k} features from {len(pairs.groups)} pairs in which {n_usable} latents fire; expected 1 to "
            f"{n_usable} features; choose a smaller k or give more pairs"
        )
    features = np.sort(SELECTORS[settings.selection](statistics, settings.k))
    return fit_selected(pairs, statistics, features, sae.b_dec.cpu().numpy(), settings)


def fit_selected(
    pairs: PairRepresentations, statistics: FitStatistics, features: np.ndarray, center: np.ndarray, settings: FitSettings
) -> FittedHead:
    """Fit the weights of given features: least squares on the margins of a dense probe (:attr:`FitStatistics.root`).

    The probe is the Bradley-Terry fit; the head is its least-squares projection onto K features. Heads fitted to the labels a
    second time, with a separate penalty, were no more accurate on held-out prompts, and their loss was 0.01 to 0.03 nats
    higher with whole categories of TruthfulQA's training questions held out: the features were already selected with these
    labels, which the probe's penalty accounts for and a second one does not.
    """
    directions = statistics.directions[features]
    moments = ScoreMoments(statistics.moments.mu[features], statistics.moments.sigma[features])
    probe = statistics.probe
    weights = np.linalg.lstsq(statistics.candidates(features).T, statistics.target, rcond=None)[0]
    head = build_head(features, directions, center, moments, weights, pairs.pooling)
    both = (rewards(head, side) for side in (pairs.chosen, pairs.rejected))
    return FittedHead(head, statistics.stats, probe.l2, probe.choice, *both)


def make_saved_head(
    fitted: FittedHead,
    data: PreferenceData,
    model: Backbone,
    sae: SparseAutoencoder,
    settings: FitSettings,
    *,
    name: str,
    metrics: dict[str, Any] | None = None,
    licence: str = "",
) -> SavedHead:
    """A fitted head with its card and training statistics, ready to be saved."""
    percent = np.linspace(0, 100, 101)
    features = fitted.head.features
    prompts = sorted({short_key(pair.prompt) for pair in data.pairs})
    card = HeadCard(
        name=name,
        backbone=model.name,
        backbone_fingerprint=model.fingerprint,
        hook=sae.hook.name,
        sae=sae.name,
        sae_fingerprint=sae.fingerprint,
        d_sae=sae.d_sae,
        training={
            "data": data.name,
            "data_hash": data.content_hash,
            "licence": licence,
            "n_pairs": len(data.pairs),
            "n_prompts": len(prompts),
            "n_skipped": data.n_skipped,
            "accuracy": fitted.accuracy,
            "settings": {**asdict(settings), "l2": fitted.l2},
        },
        metrics=metrics or {},
        versions={package: version(package) for package in ("sparserm", "torch", "transformers")},
    )
    return SavedHead(
        head=fitted.head,
        card=card,
        f_chosen=fitted.stats.f_chosen[features],
        f_rejected=fitted.stats.f_rejected[features],
        quantiles_chosen=np.percentile(fitted.rewards_chosen, percent),
        quantiles_rejected=np.percentile(fitted.rewards_rejected, percent),
        prompt_keys=np.array(prompts, np.int64),
    )

"""Fitting a reward head to represented pairs: settings, feature selection, weights. Never runs the language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.heads.bradley_terry import L2Choice
from sparserm.heads.families import group_families
from sparserm.heads.gated_selection import GATED_SELECTORS, GatedStatistics, prefer_named
from sparserm.heads.labels import named_latents
from sparserm.heads.reward import Encoder, RewardHead, ScoreMoments, build_head, projected_moments, rewards, second_moments
from sparserm.heads.saved import HeadCard, SavedHead
from sparserm.heads.screening import FALSE_DISCOVERIES, GatedScores
from sparserm.heads.selection import SELECTORS, FeatureStats, FitStatistics, feature_stats
from sparserm.heads.signed_weights import fit_weights, ridge_for
from sparserm.pairs.split import short_key
from sparserm.representations.files import NamedModel
from sparserm.representations.values import ACTIVITIES, PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import MAX_FEATURES, MAX_GATED_FEATURES
from sparserm.support.threads import one_thread
from sparserm.types import Activity, Pooling, PreferenceData, Score, SparseRMError

#: Names of the selectors for each kind of score, the default first.
SELECTIONS: dict[Score, tuple[str, ...]] = {"gated": tuple(GATED_SELECTORS), "projection": tuple(SELECTORS)}
#: Maximum number of features for each kind of score, which is also the default.
MOST_FEATURES: dict[Score, int] = {"gated": MAX_GATED_FEATURES, "projection": MAX_FEATURES}
#: Allowed values of the settings that are names; None is the default.
_CHOICES = {
    "score": (None, *get_args(Score)),
    "pooling": get_args(Pooling),
    "selection": (None, *dict.fromkeys(name for names in SELECTIONS.values() for name in names)),
    "activity": ACTIVITIES,
}


@dataclass(frozen=True)
class FitSettings:
    """How a head is fitted. The defaults were chosen on validation splits.

    What is None is filled in by :meth:`for_sae`.

    Attributes:
        k: number of features with projections, maximum number with gated scores; :data:`MOST_FEATURES` if None.
        pooling: how ``h`` is pooled over the response, ``last`` or ``mean``.
        selection: name of a selector, see :data:`SELECTIONS`; the first of them if None.
        l2: ridge penalty of the Bradley-Terry fit; None chooses it by cross-validation over prompts for projections, and is
            :func:`~sparserm.heads.signed_weights.ridge_for` gated ones.
        activity: when a latent counts as active in a response.
        seed: random seed of selectors that draw at random.
        avoid_length: reduce the correlation of margins with response length, see :attr:`FitStatistics.length_axis`; gated
            scores are screened with length held fixed.
        score: kind of the alignment scores; None is ``gated`` where each latent of the SAE has a threshold of its own and the
            selection allows it, else ``projection``.
        named: about five in six features have a label (:func:`~sparserm.heads.labels.named_latents`); with gated scores.

    Raises:
        SparseRMError: a setting is out of its range.
    """

    k: int | None = None
    pooling: Pooling = "mean"
    selection: str | None = None
    l2: float | None = None
    activity: Activity = "any"
    seed: int = 0
    avoid_length: bool = False
    score: Score | None = None
    named: bool = False

    def __post_init__(self) -> None:
        for name, options in _CHOICES.items():
            if (value := getattr(self, name)) not in options:
                words = ", ".join(option for option in options if option)
                raise SparseRMError(f"{name} is {value!r}, expected one of {words}; choose one of these")
        if self.score and self.selection and self.selection not in SELECTIONS[self.score]:
            raise SparseRMError(
                f"selection is {self.selection!r} with score {self.score}, expected one of "
                f"{', '.join(SELECTIONS[self.score])}; choose one of these, or another score"
            )
        if self.k is not None and (not isinstance(self.k, Integral) or self.k < 1):
            raise SparseRMError(
                f"k is {self.k!r}, expected a whole number from 1 to {self._most_features}; choose one of these"
            )
        for name in ("avoid_length", "named"):
            if not isinstance(value := getattr(self, name), bool):
                raise SparseRMError(f"{name} is {value!r}, expected True or False")
        if self.l2 is not None and not (isinstance(self.l2, Real) and 0 < self.l2 < math.inf):
            raise SparseRMError(f"l2 is {self.l2!r}, expected a number above 0; leave it out to choose it by cross-validation")
        # NumPy numbers become plain ones: they are written to the head's configuration.
        object.__setattr__(self, "k", None if self.k is None else int(self.k))
        object.__setattr__(self, "l2", None if self.l2 is None else float(self.l2))

    @property
    def _most_features(self) -> int:
        """Maximum number of features, as far as the score is known without the SAE."""
        scores = [self.score] if self.score else [one for one in SELECTIONS if self.selection in (None, *SELECTIONS[one])]
        return max(MOST_FEATURES[one] for one in scores)

    def for_sae(self, sae: SparseAutoencoder) -> CompleteSettings:
        """These settings with score, selection and k filled in.

        Raises:
            SparseRMError: the score is gated, and whether a latent of this SAE fires depends on the others; or features with a
                label are wanted, and the score is not gated.
        """
        score = self.score
        if score is None:
            fitting = [one for one in SELECTIONS if self.selection is None or self.selection in SELECTIONS[one]]
            score = fitting[0] if fitting[0] == "gated" and sae.separable else fitting[-1]
        if score == "gated":
            sae.require_separable()
        elif self.named:
            raise SparseRMError(
                "named is True with the score projection, expected gated scores, since labels say where a feature fires and "
                "projections count where it does not too; leave out named, or use gated scores"
            )
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        filled = {"score": score, "selection": self.selection or SELECTIONS[score][0], "k": self.k or MOST_FEATURES[score]}
        return CompleteSettings(**{**given, **filled})


@dataclass(frozen=True)
class CompleteSettings(FitSettings):
    """:class:`FitSettings` in which nothing is left to the SAE."""

    k: int = MAX_FEATURES
    score: Score = "projection"
    selection: str = "sparse"


@dataclass(frozen=True)
class FittedHead:
    """A fitted head with the results of the fit.

    Attributes:
        head: the reward head.
        stats: activation frequencies of every latent over the training pairs.
        l2: the ridge penalty used.
        l2_choice: the cross-validation that chose it; None where it was given.
        rewards_chosen, rewards_rejected: ``[n]`` rewards of the training responses.
        selected: ``[K]`` share of the halves of the prompts in which each feature was chosen, from the latents that pass the
            screen on all prompts, see :attr:`~sparserm.heads.gated_selection.GatedStatistics.frequency`; None for projections,
            and for features drawn at random.
        sure: ``[K]`` bool, whether each feature surely differs between chosen and rejected responses; None for projections.
    """

    head: RewardHead
    stats: FeatureStats
    l2: float
    l2_choice: L2Choice | None
    rewards_chosen: np.ndarray
    rewards_rejected: np.ndarray
    selected: np.ndarray | None = None
    sure: np.ndarray | None = None

    @property
    def n_sure(self) -> int | None:
        """Number of features that surely differ; None for projections."""
        return None if self.sure is None else int(self.sure.sum())

    @property
    def sure_features(self) -> list[int]:
        """Ids of the features that surely differ; none for projections."""
        features: list[int] = self.head.features[np.zeros(0, np.int64) if self.sure is None else self.sure].tolist()
        return features

    @property
    def accuracy(self) -> float:
        """Share of training pairs ranked correctly; a tie counts as wrong."""
        return float((self.rewards_chosen > self.rewards_rejected).mean())


def fit_settings(**settings: Any) -> FitSettings:
    """:class:`FitSettings` from the arguments that are not None, with ``k`` at most :data:`MOST_FEATURES`.

    Raises:
        SparseRMError: an unknown setting, or one that is out of range.
    """
    known = [field.name for field in fields(FitSettings)]
    if unknown := [name for name in settings if name not in known]:
        raise SparseRMError(f"unknown setting {unknown[0]!r}; expected one of {', '.join(known)}")
    chosen = FitSettings(**{name: value for name, value in settings.items() if value is not None})
    _check_size(chosen.k, chosen._most_features)  # not in FitSettings: the benchmark also measures larger heads
    return chosen


def require_suited(settings: FitSettings, sae: SparseAutoencoder) -> None:
    """Refuse settings that do not suit an SAE before anything is computed with it.

    Raises:
        SparseRMError: the score does not suit the SAE, ``k`` is more than :data:`MOST_FEATURES` of its score, or features
            with a label are wanted and none has one.
    """
    complete = settings.for_sae(sae)
    _check_size(complete.k, MOST_FEATURES[complete.score], f" with the score {complete.score} of SAE {sae.name}")
    if complete.named:
        _named_latents(sae)


def _named_latents(sae: SparseAutoencoder) -> np.ndarray:
    named = named_latents(sae.fingerprint, sae.d_sae)
    if not named.any():
        raise SparseRMError(
            f"no latent of SAE {sae.name} has a label, expected some since features with a label are wanted (named); "
            "label features first, or leave out named"
        )
    return named


def _check_size(k: int | None, most: int, where: str = "") -> None:
    if (k or 1) > most:
        raise SparseRMError(
            f"k is {k}, expected a whole number from 1 to {most}{where}; choose one of these: with more features random "
            "latents do as well"
        )


def fit_head(pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> FittedHead:
    """Select features and fit their weights. Deterministic: the same pairs give the same head, bit for bit.

    Raises:
        SparseRMError: no pairs, a pooling that differs from the settings', or fewer latents that fire than ``k``.
    """
    return fit_each(pairs, sae, [settings])[0]


def fit_each(pairs: PairRepresentations, sae: SparseAutoencoder, settings: Sequence[FitSettings]) -> list[FittedHead]:
    """:func:`fit_head` with settings that differ in their selection, size and seed alone; the statistics are computed once.

    Raises:
        SparseRMError: as for :func:`fit_head`.
    """
    first = settings[0]
    if first.pooling != pairs.pooling:
        raise SparseRMError(
            f"the pairs have {pairs.pooling} pooling, expected {first.pooling}; compute their representations again"
        )
    if len(pairs.groups) == 0:
        raise SparseRMError("there are no pairs to fit a head to; give at least one, for a useful head some hundreds")
    with one_thread():
        statistics = fit_statistics(pairs, sae, first)
        return [
            select_and_fit(pairs, statistics if one.seed == first.seed else statistics.seeded(one.seed), sae, one)
            for one in settings
        ]


def fit_statistics(
    pairs: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings
) -> FitStatistics | GatedStatistics:
    """The statistics of the training pairs that selectors and fits use; the same for every ``k`` and selector of a score.

    Raises:
        SparseRMError: the representations lack the latents that the settings need.
    """
    complete = settings.for_sae(sae)
    if complete.score == "gated":
        stats = feature_stats(pairs, settings.activity)
        return GatedStatistics(GatedScores.of(pairs, sae), stats, settings.seed, settings.avoid_length)
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
    pairs: PairRepresentations, statistics: FitStatistics | GatedStatistics, sae: SparseAutoencoder, settings: FitSettings
) -> FittedHead:
    """:func:`fit_head` from precomputed statistics.

    Raises:
        SparseRMError: projections: fewer usable latents than ``k``; gated scores: no latent differs surely, or none has a label
            where the settings want it.
    """
    complete = settings.for_sae(sae)
    if isinstance(statistics, GatedStatistics):
        return _fit_gated(pairs, statistics, sae, complete)
    n_usable = int(statistics.usable.sum())
    if not 1 <= complete.k <= n_usable:
        raise SparseRMError(
            f"k = {complete.k} features from {len(pairs.groups)} pairs in which {n_usable} latents fire; expected 1 to "
            f"{n_usable} features; choose a smaller k or give more pairs"
        )
    features = np.sort(SELECTORS[complete.selection](statistics, complete.k))
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
    chosen, rejected = rewards(head, pairs.chosen), rewards(head, pairs.rejected)
    return FittedHead(head, statistics.stats, probe.l2, probe.choice, chosen, rejected)


def _fit_gated(
    pairs: PairRepresentations, statistics: GatedStatistics, sae: SparseAutoencoder, settings: CompleteSettings
) -> FittedHead:
    """Choose features by their gated scores, and fit weights that are held to the signs of what the features show."""
    select = GATED_SELECTORS[settings.selection]
    if settings.named:
        statistics = prefer_named(statistics, _named_latents(sae), select, settings.k)
    found, places = select(statistics, settings.k)
    ridge = ridge_for(len(pairs.groups)) if settings.l2 is None else settings.l2
    weights = fit_weights(found.differences[:, places], ridge)
    places, weights = places[weights > 0], weights[weights > 0]
    if len(places) == 0:
        raise SparseRMError(
            f"in these {len(pairs.groups):,} pairs no latent of SAE {sae.name} fires more in chosen or in rejected responses"
            f"{' than their lengths explain' if settings.avoid_length else ''}; give more pairs, choose another layer, or the "
            "score projection"
        )
    order = np.argsort(found.latents[places])
    places, weights = places[order], weights[order]
    features = found.latents[places]
    part = sae.part(features.tolist())
    head = build_head(
        features,
        part.directions().numpy(),
        part.b_dec.numpy(),
        ScoreMoments(np.zeros(len(features)), found.sigma[places]),
        weights * found.signs[places],
        pairs.pooling,
        Encoder.of(part),
        group_families(features, statistics.scores.dense(features), weights * found.signs[places]),
    )
    screened = statistics.screened  # selectors other than `stable` test nothing themselves
    return FittedHead(
        head=head,
        stats=statistics.stats,
        l2=ridge,
        l2_choice=None,
        rewards_chosen=rewards(head, pairs.chosen),
        rewards_rejected=rewards(head, pairs.rejected),
        selected=None if settings.selection == "random" else statistics.frequency[features],
        sure=np.isin(features, screened.latents[screened.q <= FALSE_DISCOVERIES]),
    )


def make_saved_head(
    fitted: FittedHead,
    data: PreferenceData,
    model: Backbone | NamedModel,
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
            **({} if fitted.n_sure is None else {"n_sure": fitted.n_sure}),
            "settings": {**asdict(settings.for_sae(sae)), "l2": fitted.l2},
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
        selected=fitted.selected,
    )

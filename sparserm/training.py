"""From validated pairs to a saved-ready reward model and the figures that belong beside it."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sparserm.backbone import Backbone
from sparserm.card import HeadCard, SavedHead
from sparserm.defaults import DEFAULT_BACKBONE, DEFAULT_LAYER, MAX_FEATURES
from sparserm.evaluate import cross_validate, evaluate_head, random_directions_accuracy, random_settings
from sparserm.fitting import FitSettings, FittedHead, fit_head
from sparserm.model import SparseRM
from sparserm.pairs import short_key
from sparserm.representations import represent_pairs
from sparserm.sae import SparseAutoencoder, check_compatible, load_sae
from sparserm.selection import SELECTORS
from sparserm.store import stored
from sparserm.types import ACTIVITIES, Evaluation, PairRepresentations, Pooling, PreferenceData, Progress, SparseRMError

#: The values that a setting can have.
_CHOICES = {"pooling": get_args(Pooling), "selection": tuple(SELECTORS), "activity": ACTIVITIES}


@dataclass(frozen=True)
class TrainedHead:
    """A trained model and how good it was found to be.

    Attributes:
        model: the reward model.
        evaluation: on the test pairs, or cross-validated over prompts of the training pairs.
        measured_on: which of the two.
        random_accuracy: mean accuracy of five heads of the same size over random latents, measured the same way.
        fit_seconds: selecting features and fitting weights, representations in memory.
        n_truncated: pairs that exceed the backbone's context.
    """

    model: SparseRM
    evaluation: Evaluation
    measured_on: str
    random_accuracy: float
    fit_seconds: float
    n_truncated: int

    def summary(self) -> dict[str, Any]:
        """Plain values for the command line and the card."""
        training = self.model.card.training
        return {
            "n_train": training["n_pairs"],
            "n_prompts": training["n_prompts"],
            "n_skipped": training["n_skipped"],
            "n_truncated": self.n_truncated,
            "accuracy": self.evaluation.accuracy,
            "ci95": list(self.evaluation.ci95),
            "n": self.evaluation.n,
            "measured_on": self.measured_on,
            "train_accuracy": training["accuracy"],
            "random_directions": self.random_accuracy,
            "length_baseline": self.evaluation.length_baseline,
            **{name: training["settings"][name] for name in ("k", "pooling", "selection", "l2", "avoid_length")},
            "hook": self.model.card.hook,
            "sae": self.model.card.sae,
            "fit_seconds": self.fit_seconds,
        }


def train_head(
    data: PreferenceData,
    *,
    backbone: Backbone | str | Path = DEFAULT_BACKBONE,
    sae: SparseAutoencoder | str | Path | None = None,
    layer: int | None = None,
    test: PreferenceData | None = None,
    name: str | None = None,
    licence: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> TrainedHead:
    """Train a head and measure it: on ``test`` where it is given, else by cross-validation over prompts.

    Args:
        settings: fields of :class:`~sparserm.fitting.FitSettings`; None leaves the measured default.

    Raises:
        SparseRMError: the pairs, the SAE, the backbone and the settings do not go together.
    """
    chosen = fit_settings(**settings)
    dictionary, model = load_parts(backbone, sae, layer, progress)
    train = _represent(data, model, dictionary, chosen, progress)
    import sklearn.model_selection  # noqa: F401  (loaded on first use: the figure is of the fit, not of an import)

    started = time.perf_counter()
    fitted = fit_head(train, dictionary, chosen)
    fit_seconds = time.perf_counter() - started
    if test is not None:
        held_out = _represent(test, model, dictionary, chosen, progress, latents=False)
        evaluation, measured_on = evaluate_head(fitted.head, held_out), test.name
        random_accuracy = random_directions_accuracy(train, held_out, dictionary, chosen)
    else:
        evaluation, measured_on = cross_validate(train, dictionary, chosen), "cross-validation over prompts"
        drawn = [cross_validate(train, dictionary, one).accuracy for one in random_settings(chosen)]
        random_accuracy = float(np.mean(drawn))
    metrics = {
        "accuracy": evaluation.accuracy, "ci95": list(evaluation.ci95), "n": evaluation.n, "measured_on": measured_on,
        "random_directions": random_accuracy, "length_baseline": evaluation.length_baseline,
    }  # fmt: skip
    saved = make_saved_head(fitted, data, model, dictionary, chosen, name=name or data.name, metrics=metrics, licence=licence)
    truncated = (train.chosen.n_truncated > 0) | (train.rejected.n_truncated > 0)
    return TrainedHead(SparseRM(saved, model), evaluation, measured_on, random_accuracy, fit_seconds, int(truncated.sum()))


def fit_model(
    data: PreferenceData,
    *,
    backbone: Backbone | str | Path = DEFAULT_BACKBONE,
    sae: SparseAutoencoder | str | Path | None = None,
    layer: int | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> SparseRM:
    """:func:`train_head` without the measuring."""
    chosen = fit_settings(**settings)
    dictionary, model = load_parts(backbone, sae, layer, progress)
    fitted = fit_head(_represent(data, model, dictionary, chosen, progress), dictionary, chosen)
    return SparseRM(make_saved_head(fitted, data, model, dictionary, chosen, name=name or data.name), model)


def fit_settings(**settings: Any) -> FitSettings:
    """Settings from the values that are not None.

    Raises:
        SparseRMError: an unknown setting, or one that is out of its range.
    """
    known = [field.name for field in fields(FitSettings)]
    if unknown := [name for name in settings if name not in known]:
        raise SparseRMError(f"unknown setting {unknown[0]!r}; expected one of {', '.join(known)}")
    chosen = FitSettings(**{name: value for name, value in settings.items() if value is not None})
    for name, options in _CHOICES.items():
        if (value := getattr(chosen, name)) not in options:
            raise SparseRMError(f"{name} is {value!r}, expected one of {', '.join(options)}; choose one of these")
    if not isinstance(chosen.k, Integral) or not 1 <= chosen.k <= MAX_FEATURES:
        raise SparseRMError(
            f"k is {chosen.k!r}, expected a whole number from 1 to {MAX_FEATURES}; choose one of these: with more features "
            "random directions do as well"
        )
    if not isinstance(chosen.avoid_length, bool):
        raise SparseRMError(f"avoid_length is {chosen.avoid_length!r}, expected True or False")
    if chosen.l2 is not None and not (isinstance(chosen.l2, Real) and 0 < chosen.l2 < math.inf):
        raise SparseRMError(f"l2 is {chosen.l2!r}, expected a number above 0; leave it out to have it chosen")
    # Plain numbers, also of NumPy's: they are written to the head's configuration.
    return replace(chosen, k=int(chosen.k), l2=None if chosen.l2 is None else float(chosen.l2))


def load_parts(
    backbone: Backbone | str | Path,
    sae: SparseAutoencoder | str | Path | None,
    layer: int | None,
    progress: Progress | None = None,
) -> tuple[SparseAutoencoder, Backbone]:
    """An SAE and a backbone that go together; the shipped SAE of ``layer`` where none is given.

    Raises:
        SparseRMError: they do not: another width, too few layers, or a layer that is not the SAE's.
    """
    if sae is None and str(backbone) != DEFAULT_BACKBONE and not isinstance(backbone, Backbone):
        raise SparseRMError(f"backbone {str(backbone)!r} has no shipped SAE; give one with --sae (a folder or release:sae_id)")
    dictionary = (
        sae
        if isinstance(sae, SparseAutoencoder)
        else load_sae(sae or f"{DEFAULT_BACKBONE}/layer_{DEFAULT_LAYER if layer is None else layer}")
    )
    if layer is not None and dictionary.hook.layer != layer:
        raise SparseRMError(
            f"SAE {dictionary.name} was trained at {dictionary.hook.name}, but layer {layer} was asked for; leave the layer "
            "out, or choose an SAE of that layer (`sparserm saes`)"
        )
    model = (
        backbone
        if isinstance(backbone, Backbone)
        else Backbone.load(backbone, through_layer=dictionary.hook.layer, progress=progress)
    )
    check_compatible(dictionary, model_name=model.name, d_model=model.d_model, n_layers=model.n_layers)
    return dictionary, model


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
    """A fitted head with all that must travel with it."""
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


def _represent(
    data: PreferenceData,
    model: Backbone,
    sae: SparseAutoencoder,
    settings: FitSettings,
    progress: Progress | None,
    *,
    latents: bool = True,
) -> PairRepresentations:
    saes = {sae.hook: sae if latents else None}
    with stored() as store:
        return represent_pairs(data.pairs, model, saes, settings.pooling, store=store, progress=progress)[sae.hook]

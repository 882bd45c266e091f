"""Training of heads: :func:`train_head` for one head, and the steps that the Train page and its background jobs run.

A training job splits the pairs by prompt (:func:`split_pairs`), represents both parts (:func:`represent_split`), fits and
measures a head, and writes the results that :func:`read_result` reads. The page then fits heads with other settings from the
stored representations (:func:`read_prepared`, :func:`fit_again`), without running the backbone.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sparserm.audit.surface import surface_margins
from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import Evaluation, cross_validate, each_cross_validated, evaluate_head
from sparserm.evaluation.baselines import of_size, random_latent_heads, random_latents_accuracy, random_settings
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head, fit_settings, make_saved_head
from sparserm.heads.inputs import load_parts_of, represent_for_fit, represent_layers
from sparserm.heads.labels import names_of
from sparserm.heads.learned import Learned
from sparserm.heads.saved import SavedHead, load_head
from sparserm.model import SparseRM
from sparserm.pairs.sources import DataSource
from sparserm.pairs.split import Split, split_by_prompt
from sparserm.representations.files import RepresentedPairs, texts_of
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.training.evidence import HeadEvidence, Measured, measure, measure_margins
from sparserm.types import HookPoint, PreferenceData, Progress, SparseRMError, TokenizedText

#: Fixed seeds: the same pairs are always sampled and split in the same way, whatever the other settings.
SPLIT_SEED, SAMPLE_SEED = 0, 1
#: File of a job's results, in its folder.
EVIDENCE_FILE = "evidence.json"


@dataclass(frozen=True)
class TrainSpec:
    """Specification of a training job.

    Attributes:
        source: where the pairs come from.
        saes: names or folders of SAEs, one for each layer.
        settings: settings of the fit.
        test_share: share of the prompts that is held out for testing.
        max_pairs: train and test on a sample of about this many pairs; None uses all.
        backbone: name of the language model.
        name: name of the head.
        download: whether the language model may be downloaded: the user typed its name.
    """

    source: DataSource
    saes: tuple[str, ...]
    settings: FitSettings
    test_share: float = 0.2
    max_pairs: int | None = None
    backbone: str = DEFAULT_BACKBONE
    name: str = "head"
    download: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the inverse of :meth:`from_dict`."""
        return {**asdict(self), "source": self.source.to_dict()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TrainSpec:
        """Read what :meth:`to_dict` wrote."""
        settings, source = fit_settings(**value["settings"]), DataSource.from_dict(value["source"])
        return cls(**{**value, "source": source, "settings": settings, "saes": tuple(value["saes"])})


@dataclass(frozen=True)
class Prepared:
    """A split of pairs and its representations at one SAE's layer."""

    split: Split
    train: PairRepresentations
    test: PairRepresentations
    sae: SparseAutoencoder


@dataclass(frozen=True)
class TrainResult:
    """Results of a finished training job.

    Attributes:
        spec: the job's specification.
        sae: name of the SAE whose head was kept: of several layers, the one with the best cross-validated accuracy.
        saved: the head.
        evidence: baselines, learning curve, sweep and stability of the head.
        sure: ids of the features that surely differ; None where an earlier version has not kept them.
        n_train, n_test: numbers of pairs.
    """

    spec: TrainSpec
    sae: str
    saved: SavedHead
    evidence: HeadEvidence
    sure: tuple[int, ...] | None
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Measurement:
    """Held-out accuracy of a head, with its baselines.

    Attributes:
        evaluation: accuracy with its interval.
        measured_on: name of the test pairs, or ``cross-validation over prompts``.
        random_accuracy: mean accuracy of five heads of the same size over random latents, measured the same way.
        surface_accuracy: of all surface features in one model, measured the same way; a tie counts as wrong.
    """

    evaluation: Evaluation
    measured_on: str
    random_accuracy: float
    surface_accuracy: float

    def metrics(self) -> dict[str, Any]:
        """Plain values for the head's card."""
        return {
            "accuracy": self.evaluation.accuracy,
            "ci95": list(self.evaluation.ci95),
            "n": self.evaluation.n,
            "measured_on": self.measured_on,
            "random_directions": self.random_accuracy,  # the key of heads over random latents in saved heads
            "length_baseline": self.evaluation.length_baseline,
            "surface_features": self.surface_accuracy,
        }


@dataclass(frozen=True)
class TrainedHead:
    """A trained reward model with its held-out accuracy.

    Attributes:
        model: the reward model.
        measurement: on the test pairs, or cross-validated over the prompts of the training pairs.
        learned: what it learned, with a verdict and warnings.
        fit_seconds: time to select features and fit weights, from representations in memory.
        n_truncated: number of pairs that exceed the backbone's context.
    """

    model: SparseRM
    measurement: Measurement
    learned: Learned
    fit_seconds: float
    n_truncated: int

    @property
    def evaluation(self) -> Evaluation:
        """Held-out accuracy with its interval and baseline."""
        return self.measurement.evaluation

    def summary(self) -> dict[str, Any]:
        """Plain values for the command line and the card."""
        training = self.model.card.training
        return {
            "n_train": training["n_pairs"],
            "n_prompts": training["n_prompts"],
            "n_skipped": training["n_skipped"],
            "n_truncated": self.n_truncated,
            **self.measurement.metrics(),
            "train_accuracy": training["accuracy"],
            "k": len(self.model.head.features),
            "n_sure": self.model.saved.n_sure,
            **{name: training["settings"][name] for name in ("score", "pooling", "selection", "l2", "avoid_length", "named")},
            "hook": self.model.card.hook,
            "sae": self.model.card.sae,
            "fit_seconds": self.fit_seconds,
        }


def train_head(
    data: PreferenceData | RepresentedPairs,
    *,
    backbone: Backbone | str | Path = DEFAULT_BACKBONE,
    sae: SparseAutoencoder | str | Path | None = None,
    layer: int | None = None,
    test: PreferenceData | RepresentedPairs | None = None,
    name: str | None = None,
    licence: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> TrainedHead:
    """Train a head and measure it, on ``test`` if given, otherwise by cross-validation over prompts.

    Args:
        data: the training pairs. Those whose representations are in files say which backbone and SAE they are of, the backbone
            is not loaded, and their test pairs are in files too.
        settings: fields of :class:`~sparserm.heads.fitting.FitSettings`; None means the default.

    Raises:
        SparseRMError: the pairs cannot be used, or the SAE, the backbone and the settings do not match.
    """
    chosen = fit_settings(**settings)
    dictionary, model = load_parts_of(data, backbone, sae, layer, progress)
    train = represent_for_fit(data, model, dictionary, chosen, progress)
    importlib.import_module("sklearn.model_selection")  # the fit would import it: excluded from the timing

    started = time.perf_counter()
    fitted = fit_head(train, dictionary, chosen)
    fit_seconds = time.perf_counter() - started
    texts = texts_of(data)
    if test is not None:
        held_out = represent_for_fit(test, model, dictionary, chosen, progress, latents=False)
        random_accuracy = random_latents_accuracy(train, held_out, dictionary, of_size(chosen, fitted))
        tested = texts_of(test)
        surface = surface_margins(texts.pairs, train.groups, tested.pairs)
        found = Measurement(evaluate_head(fitted.head, held_out), tested.name, random_accuracy, float((surface > 0).mean()))
    else:
        found = _cross_validated(texts, train, dictionary, chosen, fitted)
    saved = make_saved_head(
        fitted, texts, model, dictionary, chosen, name=name or texts.name, metrics=found.metrics(), licence=licence
    )
    truncated = (train.chosen.n_truncated > 0) | (train.rejected.n_truncated > 0)
    learned = Learned.of_saved(saved, fitted.sure_features, names_of(saved.card))
    reward_model = SparseRM(saved, model if isinstance(model, Backbone) else None)
    return TrainedHead(reward_model, found, learned, fit_seconds, int(truncated.sum()))


def split_pairs(data: PreferenceData, spec: TrainSpec) -> Split:
    """Split pairs, or a sample of them if ``spec.max_pairs`` is set, into training and test pairs that share no prompt.

    Deterministic: the same pairs and specification give the same split.

    Raises:
        SparseRMError: there are fewer than two prompts, or ``test_share`` is not between 0 and 1.
    """
    if spec.max_pairs is not None and spec.max_pairs < len(data.pairs):
        sample = split_by_prompt(data, test_fraction=spec.max_pairs / len(data.pairs), seed=SAMPLE_SEED).test
        data = replace(sample, name=f"{data.name}, sample of {len(sample.pairs):,}")
    return split_by_prompt(data, test_fraction=spec.test_share, seed=SPLIT_SEED)


def represent_split(
    split: Split,
    backbone: Backbone,
    saes: Mapping[str, SparseAutoencoder],
    settings: FitSettings,
    progress: Progress | None = None,
) -> dict[str, Prepared]:
    """Representations of both parts at every SAE's layer, from one pass of the backbone, by the SAE's name.

    Raises:
        SparseRMError: an SAE was not trained on this backbone.
    """
    pairs = (*split.train.pairs, *split.test.pairs)
    found = represent_layers(pairs, backbone, saes, settings, progress)
    train, test = np.split(np.arange(len(pairs)), [len(split.train.pairs)])
    return {name: Prepared(split, found[name].take(train), found[name].take(test), sae) for name, sae in saes.items()}


def finish_head(
    fitted: FittedHead,
    prepared: Prepared,
    backbone: Backbone,
    settings: FitSettings,
    random: Measured,
    surface: Measured,
    name: str,
) -> SavedHead:
    """The head with its card: trained on the training part, measured on the test part.

    Args:
        random, surface: accuracy of heads over random latents and of surface features on the test part.
    """
    evaluation = evaluate_head(fitted.head, prepared.test)
    found = Measurement(evaluation, prepared.split.test.name, random.accuracy, surface.accuracy)
    return make_saved_head(fitted, prepared.split.train, backbone, prepared.sae, settings, name=name, metrics=found.metrics())


def read_result(spec: Mapping[str, Any], folder: Path) -> TrainResult:
    """Read the results of a finished training job from its folder.

    Raises:
        SparseRMError: the results are damaged.
    """
    try:
        found = json.loads((folder / EVIDENCE_FILE).read_text())
        return TrainResult(
            spec=TrainSpec.from_dict(spec),
            sae=found["sae"],
            saved=load_head(folder / "head"),
            evidence=HeadEvidence.from_dict(found),
            sure=tuple(map(int, found["sure"])) if "sure" in found else None,
            n_train=found["n_train"],
            n_test=found["n_test"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SparseRMError(f"the results in {folder} cannot be read ({error}); delete this job and train again") from error


def split_again(result: TrainResult) -> Split:
    """Reproduce the split that a job trained and tested on.

    Raises:
        SparseRMError: the pairs are gone or have changed since.
    """
    split = split_pairs(result.spec.source.load(), result.spec)
    if split.train.content_hash != result.saved.card.training["data_hash"]:
        raise SparseRMError(
            f"{split.train.name} has changed since this head was trained; expected the same pairs; train again to try "
            "other settings"
        )
    return split


def read_prepared(split: Split, backbone: Backbone, sae: SparseAutoencoder, settings: FitSettings) -> Prepared:
    """Representations of a split at one SAE's layer, read from the store without running the backbone.

    Raises:
        SparseRMError: some representations are not in the store.
    """
    return represent_split(split, cast(Backbone, _StoredOnly(backbone)), {sae.name: sae}, settings)[sae.name]


def fit_again(prepared: Prepared, settings: FitSettings) -> tuple[FittedHead, Measured]:
    """Fit a head with other settings and measure it on the same test pairs; under a second for a thousand pairs.

    Raises:
        SparseRMError: as for :func:`~sparserm.heads.fitting.fit_head`.
    """
    fitted = fit_head(prepared.train, prepared.sae, settings)
    return fitted, measure("head", [fitted.head], prepared.test)


def measure_random(prepared: Prepared, settings: FitSettings) -> Measured:
    """Test accuracy of heads of ``settings.k`` random latents."""
    return measure("random", random_latent_heads(prepared.train, prepared.sae, settings), prepared.test)


def measure_surface(prepared: Prepared) -> Measured:
    """Test accuracy of one model of all surface features, such as length, refusals and lists."""
    split = prepared.split
    margins = surface_margins(split.train.pairs, prepared.train.groups, split.test.pairs)
    return measure_margins("surface", margins, prepared.test)


class _StoredOnly:
    """A backbone that tokenises texts but refuses to run on them, so that all representations must come from the store."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def each_pass(self, texts: Sequence[TokenizedText], hooks: Sequence[HookPoint], *_: Any, **__: Any) -> Iterator[Any]:
        if texts:
            raise SparseRMError(
                f"{len(texts):,} responses at {hooks[0].name} are not in the store; train again with these settings, which "
                "computes only the missing ones"
            )
        return iter(())


def _cross_validated(
    data: PreferenceData, train: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings, fitted: FittedHead
) -> Measurement:
    drawn = (each_cross_validated(train, sae, random_settings(of_size(settings, fitted))) > 0).mean(1)
    surface = float((surface_margins(data.pairs, train.groups) > 0).mean())
    return Measurement(cross_validate(train, sae, settings), "cross-validation over prompts", float(np.mean(drawn)), surface)

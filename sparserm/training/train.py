"""From validated pairs to a saved-ready reward model and the figures that belong beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sparserm.backbone.model import Backbone
from sparserm.evaluation.accuracy import Evaluation, cross_validate, evaluate_head, random_latents_accuracy, random_settings
from sparserm.heads.fitting import FitSettings, FittedHead, fit_head, fit_settings, make_saved_head
from sparserm.heads.inputs import load_parts, represent_for_fit, represent_layers
from sparserm.heads.saved import SavedHead, load_head
from sparserm.model import SparseRM
from sparserm.pairs.sources import DataSource
from sparserm.pairs.split import Split, split_by_prompt
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.support.defaults import DEFAULT_BACKBONE
from sparserm.support.threads import in_threads
from sparserm.training.evidence import HeadEvidence, Measured, measure
from sparserm.types import HookPoint, Pooling, PreferenceData, Progress, SparseRMError, TokenizedText

#: The split is the same for the same pairs, whatever else is changed.
SPLIT_SEED, SAMPLE_SEED = 0, 1


EVIDENCE_FILE = "evidence.json"


@dataclass(frozen=True)
class TrainSpec:
    """What to train.

    Attributes:
        source: where the pairs come from.
        saes: names or folders of SAEs, one for each layer.
        settings: of the fit.
        test_share: of the prompts, held out.
        max_pairs: train and test on a sample of about as many pairs; None takes all.
        backbone: name of the language model.
        name: of the head.
    """

    source: DataSource
    saes: tuple[str, ...]
    settings: FitSettings
    test_share: float = 0.2
    max_pairs: int | None = None
    backbone: str = DEFAULT_BACKBONE
    name: str = "head"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` reads it back."""
        return {**asdict(self), "source": self.source.to_dict()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TrainSpec:
        """What :meth:`to_dict` wrote."""
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
    """What a job has left in its folder.

    Attributes:
        spec: what was asked for.
        sae: whose head was taken: of several layers, the one whose heads rank best in cross-validation.
        saved: the head.
        evidence: about it.
        n_train, n_test: pairs.
    """

    spec: TrainSpec
    sae: str
    saved: SavedHead
    evidence: HeadEvidence
    n_train: int
    n_test: int


class _NotRun:
    """A backbone that tokenises and refuses texts to be represented: what is asked of it has to be stored."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def passes(self, texts: Sequence[TokenizedText], hooks: Sequence[HookPoint], **_: Any) -> Iterator[Any]:
        if texts:
            raise SparseRMError(
                f"{len(texts):,} responses at {hooks[0].name} are not in the store, or no longer; train again with these "
                "settings: what is still stored is not read again"
            )
        return iter(())


@dataclass(frozen=True)
class Measurement:
    """How good a head is on pairs that it was not trained on.

    Attributes:
        evaluation: accuracy with its interval.
        measured_on: name of the test pairs, or ``cross-validation over prompts``.
        random_accuracy: mean accuracy of five heads of the same size over random latents, measured the same way.
    """

    evaluation: Evaluation
    measured_on: str
    random_accuracy: float

    def metrics(self) -> dict[str, Any]:
        """Plain values for the head's card."""
        return {
            "accuracy": self.evaluation.accuracy,
            "ci95": list(self.evaluation.ci95),
            "n": self.evaluation.n,
            "measured_on": self.measured_on,
            "random_directions": self.random_accuracy,
            "length_baseline": self.evaluation.length_baseline,
        }


@dataclass(frozen=True)
class TrainedHead:
    """A trained model and how good it was found to be.

    Attributes:
        model: the reward model.
        measurement: on the test pairs, or cross-validated over prompts of the training pairs.
        fit_seconds: selecting features and fitting weights, representations in memory.
        n_truncated: pairs that exceed the backbone's context.
    """

    model: SparseRM
    measurement: Measurement
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
            **self.measurement.metrics(),
            "train_accuracy": training["accuracy"],
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
        settings: fields of :class:`~sparserm.heads.fitting.FitSettings`; None leaves the measured default.

    Raises:
        SparseRMError: the pairs, the SAE, the backbone and the settings do not go together.
    """
    chosen = fit_settings(**settings)
    dictionary, model = load_parts(backbone, sae, layer, progress)
    train = represent_for_fit(data, model, dictionary, chosen, progress)
    import sklearn.model_selection  # noqa: F401  (loaded on first use: the figure is of the fit, not of an import)

    started = time.perf_counter()
    fitted = fit_head(train, dictionary, chosen)
    fit_seconds = time.perf_counter() - started
    if test is not None:
        held_out = represent_for_fit(test, model, dictionary, chosen, progress, latents=False)
        random_accuracy = random_latents_accuracy(train, held_out, dictionary, chosen)
        found = Measurement(evaluate_head(fitted.head, held_out), test.name, random_accuracy)
    else:
        found = _cross_validated(train, dictionary, chosen)
    saved = make_saved_head(
        fitted, data, model, dictionary, chosen, name=name or data.name, metrics=found.metrics(), licence=licence
    )
    truncated = (train.chosen.n_truncated > 0) | (train.rejected.n_truncated > 0)
    return TrainedHead(SparseRM(saved, model), found, fit_seconds, int(truncated.sum()))


def _cross_validated(train: PairRepresentations, sae: SparseAutoencoder, settings: FitSettings) -> Measurement:
    drawn = [cross_validate(train, sae, one).accuracy for one in random_settings(settings)]
    return Measurement(cross_validate(train, sae, settings), "cross-validation over prompts", float(np.mean(drawn)))


def read_result(spec: Mapping[str, Any], folder: Path) -> TrainResult:
    """What a job that has ended well left in its folder.

    Raises:
        SparseRMError: it is damaged.
    """
    try:
        wanted, found = TrainSpec.from_dict(spec), json.loads((folder / EVIDENCE_FILE).read_text())
        for cell in found["cells"]:
            cell.setdefault("method", wanted.settings.selection)  # jobs of before knew no other
        return TrainResult(
            spec=wanted,
            sae=found["sae"],
            saved=load_head(folder / "head"),
            evidence=HeadEvidence.from_dict(found),
            n_train=found["n_train"],
            n_test=found["n_test"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SparseRMError(f"the results in {folder} cannot be read ({error}); delete this job and train again") from error


def split_again(result: TrainResult) -> Split:
    """The split that a job trained and tested on.

    Raises:
        SparseRMError: the pairs are gone, or are others by now.
    """
    split = split_pairs(result.spec.source.load(), result.spec)
    if split.train.content_hash != result.saved.card.training["data_hash"]:
        raise SparseRMError(
            f"{split.train.name} holds other pairs than when this head was trained; train again to try other settings"
        )
    return split


def split_pairs(data: PreferenceData, spec: TrainSpec) -> Split:
    """Training and test pairs that share no prompt, of a sample where one was asked for; the same every time.

    Raises:
        SparseRMError: fewer than two prompts, or a share that is not between 0 and 1.
    """
    if spec.max_pairs is not None and spec.max_pairs < len(data.pairs):
        sample = split_by_prompt(data, test_fraction=spec.max_pairs / len(data.pairs), seed=SAMPLE_SEED).test
        data = replace(sample, name=f"{data.name}, sample of {len(sample.pairs):,}")
    return split_by_prompt(data, test_fraction=spec.test_share, seed=SPLIT_SEED)


def represent_split(
    split: Split, backbone: Backbone, saes: Mapping[str, SparseAutoencoder], pooling: Pooling, progress: Progress | None = None
) -> dict[str, Prepared]:
    """Representations of both parts at every SAE's layer, from one pass of the backbone, by the SAE's name.

    Raises:
        SparseRMError: an SAE is not one of this backbone.
    """
    pairs = (*split.train.pairs, *split.test.pairs)
    found = represent_layers(pairs, backbone, saes, pooling, progress)
    train, test = np.split(np.arange(len(pairs)), [len(split.train.pairs)])
    return {name: Prepared(split, found[name].take(train), found[name].take(test), sae) for name, sae in saes.items()}


def read_prepared(split: Split, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling) -> Prepared:
    """The same for one SAE from what is stored: without running the backbone.

    Raises:
        SparseRMError: something is not stored, or no longer.
    """
    return represent_split(split, cast(Backbone, _NotRun(backbone)), {sae.name: sae}, pooling)[sae.name]


def fit_again(prepared: Prepared, settings: FitSettings) -> tuple[FittedHead, Measured]:
    """A head with other settings and its accuracy on the same test pairs: in well under a second for a thousand pairs.

    Raises:
        SparseRMError: as for :func:`~sparserm.heads.fitting.fit_head`.
    """
    fitted = fit_head(prepared.train, prepared.sae, settings)
    return fitted, measure("head", [fitted.head], prepared.test)


def measure_random(prepared: Prepared, settings: FitSettings) -> Measured:
    """Heads of the same size over latents drawn at random."""
    heads = in_threads(lambda one: fit_head(prepared.train, prepared.sae, one).head, random_settings(settings))
    return measure("random", heads, prepared.test)


def finish_head(
    fitted: FittedHead, prepared: Prepared, backbone: Backbone, settings: FitSettings, random: Measured, name: str
) -> SavedHead:
    """The head with its card: trained on the training part, measured on the test part."""
    found = Measurement(evaluate_head(fitted.head, prepared.test), prepared.split.test.name, random.accuracy)
    return make_saved_head(fitted, prepared.split.train, backbone, prepared.sae, settings, name=name, metrics=found.metrics())

"""The job that trains a head and gathers its evidence, and what a page does with a job that has ended: fit again at once.

Every layer that was asked for is read in one pass of the backbone. What is read is stored, so that an interrupted job goes
on where it was, and other settings only fit again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sparserm.backbone import Backbone
from sparserm.card import SavedHead, load_head, save_head
from sparserm.defaults import DEFAULT_BACKBONE
from sparserm.evaluate import evaluate_head, random_settings
from sparserm.evidence import HeadEvidence, Measured, gather_head_evidence, measure
from sparserm.fitting import FitSettings, FittedHead, fit_head
from sparserm.jobs import Report
from sparserm.pairs import Split, split_by_prompt
from sparserm.representations import represent_pairs
from sparserm.sae import SparseAutoencoder, check_compatible, load_sae
from sparserm.sources import DataSource
from sparserm.store import stored
from sparserm.sweep import SIZES, sweep
from sparserm.threads import in_threads
from sparserm.training import fit_settings, make_saved_head
from sparserm.types import (
    HookPoint,
    PairRepresentations,
    Pooling,
    PreferenceData,
    PreferencePair,
    Progress,
    SparseRMError,
    TokenizedText,
)

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


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Train the head ``spec`` asks for, into ``folder``.

    Raises:
        SparseRMError: the pairs, the SAEs, the backbone and the settings do not go together.
    """
    wanted = TrainSpec.from_dict(spec)
    report.stage(1, 4, "Pairs")
    split = split_pairs(wanted.source.load(), wanted)
    saes = load_saes(wanted.saes)
    report.stage(2, 4, "Representations")
    through = max(sae.hook.layer for sae in saes.values())
    backbone = Backbone.load(wanted.backbone, through_layer=through, progress=report)
    prepared = represent_split(split, backbone, saes, wanted.settings.pooling, _in_pairs(split, report))
    report.stage(3, 4, "Head")
    train = {name: one.train for name, one in prepared.items()}
    cells = sweep(train, saes, wanted.settings, {*SIZES, wanted.settings.k}, progress=report)
    own = (wanted.settings.selection, wanted.settings.k)
    at_k = {cell.sae: cell.accuracy for cell in cells if (cell.method, cell.k) == own}
    best = max(saes, key=lambda name: at_k.get(name, 0.0))
    fitted = fit_head(prepared[best].train, saes[best], wanted.settings)
    report.stage(4, 4, "Evidence")
    one = prepared[best]
    evidence = gather_head_evidence(fitted, one.train, one.test, one.sae, wanted.settings, cells, report)
    random = next(found for found in evidence.baselines if found.name == "random")
    save_head(finish_head(fitted, one, backbone, wanted.settings, random, wanted.name), folder / "head")
    result = {"sae": best, "n_train": len(split.train.pairs), "n_test": len(split.test.pairs), **evidence.to_dict()}
    (folder / EVIDENCE_FILE).write_text(json.dumps(result))


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
            spec=wanted, sae=found["sae"], saved=load_head(folder / "head"),
            evidence=HeadEvidence.from_dict(found), n_train=found["n_train"], n_test=found["n_test"],
        )  # fmt: skip
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


def load_saes(names: tuple[str, ...]) -> dict[str, SparseAutoencoder]:
    """The SAEs by name.

    Raises:
        SparseRMError: none is named, one cannot be loaded, or two are of one place.
    """
    if not names:
        raise SparseRMError("no layer was chosen; expected one SAE or more, each of a layer of its own")
    saes = {name: load_sae(name) for name in names}
    for name, sae in saes.items():
        if same := [other for other, its in saes.items() if other != name and its.hook == sae.hook]:
            raise SparseRMError(f"SAEs {name} and {same[0]} both read {sae.hook.name}; choose one of them for each layer")
    return saes


def represent_split(
    split: Split,
    backbone: Backbone,
    saes: Mapping[str, SparseAutoencoder],
    pooling: Pooling,
    progress: Progress | None = None,
) -> dict[str, Prepared]:
    """Representations of both parts at every SAE's layer, from one pass of the backbone, by the SAE's name.

    Raises:
        SparseRMError: an SAE is not one of this backbone.
    """
    pairs = (*split.train.pairs, *split.test.pairs)
    found = represent_layers(pairs, backbone, saes, pooling, progress)
    train, test = np.split(np.arange(len(pairs)), [len(split.train.pairs)])
    return {name: Prepared(split, found[name].take(train), found[name].take(test), sae) for name, sae in saes.items()}


def represent_layers(
    pairs: Sequence[PreferencePair],
    backbone: Backbone,
    saes: Mapping[str, SparseAutoencoder],
    pooling: Pooling,
    progress: Progress | None = None,
) -> dict[str, PairRepresentations]:
    """Representations at every SAE's layer, from one pass of the backbone, by the SAE's name.

    Raises:
        SparseRMError: an SAE is not one of this backbone.
    """
    for sae in saes.values():
        check_compatible(sae, model_name=backbone.name, d_model=backbone.d_model, n_layers=backbone.n_layers)
    with stored() as store:
        hooks = {sae.hook: sae for sae in saes.values()}
        found = represent_pairs(pairs, backbone, hooks, pooling, store=store, progress=progress)
    return {name: found[sae.hook] for name, sae in saes.items()}


def read_prepared(split: Split, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling) -> Prepared:
    """The same for one SAE from what is stored: without running the backbone.

    Raises:
        SparseRMError: something is not stored, or no longer.
    """
    return represent_split(split, cast(Backbone, _NotRun(backbone)), {sae.name: sae}, pooling)[sae.name]


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


def fit_again(prepared: Prepared, settings: FitSettings) -> tuple[FittedHead, Measured]:
    """A head with other settings and its accuracy on the same test pairs: in well under a second for a thousand pairs.

    Raises:
        SparseRMError: as for :func:`~sparserm.fitting.fit_head`.
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
    found = evaluate_head(fitted.head, prepared.test)
    metrics = {
        "accuracy": found.accuracy, "ci95": list(found.ci95), "n": found.n, "measured_on": prepared.split.test.name,
        "random_directions": random.accuracy, "length_baseline": found.length_baseline,
    }  # fmt: skip
    return make_saved_head(fitted, prepared.split.train, backbone, prepared.sae, settings, name=name, metrics=metrics)


def _in_pairs(split: Split, report: Progress) -> Progress:
    """Responses counted as pairs, those included that were stored before: an interrupted job begins where it was."""
    n = len(split.train.pairs) + len(split.test.pairs)

    def progress(done: int, total: int, what: str) -> None:
        report(n - min(n, -(-(total - done) // 2)), n, "Representations (pairs)")

    return progress

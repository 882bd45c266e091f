"""One function for each kind of job, run by the worker process (:mod:`.worker`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparserm.audit.flags import audit, save_audit
from sparserm.backbone.model import Backbone
from sparserm.features.auto_labels import Labeller, Rule, label_head
from sparserm.features.cache import FeatureStore
from sparserm.features.cards import feature_card
from sparserm.features.llm_labels import EndpointLabeller, configured_endpoint
from sparserm.heads.fitting import fit_head
from sparserm.heads.inputs import load_saes
from sparserm.heads.saved import load_head, save_head
from sparserm.jobs.queue import Report
from sparserm.model import SparseRM
from sparserm.pairs.candidates import kept_candidates
from sparserm.pairs.sources import DataSource
from sparserm.pairs.split import Split
from sparserm.representations.represent import represent_pairs
from sparserm.representations.sample import SAMPLE_FILE, represent_sample
from sparserm.representations.store import stored
from sparserm.sae.autoencoder import load_sae
from sparserm.scoring.best_of_n import rank
from sparserm.support.files import write_json
from sparserm.training.evidence import gather_head_evidence
from sparserm.training.sweep import sweep
from sparserm.training.train import EVIDENCE_FILE, TrainSpec, finish_head, measure_surface, represent_split, split_pairs
from sparserm.types import Progress


def represent_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Represent ``spec["source"]`` with the backbone ``spec["backbone"]``, and the latents of the SAE ``spec["sae"]``.

    Everything is written to the store, which the pages read and from which an interrupted job resumes. A random sample comes
    first; its size is in ``sample.json``.

    Raises:
        SparseRMError: the pairs, the SAE or the backbone cannot be used.
    """
    report.stage(1, 4, "Pairs")
    data = DataSource.from_dict(spec["source"]).load()
    sae = load_sae(spec["sae"], may_download=False)
    report.stage(2, 4, "Language model")
    backbone = Backbone.load(spec["backbone"], through_layer=sae.hook.layer, may_download=False, progress=report)
    with stored() as store:
        report.stage(3, 4, "A sample (pairs)")
        sampled = represent_sample(data.pairs, backbone, {sae.hook: sae}, store, report)
        write_json(folder / SAMPLE_FILE, {"pairs": sampled})
        report.stage(4, 4, "Representations (responses)")
        represent_pairs(data.pairs, backbone, {sae.hook: sae}, "mean", strengths=True, store=store, progress=report)


def audit_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Audit ``spec["source"]``, and check overlap with ``spec["against"]`` unless that is None.

    Raises:
        SparseRMError: the pairs cannot be used.
    """
    report.stage(1, 2, "Pairs")
    data = DataSource.from_dict(spec["source"]).load()
    against = DataSource.from_dict(spec["against"]).load() if spec["against"] else None
    report.stage(2, 2, f"Auditing {len(data.pairs):,} pairs")
    save_audit(audit(data, against=against), folder)


def best_of_n_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Score the uploaded candidates ``spec["candidates"]`` with the head ``spec["head"]``.

    Their rewards are in ``rewards.npy``, in their order, and the tokens cut from their prompts in ``n_truncated.npy``.
    An interrupted job resumes from the store.

    Raises:
        SparseRMError: the candidates, the head or its backbone cannot be used.
    """
    report.stage(1, 2, "Candidates")
    candidates = kept_candidates(spec["candidates"])
    model = SparseRM.from_pretrained(spec["head"])
    model.load_backbone(report)
    report.stage(2, 2, "Representations (responses)")
    ranked = rank(model, candidates, progress=report)
    np.save(folder / "n_truncated.npy", np.array([cut for one in ranked for cut in one.n_truncated]))
    np.save(folder / "rewards.npy", np.array([reward for one in ranked for reward in one.rewards]))


def features_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Compute what the Features page shows of ``spec["source"]`` with ``spec["backbone"]`` and the SAE ``spec["sae"]``.

    These are representations, opening shares, the words that each latent fires on, the tokens that it promotes, and, where
    ``spec["head"]`` is not None, activations on the examples of that head's features. All of it is cached where the pages read
    it, and an interrupted job resumes from there.

    Raises:
        SparseRMError: the pairs, the head, its SAE or its backbone cannot be used.
    """
    report.stage(1, 5, "Representations (responses)")
    data = DataSource.from_dict(spec["source"]).load()
    head = None if spec["head"] is None else load_head(spec["head"]).head
    sae = load_sae(spec["sae"], may_download=False)
    backbone = Backbone.load(spec["backbone"], through_layer=sae.hook.layer, may_download=False, progress=report)
    pooling = "mean" if head is None else head.pooling
    with stored() as store:
        both = represent_pairs(data.pairs, backbone, {sae.hook: sae}, pooling, strengths=True, store=store, progress=report)
    pairs = both[sae.hook]
    kept = FeatureStore(data.content_hash, sae.fingerprint, backbone.fingerprint)
    report.stage(2, 5, "Openings (responses)")
    kept.openings(data, pairs, backbone, sae, report)
    report.stage(3, 5, "Examples (responses)")
    features = [] if head is None else head.features.tolist()
    kept.readings([feature_card(one, data.pairs, pairs, sae, head) for one in features], data, backbone, sae, report)
    report.stage(4, 5, "Words (responses)")
    kept.words(data, pairs, backbone, sae, report)
    report.stage(5, 5, "Promoted tokens (latents)")
    kept.lens(spec["backbone"], sae, report)
    write_json(folder / "result.json", {"features": features, "pairs": len(data.pairs)})


def labels_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Label the features of the head ``spec["head"]`` on the pairs ``spec["source"]``.

    If ``spec["endpoint"]`` is true, the language-model endpoint configured in the environment proposes the labels.

    Raises:
        SparseRMError: the pairs, the head, its SAE, its backbone or the endpoint cannot be used.
    """
    report.stage(1, 1, "Labels (features)")
    endpoint = configured_endpoint() if spec["endpoint"] else None
    labeller: Labeller = EndpointLabeller(endpoint) if endpoint else Rule()
    labels = label_head(SparseRM.from_pretrained(spec["head"]), DataSource.from_dict(spec["source"]).load(), labeller, report)
    named = sum(label.text is not None for label in labels.values())
    write_json(folder / "result.json", {"features": len(labels), "labelled": named})


def train_job(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Train a head as specified by ``spec`` (:class:`~sparserm.training.train.TrainSpec`), into ``folder``.

    Raises:
        SparseRMError: the pairs cannot be used, or the SAEs, the backbone and the settings do not match.
    """
    wanted = TrainSpec.from_dict(spec)
    report.stage(1, 4, "Pairs")
    split = split_pairs(wanted.source.load(), wanted)
    saes = load_saes(wanted.saes)
    report.stage(2, 4, "Representations")
    through = max(sae.hook.layer for sae in saes.values())
    backbone = Backbone.load(wanted.backbone, through_layer=through, may_download=wanted.download, progress=report)
    prepared = represent_split(split, backbone, saes, wanted.settings, count_in_pairs(split, report))
    report.stage(3, 4, "Head")
    train = {name: one.train for name, one in prepared.items()}
    cells = sweep(train, saes, wanted.settings, progress=report)
    own = {name: wanted.settings.for_sae(sae) for name, sae in saes.items()}
    at_k = {cell.sae: cell.accuracy for cell in cells if (cell.method, cell.k) == (own[cell.sae].selection, own[cell.sae].k)}
    best = max(saes, key=lambda name: at_k.get(name, 0.0))
    fitted = fit_head(prepared[best].train, saes[best], wanted.settings)
    report.stage(4, 4, "Evidence")
    one = prepared[best]
    evidence = gather_head_evidence(fitted, one.train, one.test, one.sae, wanted.settings, cells, report)
    surface = measure_surface(one)
    evidence = replace(evidence, baselines=(*evidence.baselines, surface))
    random = next(found for found in evidence.baselines if found.name == "random")
    save_head(finish_head(fitted, one, backbone, wanted.settings, random, surface, wanted.name), folder / "head")
    sizes = {"n_train": len(split.train.pairs), "n_test": len(split.test.pairs)}
    write_json(folder / EVIDENCE_FILE, {"sae": best, **sizes, "sure": fitted.sure_features, **evidence.to_dict()})


def count_in_pairs(split: Split, report: Progress) -> Progress:
    """Report progress in pairs instead of responses; stored pairs count as done, also when a job is resumed."""
    n = len(split.train.pairs) + len(split.test.pairs)

    def progress(done: int, total: int, what: str) -> None:
        report(n - min(n, -(-(total - done) // 2)), n, "Representations (pairs)")

    return progress


#: For each kind of job, the function ``job(spec, folder, report)`` that runs it and writes its results to ``folder``.
JOBS: dict[str, Callable[[dict[str, Any], Path, Report], None]] = {
    "represent": represent_job,
    "train": train_job,
    "features": features_job,
    "labels": labels_job,
    "best_of_n": best_of_n_job,
    "audit": audit_job,
}

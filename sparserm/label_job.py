"""Labels the features of a head from preference pairs, and keeps the labels; the job of the Features page does that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparserm.auto_labels import Labeller, Rule, label_features
from sparserm.feature_store import FeatureStore
from sparserm.jobs import Report
from sparserm.label_endpoint import EndpointLabeller, configured_endpoint
from sparserm.labels import save_auto_label
from sparserm.logit_lens import LogitLens, load_unembedding, logit_lens
from sparserm.model import SparseRM
from sparserm.sae import SparseAutoencoder
from sparserm.sources import DataSource
from sparserm.types import AutoLabel, PreferenceData, Progress, SparseRMError


def label_head(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> dict[int, AutoLabel]:
    """The automatic label of every feature of a head; each is kept as soon as it is there.

    Raises:
        SparseRMError: the SAE or the backbone cannot be used, or the labeller cannot be asked.
    """
    made = {}
    for feature, label in make_labels(model, data, labeller, progress):
        save_auto_label(model.card.sae_fingerprint, feature, label)
        made[feature] = label
    return made


def make_labels(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> Iterator[tuple[int, AutoLabel]]:
    """The same, one after the other, and nothing is kept."""
    sae = model.load_sae()
    model.load_backbone(progress)
    pairs = model.represent(data, sae=sae, strengths=True, progress=progress)
    features = model.head.features.tolist()
    return label_features(features, data, pairs, labeller, lens=_lens(model, data, sae), progress=progress)


def _lens(model: SparseRM, data: PreferenceData, sae: SparseAutoencoder) -> LogitLens | None:
    """Of the head's features; None where the backbone's files hold no unembedding: labels do without it."""
    features = model.head.features
    known = FeatureStore(data.content_hash, sae.fingerprint, model.card.backbone_fingerprint).known_lens()
    if known is not None:
        return LogitLens(*(values[features] for values in vars(known).values()))
    try:
        return logit_lens(sae, load_unembedding(model.card.backbone_source), features)
    except SparseRMError:
        return None


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Label the features of the head ``spec["head"]`` from ``spec["source"]``, with the endpoint of the environment where
    ``spec["endpoint"]`` is true.

    Raises:
        SparseRMError: the pairs, the head, its SAE, its backbone or the endpoint cannot be used.
    """
    report.stage(1, 1, "Labels (features)")
    endpoint = configured_endpoint() if spec["endpoint"] else None
    labeller: Labeller = EndpointLabeller(endpoint) if endpoint else Rule()
    labels = label_head(SparseRM.from_pretrained(spec["head"]), DataSource.from_dict(spec["source"]).load(), labeller, report)
    named = sum(label.text is not None for label in labels.values())
    (folder / "result.json").write_text(json.dumps({"features": len(labels), "labelled": named}))

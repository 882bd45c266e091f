"""The job that gets everything ready that a feature page needs of the language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparserm.backbone import Backbone
from sparserm.card import load_head
from sparserm.feature_cards import feature_card
from sparserm.feature_store import FeatureStore
from sparserm.jobs import Report
from sparserm.representations import represent_pairs
from sparserm.sae import load_sae
from sparserm.sources import DataSource
from sparserm.store import stored


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Represent ``spec["source"]`` for the head ``spec["head"]``, measure openings, read the examples of the head's features,
    and look up the tokens that every latent promotes.

    Everything is kept where the pages find it; interrupted work goes on from there.

    Raises:
        SparseRMError: the pairs, the head, its SAE or its backbone cannot be used.
    """
    report.stage(1, 4, "Representations (responses)")
    data = DataSource.from_dict(spec["source"]).load()
    saved = load_head(spec["head"])
    card, sae = saved.card, load_sae(saved.card.sae)
    backbone = Backbone.load(card.backbone_source, through_layer=sae.hook.layer, progress=report)
    with stored() as store:
        both = represent_pairs(
            data.pairs, backbone, {sae.hook: sae}, saved.head.pooling, strengths=True, store=store, progress=report
        )
    pairs = both[sae.hook]
    kept = FeatureStore(data.content_hash, sae.fingerprint, backbone.fingerprint)
    report.stage(2, 4, "Openings (responses)")
    kept.openings(data, pairs, backbone, sae, report)
    report.stage(3, 4, "Examples (features)")
    features = saved.head.features.tolist()
    for done, feature in enumerate(features):
        report(done, len(features), "Examples (features)")
        kept.readings(feature_card(feature, data.pairs, pairs, sae, saved.head), data, backbone, sae)
    report.stage(4, 4, "Promoted tokens (latents)")
    kept.lens(card.backbone_source, sae, report)
    (folder / "result.json").write_text(json.dumps({"features": features, "pairs": len(data.pairs)}))

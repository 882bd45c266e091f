"""The job that fills the store with the representations of a head's view of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparserm.backbone import Backbone
from sparserm.card import load_head
from sparserm.jobs import Report
from sparserm.representations import represent_pairs
from sparserm.sae import load_sae
from sparserm.sources import DataSource
from sparserm.store import stored


def run(spec: dict[str, Any], folder: Path, report: Report) -> None:
    """Represent ``spec["source"]`` for the head ``spec["head"]``, with the latents of its SAE.

    Everything goes into the store, where the pages find it; interrupted work goes on from there.

    Raises:
        SparseRMError: the pairs, the head, its SAE or its backbone cannot be used.
    """
    report.stage(1, 2, "Pairs")
    data = DataSource.from_dict(spec["source"]).load()
    card = load_head(spec["head"]).card
    report.stage(2, 2, "Language model")
    backbone = Backbone.load(card.backbone_source, through_layer=card.hook_point.layer, progress=report)
    saes = {card.hook_point: load_sae(card.sae)}
    with stored() as store:
        represent_pairs(data.pairs, backbone, saes, "mean", strengths=True, store=store, progress=report)

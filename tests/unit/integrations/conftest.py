"""Tiny models for the server, on projections and gated, and small limits."""

from __future__ import annotations

import pytest

from sparserm.integrations.server.service import Limits
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae


@pytest.fixture(scope="session")
def models(tiny_backbone, tmp_path_factory) -> dict[str, SparseRM]:
    """A model with mean pooling and one with last pooling; read only."""
    data = parse_pairs(preference_rows(), "tiny")
    found = {}
    for name, layer, pooling in (("mean", 2, "mean"), ("last", 1, "last")):
        sae = save_tiny_sae(tmp_path_factory.mktemp("saes") / name, layer=layer)
        found[name] = SparseRM.fit(data, backbone=tiny_backbone, sae=sae, k=3, l2=0.01, pooling=pooling, name=name)
    return found


@pytest.fixture(scope="session")
def gated(tiny_backbone, tmp_path_factory) -> dict[str, SparseRM]:
    """Gated models, one for each pooling, at the place where ``models["mean"]`` reads; read only."""
    data = parse_pairs(preference_rows(), "tiny")
    sae = save_tiny_sae(tmp_path_factory.mktemp("saes") / "gated", threshold=15)
    return {
        f"gated-{pooling}": SparseRM.fit(data, backbone=tiny_backbone, sae=sae, k=5, pooling=pooling, name=f"gated-{pooling}")
        for pooling in ("mean", "last")
    }


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(body_bytes=20_000, texts=8, characters=2_000, explain_characters=1_000, batch=4)

"""Fixtures of the tests of representations."""

from __future__ import annotations

import pytest

from sparserm.backbone.model import Backbone


@pytest.fixture
def rows(tiny_backbone, monkeypatch):
    """The rows that went through the backbone since the test began."""
    seen, run = [], Backbone.run

    def counted(self, batch, hooks):
        seen.extend(batch.rows)
        return run(self, batch, hooks)

    monkeypatch.setattr(Backbone, "run", counted)
    return seen

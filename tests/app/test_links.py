"""Links that name a head by its hash."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sparserm.ui.shared.context import heads_by_name, read_head

ROOT = Path(__file__).parents[2]


def _open(**link: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.query_params.update(link)
    return app.run()


@pytest.mark.parametrize("layer", heads_by_name()["truthfulness"])
def test_a_link_without_a_layer_opens_the_head_of_its_hash(layer: int) -> None:
    wanted = read_head(heads_by_name()["truthfulness"][layer]).hash
    app = _open(head="truthfulness", hash=wanted)
    assert app.session_state["_context"].hash == wanted
    assert not app.warning


def test_a_link_to_a_version_that_is_gone_says_so() -> None:
    app = _open(head="truthfulness", hash="00000000")
    assert "made with version 00000000" in app.warning[0].value

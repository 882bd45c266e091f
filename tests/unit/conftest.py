"""Every unit test has a data folder of its own; a tiny llama is shared by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.features.fake_endpoint import FakeServer


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSERM_HOME", str(tmp_path_factory.mktemp("session-home")))
        yield


@pytest.fixture(autouse=True)
def sparserm_home(tmp_path_factory, monkeypatch):
    """The test's own, empty ``SPARSERM_HOME``."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SPARSERM_HOME", str(home))
    monkeypatch.delenv("SPARSERM_STORE", raising=False)
    monkeypatch.delenv("SPARSERM_DEVICE", raising=False)
    return home


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny llama as ``save_pretrained`` writes it; read only."""
    from tests.unit.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder):
    """The tiny llama as a float32 backbone; read only."""
    from sparserm.backbone.model import Backbone

    return Backbone.load(tiny_folder, dtype="float32")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], Any]], FakeServer]]:
    """``serve(answer)`` starts a chat-completions endpoint on this machine that answers with ``answer(prompt)``."""
    from tests.unit.features.fake_endpoint import FakeServer

    servers: list[FakeServer] = []

    def start(answer: Callable[[str], Any]) -> FakeServer:
        servers.append(FakeServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()

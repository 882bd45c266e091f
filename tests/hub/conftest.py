"""A hub and a client process for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.client import Client
from tests.hub.server import Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub without repositories, on which ``me`` has the token ``hf_me``."""
    hub = Hub()
    hub.users["hf_me"] = "me"
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory) -> Iterator[Client]:
    """A process with an empty cache of the hub."""
    client = Client(hub.url, tmp_path_factory.mktemp("client"))
    yield client
    client.close()

"""The checks of ``clients/`` whose packages are installed for development, against a server; ``make clients`` runs all."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from clients import hub_inference, openai_client, vllm_requests
from clients.kinds import Check, Place
from clients.server import served
from clients.texts import HEADS, place

pytestmark = pytest.mark.backbone

CLIENTS = (hub_inference.CLIENT, vllm_requests.CLIENT, openai_client.CLIENT)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("clients")
    with served(HEADS, folder / "server.txt") as url:
        yield place(url, folder, folder)


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(
            check,
            id=f"{client.name}: {check.what}",
            marks=pytest.mark.skipif(not importlib.util.find_spec(client.package), reason=f"needs {client.package}"),
        )
        for client in CLIENTS
        for check in client.checks
    ],
)
def test_a_client_gets_what_it_asks_for(where: Place, check: Check) -> None:
    check.run(where)

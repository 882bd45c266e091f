"""The HTTP server answers only under its names, to its key and to JSON; requests have ids; a public server says so."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from sparserm.integrations.server.app import create_app
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

BODY = {"prompts": "Hi", "responses": ["Hello."]}


@pytest.fixture(scope="module")
def model(tiny_backbone, tmp_path_factory) -> SparseRM:
    sae = save_tiny_sae(tmp_path_factory.mktemp("sae") / "tiny", layer=2)
    return SparseRM.fit(parse_pairs(preference_rows(), "tiny"), backbone=tiny_backbone, sae=sae, k=3, l2=0.01, name="tiny")


@pytest.fixture
def client(model):
    with TestClient(create_app({"tiny": model}, hosts=("127.0.0.1", "rewards.example"))) as client:
        yield client


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8000", "127.0.0.1.evil.test", "", "rewards.example.evil.test"])
def test_a_foreign_host_name_is_refused_on_every_path(client, host):
    for path in ("/info", "/metrics", "/docs", "/openapi.json", "/nowhere"):
        assert client.get(path, headers={"host": host}).status_code == 421
    assert client.post("/score", json=BODY, headers={"host": host}).status_code == 421
    assert client.get("/health", headers={"host": host}).status_code == 200  # load balancers use names of their own


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "Rewards.Example:443"])
def test_its_own_names_are_served(client, host):
    assert client.post("/score", json=BODY, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_types_that_any_web_page_may_send_are_refused(client, kind):
    headers = {"host": "localhost"} | ({"content-type": kind} if kind else {})
    answer = client.post("/score", content=b'{"prompts": "Hi", "responses": ["Hello."]}', headers=headers)
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]


def test_every_response_forbids_frames_and_guessing(client):
    for answer in (client.get("/docs", headers={"host": "localhost"}), client.get("/info", headers={"host": "evil.test"})):
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_request_id_is_returned_and_in_the_log_of_a_failure(model, monkeypatch, caplog):
    with TestClient(create_app({"tiny": model}), raise_server_exceptions=False) as client:
        assert client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        for forged in ("a b", "x" * 129, "a\tb"):  # cannot write lines of its own into the log
            made = client.get("/health", headers={"x-request-id": forged}).headers["x-request-id"]
            assert made != forged and len(made) == 32

        def fail(*_: object) -> None:
            raise RuntimeError("quotes a text")

        monkeypatch.setattr("sparserm.integrations.server.app.texts_of", fail)
        with caplog.at_level(logging.ERROR):
            answer = client.post("/score", json=BODY, headers={"x-request-id": "abc-2"})
    assert answer.status_code == 500 and "abc-2" in answer.json()["error"] and "quotes a text" not in answer.text
    assert answer.headers["x-request-id"] == "abc-2"
    assert "abc-2" in caplog.text and "quotes a text" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (["--host", "0.0.0.0"], True),
        (["--allow-host", "rewards.example"], True),
        (["--host", "0.0.0.0", "--api-key", "k"], False),
        ([], False),
    ],
)
def test_a_public_server_without_a_key_says_so(run, model, tiny_folder, tmp_path, monkeypatch, arguments, warned):
    import uvicorn

    monkeypatch.chdir(tiny_folder.parent)  # where the backbone's name is a folder
    monkeypatch.delenv("SPARSERM_API_KEY", raising=False)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: setattr(self, "started", True))
    model.save_pretrained(tmp_path / "tiny")
    found = run("serve", tmp_path / "tiny", *arguments)
    assert found.code == 0 and ("without a key" in found.err) == warned

"""The HTTP server answers only under its names, to its key and to JSON; it logs requests and limits clients."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
import uvicorn
from fastapi.testclient import TestClient

import sparserm.integrations.server.clients as clients_module
from sparserm.integrations.server.app import create_app
from sparserm.integrations.server.clients import BusyClientError, Clients, client_name
from sparserm.integrations.server.logs import REQUESTS, JsonLines
from sparserm.integrations.server.service import Limits
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


@pytest.fixture
def serve(run, model, tiny_folder, tmp_path, monkeypatch):
    """`sparserm serve` with arguments, up to the start of uvicorn; gives what it printed, and the server's application."""
    monkeypatch.chdir(tiny_folder.parent)  # where the backbone's name is a folder
    monkeypatch.delenv("SPARSERM_API_KEY", raising=False)
    started = []

    def start(server: uvicorn.Server) -> None:
        started.append(server.config.app)
        server.started = True

    monkeypatch.setattr(uvicorn.Server, "run", start)
    model.save_pretrained(tmp_path / "tiny")
    return lambda *arguments: (run("serve", tmp_path / "tiny", *arguments), *started)


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--allow-host", "rewards.example"]])
def test_a_public_server_makes_a_key_prints_it_once_and_asks_for_it(serve, arguments):
    found, app = serve(*arguments)
    (key,) = re.findall(r"Key for this run[^:]*: (\S{32,})\n", found.err)
    assert found.code == 0 and found.err.count(key) == 1 and key not in found.out
    with TestClient(app, headers={"host": "localhost"}) as client:
        assert client.get("/info").status_code == 401
        assert client.get("/info", headers={"authorization": f"Bearer {key}"}).status_code == 200
    again, _, other = serve(*arguments)
    assert key not in again.err and other is not app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0", "--no-key"], "without a key (--no-key)"),
        (["--host", "0.0.0.0", "--api-key", "k"], ""),
        (["--no-key"], ""),
        ([], ""),
    ],
)
def test_no_key_is_made_where_one_is_given_or_none_is_wanted(serve, arguments, said):
    found, app = serve(*arguments)
    assert found.code == 0 and "Key for this run" not in found.err
    assert said in found.err and ("warning" in found.err) == bool(said)
    with TestClient(app, headers={"host": "localhost"}) as client:
        assert client.get("/info").status_code == (401 if "--api-key" in arguments else 200)


def test_a_key_and_no_key_at_once_are_refused(serve):
    (found,) = serve("--api-key", "k", "--no-key")
    assert found.code == 2 and "expected one of them" in found.err


# ------------------------------------------------------------------------------------------------------------- the log


def _requests(caplog) -> list[dict]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == REQUESTS.name]


def test_each_request_is_one_line_of_json_without_texts(model, caplog):
    with caplog.at_level(logging.INFO, REQUESTS.name), TestClient(create_app({"tiny": model})) as client:
        client.post("/score", json={"prompts": "secret", "responses": ["private", "a " * 700]}, headers={"x-request-id": "one"})
        client.post("/score", json={"prompts": "secret"})
        client.get("/no%0awhere", headers={"x-request-id": "three"})
        client.get("/health")
    assert "secret" not in caplog.text and "private" not in caplog.text
    scored, refused, unknown = _requests(caplog)  # health checks are not logged
    assert (scored["request_id"], scored["method"], scored["path"], scored["status"]) == ("one", "POST", "/score", 200)
    assert (scored["texts"], scored["truncated"], scored["head"], scored["client"]) == (2, 1, "tiny", "testclient")
    assert scored["ms"] > 0 and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", scored["time"])
    assert (refused["status"], refused["texts"], refused["head"]) == (422, 0, None)
    assert (unknown["request_id"], unknown["status"]) == ("three", 404)
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_texts_are_logged_with_their_rewards_if_that_is_asked_for(model, caplog):
    with caplog.at_level(logging.INFO, REQUESTS.name), TestClient(create_app({"tiny": model}, log_texts=True)) as client:
        client.post("/score", json={"prompts": "Hi", "responses": ["Grüße\n"]}, headers={"x-request-id": "one"})
    text, line = _requests(caplog)
    assert text["response"] == "Grüße\n" and text["prompt"] == [{"role": "user", "content": "Hi"}]
    assert text["reward"] == pytest.approx(model.score("Hi", "Grüße")[0], abs=1e-5)
    assert text["request_id"] == line["request_id"] == "one" and text["head"] == "tiny"


def test_warnings_and_failures_are_lines_of_json_too():
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "failed: %s", ("x",), sys.exc_info())
    line = JsonLines().format(record)
    found = json.loads(line)
    assert "\n" not in line and found["message"] == "failed: x" and found["level"] == "error"
    assert "RuntimeError: two\nlines" in found["traceback"]


# ----------------------------------------------------------------------------------------------------- limits of clients


def test_a_client_has_so_many_requests_in_progress_and_others_are_served():
    clients = Clients(requests=2, texts=100)
    clients.enter("a")
    clients.enter("a")
    with pytest.raises(BusyClientError, match="2 requests in progress"):
        clients.enter("a")
    clients.enter("b")
    clients.leave("a")
    clients.enter("a")


def test_a_client_has_so_many_texts_a_minute_and_is_told_when_to_come_again():
    now = 0.0
    clients = Clients(requests=2, texts=60, clock=lambda: now)
    clients.charge("a", 50)
    clients.charge("a", 40)  # begun before the minute's texts were used up
    with pytest.raises(BusyClientError, match="more than 60 texts in a minute") as refused:
        clients.charge("a", 1)
    clients.charge("b", 1)
    assert refused.value.retry_s == 30
    now = 29.0
    with pytest.raises(BusyClientError):
        clients.charge("a", 1)
    now = 31.0
    clients.charge("a", 1)


def test_idle_clients_are_forgotten_and_busy_ones_are_not(monkeypatch):
    now = 0.0
    monkeypatch.setattr(clients_module, "MOST_CLIENTS", 2)
    clients = Clients(requests=1, texts=60, clock=lambda: now)
    clients.enter("busy")
    clients.charge("spent", 120)
    clients.charge("new", 1)
    with pytest.raises(BusyClientError):
        clients.charge("spent", 1)
    now = 200.0
    clients.charge("newer", 1)
    assert set(clients._clients) == {"busy", "newer"}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (None, ""),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_an_address_and_this_computer_has_no_limits(address, name):
    assert client_name(address) == name


def test_a_server_refuses_a_client_that_sends_too_much(model):
    limits = Limits(client_texts=60)
    with TestClient(create_app({"tiny": model}, limits=limits), client=("203.0.113.7", 1)) as client:
        many = {"prompts": "Hi", "responses": ["Hello."] * 90}
        assert client.post("/score", json=many).status_code == 200
        for path, body in (
            ("/score", BODY),
            ("/explain", {"prompt": "Hi", "response": "x"}),
            ("/predict", {"inputs": ["a", "b"]}),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 429 and answer.json()["error_type"] == "overloaded"
            assert 25 <= int(answer.headers["retry-after"]) <= 30
        assert client.get("/info").status_code == 200
    with TestClient(create_app({"tiny": model}, limits=limits), client=("127.0.0.1", 1)) as client:
        assert [client.post("/score", json=many).status_code for _ in range(3)] == [200] * 3


def test_requests_that_have_ended_no_longer_count(model):
    limits = Limits(client_requests=1)
    with TestClient(create_app({"tiny": model}, limits=limits), client=("203.0.113.7", 1)) as client:
        statuses = [client.post(path, json=BODY).status_code for path in ("/score", "/nowhere", "/compare", "/score")]
    assert statuses == [200, 404, 422, 200]

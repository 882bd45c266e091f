"""Passwords and keys reach the labelling server alone: no error, label, job or log has them."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest

from sparserm.features import llm_labels
from sparserm.features.auto_labels import Unlabelled
from sparserm.features.llm_labels import KEY, MODEL, URL, Endpoint, configured_endpoint
from sparserm.types import SparseRMError
from tests.unit.features.fake_endpoint import completion

SECRET = 'sk-"very/secret+key=1'


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@there/v1",
        "http://hunter2@there/v1",
        "https://there/v1?key=hunter2",
        "https://there/v1#hunter2",
        "http://user:hunter2@there:port/v1",
        "http://[hunter2/v1",
        "ftp://user:hunter2@there/v1",
    ],
)
def test_an_address_with_a_password_is_refused_without_showing_it(url: str) -> None:
    for environment in ({URL: url, MODEL: "a"}, {URL: url}):
        with pytest.raises(SparseRMError) as error:
            configured_endpoint(environment=environment)
        assert "hunter2" not in str(error.value) and "--" not in str(error.value)
    with pytest.raises(SparseRMError):
        Endpoint(url, "a")


@pytest.mark.parametrize("url", ["http://", "http://:80/v1", "http://the re/v1", "http://there\n/v1", "http://there:99999/v1"])
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SparseRMError):
        configured_endpoint(environment={URL: url, MODEL: "a"})


@pytest.mark.parametrize("key", ["hunter2\n", "hunter2\r\nX-Other: 1", "hunter2 ", "hunter2\N{EM DASH}", "hunter2\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SparseRMError, match=KEY) as error:
        configured_endpoint(environment={URL: "http://there/v1", MODEL: "a", KEY: key})
    assert "hunter2" not in str(error.value)


def test_the_key_and_the_path_are_not_in_what_is_shown_of_an_endpoint(serve) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/hunter2/v1", "a", SECRET)
    assert SECRET not in repr(endpoint)
    with pytest.raises(SparseRMError, match=r"http://127\.0\.0\.1:9 cannot be reached") as error:
        endpoint.ask("Hi")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize(
    "echo",
    [
        SECRET,
        f"Authorization: Bearer {SECRET}",
        json.dumps({"got": SECRET}),
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        " " * 1980 + SECRET,
    ],
)
def test_a_server_that_repeats_the_key_does_not_get_it_into_an_error(serve, status: int, echo: str) -> None:
    for answer in (echo, completion(echo), completion(json.dumps({"label": echo}))):
        endpoint = Endpoint(serve(lambda _, answer=answer: (status, answer)).url, "a", SECRET)
        try:
            said = str(endpoint.ask("Hi"))
        except (SparseRMError, Unlabelled) as error:
            said = f"{error}{error.__cause__}"
        for secret in (SECRET, "very/secret", quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode().rstrip("=")):
            assert secret not in said


@pytest.fixture
def raw_server():
    """``raw_server(answer)`` starts a server that calls ``answer(handler)`` for each request."""
    servers = []

    def start(answer) -> str:
        handler = type(
            "Handler", (BaseHTTPRequestHandler,), {"do_POST": answer, "do_GET": answer, "log_message": lambda *_: None}
        )
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_anywhere(raw_server, status: int) -> None:
    seen: list[str] = []
    elsewhere = raw_server(lambda handler: seen.append(handler.path))

    def redirect(handler) -> None:
        handler.send_response(status)
        handler.send_header("Location", elsewhere)
        handler.end_headers()

    with pytest.raises(SparseRMError, match=f"answered {status}"):
        Endpoint(raw_server(redirect), "a", SECRET).ask("Hi")
    assert seen == []


def test_an_endless_answer_is_cut(raw_server, monkeypatch) -> None:
    monkeypatch.setattr(llm_labels, "MAX_ANSWER", 1 << 20)

    def endless(handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            return

    with pytest.raises(SparseRMError, match="more than 1 MB"):
        Endpoint(raw_server(endless), "a").ask("Hi")


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_that_never_ends_is_given_up(raw_server, monkeypatch, status: int) -> None:
    monkeypatch.setattr(llm_labels, "TIMEOUT_S", 0.3)

    def slow(handler) -> None:
        handler.send_response(status)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b"x")
                threading.Event().wait(0.05)
        except OSError:
            return

    with pytest.raises(SparseRMError, match=r"no answer in 0\.3 s|answered 500"):
        Endpoint(raw_server(slow), "a").ask("Hi")


def test_a_deeply_nested_answer_is_one_line(serve) -> None:
    for answer in ("[" * 100_000, completion('{"a":' * 100_000 + "}")):
        with pytest.raises(SparseRMError, match="answered"):
            Endpoint(serve(lambda _, answer=answer: (200, answer)).url, "a").ask("Hi")

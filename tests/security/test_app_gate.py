"""Who may reach the app: host names, origins, the access token, and what the command says at its start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from sparserm.types import SparseRMError
from sparserm.ui.server import start
from sparserm.ui.server.gate import HEALTH, Gate

TOKEN = "correct horse battery"
PATHS = (
    "/",
    "/evaluate",
    "/static/index.js",
    "/media/a.csv",
    "/_stcore/host-config",
    "/_stcore/upload_file/a/b",
    "//evil.test",
)


async def _page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"app {request.url.path}", headers={"content-security-policy": "sandbox"})


async def _stream(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("app")
    await websocket.close()


def _client(
    token: str | None = TOKEN, hosts: tuple[str, ...] = ("127.0.0.1",), base: str = "http://localhost:8501"
) -> TestClient:
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
    routes = [WebSocketRoute("/_stcore/stream", _stream), Route("/{path:path}", _page, methods=methods)]
    app = Starlette(routes=routes, middleware=[Middleware(Gate, hosts=hosts, token=token)])
    return TestClient(app, base_url=base, follow_redirects=False)


def _stream_status(client: TestClient, **headers: str) -> int:
    """Status of a WebSocket handshake; 101 if it is accepted."""
    try:
        with client.websocket_connect("ws://localhost:8501/_stcore/stream", headers=headers) as socket_:
            assert socket_.receive_text() == "app"
    except WebSocketDenialResponse as refused:
        return refused.status_code
    return 101


# ------------------------------------------------------------------------------------------------- hosts and origins


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8501", "127.0.0.1.evil.test", "", "localhost@evil.test"])
def test_nothing_is_served_under_a_foreign_name(host: str) -> None:
    client = _client(token=None)
    for path in (*PATHS, HEALTH):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.text[:22]) == (400, "This app is not served")
    assert _stream_status(client, Host=host) == 400


def test_two_host_headers_are_refused() -> None:
    answer = _client(token=None).request("GET", "/", headers=[("Host", "localhost"), ("Host", "evil.test")])
    assert answer.status_code == 400


def test_names_of_the_app_are_answered() -> None:
    assert _client(token=None).get("/").text == "app /"
    named = _client(token=None, hosts=("127.0.0.1", "heads.example.org"), base="https://heads.example.org")
    assert named.get("/").status_code == 200
    assert _client(token=None, hosts=("0.0.0.0",), base="http://192.168.1.5:8501").get("/").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.test", "http://localhost:9999", "null", "http://[", "http://localhost"])
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    client = _client(token=None)
    assert client.get("/", headers={"Origin": origin}).status_code == 403
    assert client.put("/_stcore/upload_file/a/b", headers={"Origin": origin}).status_code == 403
    assert _stream_status(client, Origin=origin) == 403


def test_the_apps_own_pages_connect() -> None:
    client = _client(token=None)
    assert client.get("/", headers={"Origin": "http://LOCALHOST:8501"}).status_code == 200
    assert _stream_status(client, Origin="http://localhost:8501") == 101
    assert _stream_status(client) == 101  # not a browser


def test_every_response_has_the_security_headers() -> None:
    client = _client()
    answers = [
        client.get("/"),
        client.get(f"/?token={TOKEN}"),
        client.get(HEALTH),
        client.get("/", headers={"Host": "evil.test"}),
    ]
    for answer in answers:
        policies = answer.headers.get_list("content-security-policy")
        assert "frame-ancestors 'none'" in policies
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert "sandbox" in answers[2].headers.get_list("content-security-policy")  # the app's own holds as well


# ------------------------------------------------------------------------------------------------------ access token


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_without_the_cookie_nothing_is_served(method: str) -> None:
    client = _client()
    for path in PATHS:
        answer = client.request(method, path)
        assert answer.status_code == 401, path
        assert f"app {path}" not in answer.text
        assert answer.headers["cache-control"] == "no-store"
    assert _stream_status(client) == 401
    assert client.get(HEALTH).text == f"app {HEALTH}"


def test_the_login_page_uses_nothing_from_elsewhere() -> None:
    page = _client().get("/").text
    assert not re.search(r"https?://|src=|url\(|<link|<script|@import", page)
    assert "prefers-color-scheme: dark" in page and 'type="password"' in page


@pytest.mark.parametrize("link", ["/?token={}", "/evaluate?pairs=a+b&token={}&hash=1", "/evaluate?token={}#x", "/a/b?token={}"])
def test_the_printed_address_signs_in_and_loses_its_token(link: str) -> None:
    client = _client()
    answer = client.get(link.format(TOKEN.replace(" ", "+")))
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303 and answer.headers["cache-control"] == "no-store"
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie
    assert TOKEN not in cookie and "token" not in answer.headers["location"]
    opened = client.get(str(answer.url.join(answer.headers["location"])))
    assert opened.status_code == 200 and opened.text == f"app {answer.url.path}"
    assert _stream_status(client) == 101
    assert client.put("/_stcore/upload_file/a/b").status_code == 200


def test_other_parameters_of_the_address_stay() -> None:
    answer = _client().get("/evaluate", params={"pairs": "a b&c", "token": TOKEN, "blank": ""})
    assert answer.headers["location"] == "./evaluate?pairs=a+b%26c&blank="


@pytest.mark.parametrize(
    "path", ["//evil.test", "//evil.test/x", "/\\evil.test", "/%2f%2fevil.test", "/http://evil.test", "/x:y"]
)
def test_signing_in_never_leads_to_another_site(path: str) -> None:
    answer = _client().get(f"http://localhost:8501{path}?token={TOKEN}")
    assert answer.headers["location"].startswith("./")
    assert answer.url.join(answer.headers["location"]).host == "localhost"


def test_the_form_signs_in() -> None:
    client = _client()
    answer = client.post("/evaluate?pairs=a", data={"token": f" {TOKEN} "}, headers={"Origin": "http://localhost:8501"})
    assert (answer.status_code, answer.headers["location"]) == (303, "./evaluate?pairs=a")
    assert client.get("/evaluate").status_code == 200


@pytest.mark.parametrize("wrong", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ö" * 21, "\x00", "%ff%fe"])
def test_a_wrong_token_is_refused(wrong: str) -> None:
    client = _client()
    for answer in (client.get("/", params={"token": wrong}), client.post("/", data={"token": wrong})):
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        assert "This is not the token" in answer.text
    assert client.post("/", content=b"token=" + TOKEN.encode() + b"&x=" + b"a" * 10_000).status_code == 401
    assert client.get("/").status_code == 401


def test_cookies_of_others_do_not_sign_in() -> None:
    client, other = _client(), _client(token="another token entirely")
    other.get("/", params={"token": "another token entirely"})
    (name, value) = next(iter(other.cookies.items()))
    client.get("/", params={"token": TOKEN})
    own = next(iter(client.cookies))
    client.cookies.clear()
    assert own != name  # apps on two ports of a host keep their own cookies
    for cookie in (value, "", TOKEN, "ö"):
        answer = client.get("/", headers={"Cookie": f"{own}={cookie}".encode()})
        assert answer.status_code == 401


def test_the_cookie_is_only_for_https_behind_https() -> None:
    client = _client(hosts=("heads.example.org",), base="https://heads.example.org")
    assert "Secure" in client.get("/", params={"token": TOKEN}).headers["set-cookie"]


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("given", "shared", "expected"),
    [("", False, None), ("", True, r"[\w-]{32}"), ("a" * 16, True, "a{16}"), ("a" * 16, False, "a{16}")],
)
def test_the_token_is_required_where_others_can_reach_the_app(
    monkeypatch: pytest.MonkeyPatch, given: str, shared: bool, expected: str | None
) -> None:
    monkeypatch.setenv(start.TOKEN, given)
    found = start.access_token(shared)
    assert found is expected is None or (expected and re.fullmatch(expected, str(found)))


def test_two_lengths_of_a_body_are_refused() -> None:
    lengths = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
    answer = _client(token=None).post("/", headers=lengths, content=iter([b"{}"]))
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")


def test_a_short_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(start.TOKEN, "short")
    with pytest.raises(SparseRMError, match=r"5 characters; expected at least 16.*leave the variable out"):
        start.access_token(False)


@pytest.mark.parametrize(
    ("host", "names", "token", "expected"),
    [
        ("127.0.0.1", [], None, "http://127.0.0.1:8501/;"),
        ("::1", [], None, "http://[::1]:8501/;"),
        ("0.0.0.0", [], "abc", "http://127.0.0.1:8501/?token=abc (from elsewhere with this computer's address"),
        ("192.168.1.5", [], "abc", "http://192.168.1.5:8501/?token=abc;"),
        ("0.0.0.0", ["heads.example.org"], "abc", "http://heads.example.org:8501/?token=abc;"),
    ],
)
def test_one_address_is_printed(host: str, names: list[str], token: str | None, expected: str) -> None:
    found = start.message(host, 8501, names, token)
    assert expected in found and found.count("http://") == 1


def test_an_unexpected_error_is_told_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(start.st, "error", said.append)
    assert start.report_error(RuntimeError("no such thing in /srv/home"))
    assert "RuntimeError: no such thing in /srv/home" in capsys.readouterr().err
    assert said[0].startswith("Something went wrong on this page.") and "/srv" not in said[0]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _command(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from sparserm.cli import main; main()", "app", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


def _status(port: int, path: str = "/", host: str | None = None) -> int:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def _handshake(port: int, **headers: str) -> str:
    """The status line that answers a WebSocket handshake."""
    sent = {"Host": f"127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    sent |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", **headers}
    lines = ["GET /_stcore/stream HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(4096).decode().partition("\r\n")[0]


def _wait(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            assert _status(port, HEALTH) == 200
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the app did not start"
            time.sleep(0.1)


def _few_descriptors() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_the_command_warns_asks_for_a_token_answers_under_idle_connections_and_stops(free_port: int) -> None:
    """One start of the real app, on all interfaces: the warning, one address, the gate in front, SIGTERM."""
    environment = os.environ | {start.TOKEN: "0123456789abcdef"}
    server = _command("--host", "0.0.0.0", "--port", str(free_port), env=environment, preexec_fn=_few_descriptors)
    try:
        _wait(server, free_port)
        idle = [socket.create_connection(("127.0.0.1", free_port), timeout=10) for _ in range(90)]
        assert [_status(free_port, HEALTH) for _ in range(5)] == [200] * 5
        for _ in range(50):  # sign-ins that are broken off
            with socket.create_connection(("127.0.0.1", free_port), timeout=10) as one:
                one.sendall(f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{free_port}\r\nContent-Length: 5\r\n\r\n".encode())
        for one in idle:
            one.close()
        statuses = [_status(free_port, path) for path in ("/", "/_stcore/host-config", "/media/x", "/?token=0123456789abcdef")]
        assert _status(free_port, host="evil.test") == 400
        handshakes = [_handshake(free_port), _handshake(free_port, Host="evil.test"), _handshake(free_port, Origin="http://x")]
    finally:
        server.send_signal(signal.SIGTERM)
        out, said = server.communicate(timeout=60)
    assert statuses[:3] == [401, 401, 401]
    assert statuses[3] == 401  # the cookie is set, and urllib follows the redirection without it
    assert [line.split()[1] for line in handshakes] == ["401", "400", "403"]
    assert "warning: other people can reach this app. The connection is not encrypted" in said
    assert f"http://127.0.0.1:{free_port}/?token=0123456789abcdef" in said
    assert (out, said.count("http://")) == ("", 1)
    assert "ClientDisconnect" not in said and said.count("\n") < 300


def test_an_address_in_use_is_one_line(free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        server = _command("--port", str(free_port))
        _, said = server.communicate(timeout=60)
    assert server.returncode == 2
    assert said.startswith(f"error: cannot listen on 127.0.0.1 port {free_port} (") and said.count("\n") == 1

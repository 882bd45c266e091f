"""The HTTP server answers others while clients send slowly, too much or nothing at all."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from sparserm.integrations.server.app import create_app
from sparserm.integrations.server.clients import Clients
from sparserm.integrations.server.gate import Gate
from sparserm.integrations.server.service import Limits, Service
from sparserm.model import SparseRM
from sparserm.pairs.parsing import parse_pairs
from sparserm.support.connections import LOG_LINES, LOG_WINDOW_S, Connection, RepeatedLines, connection_room
from sparserm.types import Message, Text
from tests.unit.pairs_data import preference_rows
from tests.unit.tiny import save_tiny_sae

BODY = {"prompts": "Hi", "responses": ["Hello."]}
HALF = b"GET /health HTTP/1.1\r\nHost: x\r\n"
SLOW_BODY = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.fixture(scope="module")
def model(tiny_backbone, tmp_path_factory) -> SparseRM:
    sae = save_tiny_sae(tmp_path_factory.mktemp("sae") / "tiny", layer=2)
    return SparseRM.fit(parse_pairs(preference_rows(), "tiny"), backbone=tiny_backbone, sae=sae, k=3, l2=0.01, name="tiny")


@contextmanager
def served(model, *, headers_s: float = 20, take_s: float = 20, most: int = 1024, limits: Limits | None = None):
    """The server in a thread; yields its port."""
    protocol = functools.partial(Connection, headers_s=headers_s, take_s=take_s, most=most)
    config = uvicorn.Config(
        create_app({"tiny": model}, limits=limits), port=0, http=protocol, ws="none", log_level="warning", lifespan="on"
    )
    with running(uvicorn.Server(config)) as port:
        yield port


@contextmanager
def running(server: uvicorn.Server):
    """A server in a thread; yields its port."""
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def _half_open(port: int, data: bytes = HALF) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=20)
    found.sendall(data)
    return found


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("data", [b"", HALF, SLOW_BODY])
def test_half_open_connections_make_room_for_whole_requests(model, data):
    with served(model, headers_s=60, most=10) as port:
        held = [_half_open(port, data) for _ in range(40)]
        for _ in range(5):
            assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=20).text == "ok"
            assert httpx.post(f"http://127.0.0.1:{port}/score", json=BODY, timeout=20).status_code == 200
        assert all(_is_closed(one) for one in held[:25])  # the oldest
        for one in held:
            one.close()


@pytest.mark.parametrize("data", [b"", HALF, b"GET"])
def test_headers_have_to_arrive_in_time(model, data):
    with served(model, headers_s=0.3) as port, _half_open(port, data) as held:
        assert _is_closed(held)


def test_the_second_request_of_a_connection_has_a_time_limit_too(model):
    with served(model, headers_s=0.5) as port, _half_open(port, HALF + b"\r\n") as held:
        assert held.recv(15) == b"HTTP/1.1 200 OK"
        held.sendall(HALF)
        while held.recv(1000):  # the rest of the answer, then the end
            pass


def test_a_body_has_to_arrive_in_time(model):
    with served(model, headers_s=20, limits=Limits(body_s=0.3)) as port, _half_open(port, SLOW_BODY) as held:
        answer = b""
        while part := held.recv(1000):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.3 seconds" in answer


def _not_reading(port: int, n: int) -> socket.socket:
    """A connection that sends ``n`` requests at once and reads no answer."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    found.connect(("127.0.0.1", port))
    found.settimeout(20)
    found.sendall(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * n)
    return found


def test_connections_that_do_not_take_their_answers_make_room_for_others(model):
    with served(model, most=10) as port:
        held = [_not_reading(port, 500) for _ in range(40)]
        for _ in range(5):
            assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=20).text == "ok"
            assert httpx.post(f"http://127.0.0.1:{port}/score", json=BODY, timeout=20).status_code == 200
        for one in held:
            one.close()


def test_a_request_sent_before_the_answer_to_the_last_is_not_answered(model):
    with served(model) as port, _not_reading(port, 3) as held:
        answer = b""
        with suppress(ConnectionResetError):
            while part := held.recv(100_000):
                answer += part
    assert answer.count(b"HTTP/1.1 200") == 1 and b"connection: close" in answer.lower()


async def _much(scope, receive, send):
    """16 MB: more than the buffers of a connection hold."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for last in [False] * 15 + [True]:
        await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": not last})


def test_an_answer_has_to_be_taken_in_time():
    protocol = functools.partial(Connection, most=10, take_s=0.3)
    server = uvicorn.Server(uvicorn.Config(_much, port=0, http=protocol, ws="none", log_level="warning", lifespan="off"))
    with running(server) as port, _not_reading(port, 1) as held:
        for wanted in (True, False):  # it is accepted, then closed
            while bool(server.server_state.connections) != wanted:
                time.sleep(0.01)
        taken = 0
        with suppress(ConnectionResetError):
            while part := held.recv(1 << 20):
                taken += len(part)
        assert taken < 16 << 20
    with running(server := uvicorn.Server(server.config)) as port:
        assert len(httpx.get(f"http://127.0.0.1:{port}/", timeout=20).content) == 16 << 20


async def _whole(scope, receive, send):
    """16 MB in one piece, as the app sends downloads."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(16 << 20).encode())]})
    await send({"type": "http.response.body", "body": b"x" * (16 << 20)})


def test_a_slow_client_gets_all_of_a_large_answer():
    protocol = functools.partial(Connection, most=10, take_s=0.2)
    server = uvicorn.Server(uvicorn.Config(_whole, port=0, http=protocol, ws="none", log_level="warning", lifespan="off"))
    with running(server) as port, _half_open(port, HALF + b"\r\n") as held:
        taken = 0
        while taken < 16 << 20 and (part := held.recv(1 << 18)):
            taken += len(part)
            time.sleep(0.02)
    assert taken >= 16 << 20


def test_two_lengths_of_a_body_are_refused(model):
    with (
        served(model) as port,
        _half_open(port, SLOW_BODY[:-3] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /info HTTP/1.1\r\n\r\n") as held,
    ):
        answer = b""
        while part := held.recv(1000):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


def test_bodies_that_nothing_reads_are_not_kept(model):
    """The health check is open to everyone."""
    with served(model) as port:
        head = b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n" + b"x" * 100_000
        with _half_open(port, head) as held:
            assert held.recv(12) == b"HTTP/1.1 405"


def test_all_bodies_together_are_limited(model):
    limits = Limits(bodies_bytes=500_000)
    start = SLOW_BODY.replace(b"Length: 100", b"Length: 400000")
    with served(model, limits=limits) as port, _half_open(port, start + b" " * 300_000):
        with _half_open(port, start + b" " * 300_000) as second:
            assert second.recv(12) == b"HTTP/1.1 429"
        assert httpx.post(f"http://127.0.0.1:{port}/score", json=BODY, timeout=20).status_code == 200


def test_a_request_that_shutting_down_cuts_off_is_sent_elsewhere():
    """uvicorn cancels what is still running when the time to finish is over."""
    sent: list[dict[str, Any]] = []

    async def never(scope, receive, send):
        await asyncio.sleep(3600)

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        sent.append(message)

    async def cut_off():
        gate = Gate(
            never,
            body_bytes=10,
            body_s=1,
            bodies_bytes=100,
            api_key=None,
            hosts=None,
            clients=Clients(requests=1, texts=1),
            observe=lambda path, status, seconds: None,
        )
        scope = {"type": "http", "method": "POST", "path": "/score", "headers": [(b"content-type", b"application/json")]}
        task = asyncio.create_task(gate(scope, receive, send))
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    asyncio.run(cut_off())
    assert sent[0]["status"] == 503 and json.loads(sent[1]["body"])["error_type"] == "unhealthy"


def test_the_number_of_connections_fits_the_descriptors(monkeypatch):
    import resource

    assert connection_room(1024)[0] <= 1024
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    most, backlog = connection_room(1024)
    assert 4 <= most + backlog <= 64


def test_lines_that_repeat_are_counted_instead_of_written():
    now = [0.0]
    lines = RepeatedLines(lambda: now[0])

    def written(message: str) -> str | None:
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, message, (), None)
        return record.getMessage() if lines.filter(record) else None

    assert sum(written("again") is not None for _ in range(1000)) == LOG_LINES
    assert written("another") == "another"
    now[0] = LOG_WINDOW_S
    assert written("again") == f"again ({1000 - LOG_LINES:,} more lines like this were not written)"


def test_a_request_that_would_wait_too_long_is_refused_with_the_time_to_retry_after(model, monkeypatch):
    made: list[Service] = []

    class Kept(Service):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("sparserm.integrations.server.app.Service", Kept)
    with TestClient(create_app({"tiny": model}, limits=Limits(wait_s=15))) as client:
        assert client.post("/score", json=BODY).status_code == 200
        while made[0].batcher._running_cost:  # the first request's batch is still being counted
            time.sleep(0.01)
        batcher, cost = made[0].batcher, made[0].cost(Text((Message("user", "Hi"),), "Hello."))
        batcher._measured_s, batcher._measured_cost = 8.0, cost  # eight seconds for such a text
        batcher._running_cost = cost
        answer = client.post("/score", json=BODY)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "6"
        batcher._running_cost = 0.0
        answer = client.post("/score", json={**BODY, "responses": ["Hello."] * 2})
        assert answer.status_code == 413 and "about 16 seconds" in answer.json()["error"]


def test_explain_has_a_limit_of_its_own(model):
    with TestClient(create_app({"tiny": model}, limits=Limits(explain_characters=100))) as client:
        answer = client.post("/explain", json={"prompt": "Hi", "response": "x" * 100})
        assert answer.status_code == 413 and "expected 100 at most" in answer.json()["error"]
        assert client.post("/score", json={"prompts": "Hi", "responses": ["x" * 100]}).status_code == 200

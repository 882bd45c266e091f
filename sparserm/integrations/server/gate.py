"""Middleware for all paths: host names, authentication, limits of the body and of clients, request ids, and the log."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from sparserm.integrations.server.clients import BusyClientError, Clients, client_name
from sparserm.integrations.server.logs import REQUEST, RequestFacts, log_request
from sparserm.support.hosts import host_allowed

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Paths without authentication and under any host name, for load balancers.
_OPEN = ("/health",)

#: vLLM's paths, whose clients read errors as OpenAI's API writes them.
_VLLM, _VLLM_PREFIXES = ("/classify", "/pooling", "/tokenize"), ("/v1/", "/v2/")

#: An ``X-Request-Id`` that is taken over: visible ASCII characters, so that it cannot forge log lines.
_ID = re.compile(rb"[\x21-\x7e]{1,128}")

#: Headers of every response: no page may frame it, and no browser guesses another type.
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"content-security-policy", b"frame-ancestors 'none'"))

_log = logging.getLogger("sparserm.server")


class Gate:
    """ASGI middleware.

    Args:
        body_bytes: maximum body size; larger bodies are refused with 413 without reading them whole.
        body_s: seconds in which a body has to arrive, or it is refused with 408.
        bodies_bytes: size of all bodies that are being received; those beyond it are refused with 429.
        api_key: key expected in ``Authorization: Bearer KEY``; None disables authentication.
        hosts: host names that requests may be for, for :func:`~sparserm.support.hosts.host_allowed`; None for any.
        clients: limits of each client; a request beyond them is refused with 429.
        observe: called with path, status and seconds of every response.
    """

    def __init__(
        self,
        app: Any,
        *,
        body_bytes: int,
        body_s: float,
        bodies_bytes: int,
        api_key: bytes | None,
        hosts: Collection[str] | None,
        clients: Clients,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._body_bytes, self._body_s, self._observe = app, body_bytes, body_s, observe
        self._api_key, self._hosts, self._clients = api_key, hosts, clients
        self._bodies_bytes, self._received = bodies_bytes, 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        identity = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        address = (scope.get("client") or ("",))[0]
        facts = RequestFacts(identity.decode(), address)
        REQUEST.set(facts)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [*_HEADERS, (b"x-request-id", identity)]
                if facts.truncated is not None:
                    own.append((b"x-sparserm-truncated", str(facts.truncated).encode()))
                    own.append((b"x-sparserm-thinking", str(facts.thinking).encode()))
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            await self._answer(scope, headers, receive, counted)
        except asyncio.CancelledError:  # by the server, which has waited long enough to shut down
            if status:
                raise
            await _refuse(
                counted, scope["path"], 503, "unhealthy", "the server is shutting down; send the request to another server"
            )
        except Exception as error:  # its message may quote a text, so it goes only to the log
            _log.exception("request %s (%s %s) failed", identity.decode(), scope["method"], scope["path"][:200])
            if status:  # the response has begun
                raise
            text = f"{type(error).__name__}; the traceback is in the server log, at request {identity.decode()}"
            await _refuse(counted, scope["path"], 500, "backend", text)
        finally:
            route = scope.get("route")  # the matched route; unknown paths share one label
            seconds = time.perf_counter() - started
            self._observe(getattr(route, "path", "other"), status or 500, seconds)
            if scope["path"] not in _OPEN or status != 200:  # load balancers ask every few seconds
                log_request(facts, scope["method"], scope["path"], status or 500, seconds)

    async def _answer(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        if (refusal := self._refusal(scope, headers)) is not None:
            await _refuse(send, scope["path"], *refusal)
            return
        if scope["method"] != "POST" or scope["path"] in _OPEN:  # nothing reads a body there
            await self._app(scope, _replay(b"", receive), send)
            return
        client = client_name((scope.get("client") or ("",))[0])
        try:
            self._clients.enter(client)
        except BusyClientError as error:
            await _refuse(send, scope["path"], 429, "overloaded", str(error))
            return
        try:
            await self._receive(scope, receive, send)
        finally:
            self._clients.leave(client)

    async def _receive(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Receive the whole body, then pass the request on; or refuse it."""
        body = bytearray()
        try:
            refusal = await asyncio.wait_for(self._read(receive, body), self._body_s)
        except asyncio.TimeoutError:
            refusal = 408, "timeout", f"the body did not arrive within {self._body_s:g} seconds; send it at once"
        finally:
            self._received -= len(body)
        if refusal is not None:
            await _refuse(send, scope["path"], *refusal)
            return
        await self._app(scope, _replay(bytes(body), receive), send)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """Status, kind and text of the refusal of a request, judged by its headers; None if it may pass."""
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy may end the request elsewhere than this server does.
            return 400, "http", "expected either Content-Length or Transfer-Encoding, not both"
        if scope["path"] in _OPEN:
            return None
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if self._hosts is not None and not (len(named) == 1 and host_allowed(named[0], self._hosts)):
            return 421, "host", "this server does not answer under this host name; expected one that it was started with"
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        known = scheme.lower() == b"bearer" and secrets.compare_digest(given.strip(), self._api_key or b"")
        if self._api_key is not None and not known:
            return 401, "unauthorized", "expected the header Authorization: Bearer KEY with the server's key"
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json" and not kind.endswith(b"+json"):
            # Web pages of other sites may send the other types without asking first.
            return 415, "content_type", "expected JSON with the header Content-Type: application/json"
        return None

    async def _read(self, receive: Receive, body: bytearray) -> tuple[int, str, str] | None:
        """Receive the body into ``body``; its refusal where it is too large."""
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client has disconnected
                return None
            body += (part := message.get("body", b""))
            self._received += len(part)
            if len(body) > self._body_bytes:
                return 413, "too_large", f"the body has more than {self._body_bytes:,} bytes; send fewer texts at a time"
            if self._received > self._bodies_bytes:
                return 429, "overloaded", "too many requests are being received at once; retry in a second"
            if not message.get("more_body"):
                return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body already read, then passes on later messages."""
    handed = False

    async def hand_out() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return hand_out


def failure(path: str, status: int, kind: str, text: str) -> dict[str, Any]:
    """Body of an error response, in the form of the path's interface.

    OpenAI's client, which is used with vLLM's paths, shows the ``message`` of an object ``error``; TEI's ``error`` is text.
    """
    if path in _VLLM or path.startswith(_VLLM_PREFIXES):
        return {"error": {"message": text, "type": kind, "param": None, "code": status}, "error_type": kind}
    return {"error": text, "error_type": kind}


async def _refuse(send: Send, path: str, status: int, kind: str, error: str) -> None:
    body = json.dumps(failure(path, status, kind, error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    if status in (400, 408):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Middleware for all paths: authentication, maximum body size, and request timing."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Paths without authentication, for load balancers.
_OPEN = ("/health",)


class Gate:
    """ASGI middleware.

    Args:
        body_bytes: maximum body size; larger bodies are refused with 413 without reading them whole.
        api_key: key expected in ``Authorization: Bearer KEY``; None disables authentication.
        observe: called with path, status and seconds of every response.
    """

    def __init__(self, app: Any, *, body_bytes: int, api_key: bytes | None, observe: Callable[[str, int, float], None]) -> None:
        self._app, self._body_bytes, self._api_key, self._observe = app, body_bytes, api_key, observe

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if not self._allowed(scope):
                await _refuse(
                    counted, 401, "unauthorized", "expected the header Authorization: Bearer KEY with the server's key"
                )
            elif (body := await self._read(receive)) is None:
                await _refuse(
                    counted, 413, "too_large", f"the body has more than {self._body_bytes:,} bytes; send fewer texts at a time"
                )
            else:
                await self._app(scope, _replay(body, receive), counted)
        finally:
            route = scope.get("route")  # the matched route; unknown paths share one label
            self._observe(getattr(route, "path", "other"), status, time.perf_counter() - started)

    def _allowed(self, scope: MutableMapping[str, Any]) -> bool:
        if self._api_key is None or scope["path"] in _OPEN:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, b"Bearer " + self._api_key)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or None where it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client has disconnected
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self._body_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


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


async def _refuse(send: Send, status: int, kind: str, error: str) -> None:
    body = json.dumps({"error": error, "error_type": kind}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Middleware in front of every path of the app: host names, origins, the access token and security headers."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sparserm.support.hosts import host_allowed

#: The path without a token, for load balancers and containers.
HEALTH = "/_stcore/health"

#: Headers of every response: no page may frame the app, and texts in its links are not sent to other sites.
_FRAMES = "frame-ancestors 'none'"
_HEADERS = {"x-frame-options": "DENY", "x-content-type-options": "nosniff", "referrer-policy": "same-origin"}

_LOGIN = Path(__file__).with_name("login.html").read_text(encoding="utf-8")
_LOGIN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
_WRONG = '<p class="wrong" role="alert">This is not the token. The app may have been started again since.</p>'
#: Maximum bytes of a submitted login form.
_FORM_BYTES = 4096


class Gate:
    """ASGI middleware that passes on only requests that may reach the app.

    Args:
        hosts: host names that the app answers to, for :func:`~sparserm.support.hosts.host_allowed`.
        token: the access token; None lets everyone in who can connect.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str | None) -> None:
        self._app, self._hosts, self._token = app, hosts, token
        # A cookie is sent to every port of a host, so apps with different tokens need different names.
        self._cookie, self._signed_in = f"sparserm_{_sign(token, 'name')[:8]}", _sign(token, "signed in")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = _foreign(scope, self._hosts) or await self._sign_in(scope, receive)
        with_headers = _with_headers(send)
        if answer is None:
            await self._app(scope, receive, with_headers)
        elif scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, with_headers)

    async def _sign_in(self, scope: Scope, receive: Receive) -> Response | None:
        """The login page or a step of signing in; None for a request that may pass."""
        if self._token is None or scope["path"] == HEALTH:
            return None
        request, is_page = HTTPConnection(scope), scope["type"] == "http"
        given = request.query_params.get("token")
        if is_page and scope["method"] == "GET" and self._is_token(given):
            return self._let_in(scope)
        if secrets.compare_digest(request.cookies.get(self._cookie, "").encode(), self._signed_in.encode()):
            return None
        if is_page and scope["method"] == "POST":
            given = await _submitted(Request(scope, receive))
            if self._is_token(given):
                return self._let_in(scope)
        page = _LOGIN.replace("<!-- problem -->", "" if given is None else _WRONG)
        return HTMLResponse(page, 401, {"content-security-policy": _LOGIN_POLICY, "cache-control": "no-store"})

    def _is_token(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.strip().encode("utf-8", "replace"), str(self._token).encode())

    def _let_in(self, scope: Scope) -> Response:
        """Set the cookie and open the same address without the token.

        ``SameSite=Lax`` sends the cookie with links from other sites, such as a chat, and with nothing else from there.
        """
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        kept = urlencode([(name, value) for name, value in asked if name != "token"])
        # Relative, so that it stays on this host whatever the path is, also behind a proxy that removes a part of it.
        last = "./" + scope.get("raw_path", scope["path"].encode()).decode("latin-1").rpartition("/")[2]
        answer = RedirectResponse(last + (f"?{kept}" if kept else ""), 303, {"cache-control": "no-store"})
        secure = scope["scheme"] in ("https", "wss")
        answer.set_cookie(self._cookie, self._signed_in, httponly=True, samesite="lax", secure=secure)
        return answer


def _foreign(scope: Scope, hosts: Collection[str]) -> Response | None:
    """A refusal of a request under a foreign name, from a page of another site, or of two lengths; else None."""
    headers = Headers(scope=scope)
    named = headers.getlist("host")
    if len(named) != 1 or not host_allowed(named[0], hosts):
        return PlainTextResponse(
            "This app is not served under this name. Open it at the address that it printed when it was started, or start it "
            "with this name allowed.",
            400,
        )
    if "content-length" in headers and "transfer-encoding" in headers:
        # A proxy may end the request elsewhere than this server does.
        return PlainTextResponse("Expected either Content-Length or Transfer-Encoding, not both.", 400, {"connection": "close"})
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].strip().lower() != named[0].strip().lower():
        return PlainTextResponse("This app does not answer to pages of other sites. Open it in a tab of its own.", 403)
    return None


async def _submitted(request: Request) -> str:
    """The token of a submitted login form; empty for anything else."""
    body = b""
    with suppress(ClientDisconnect):
        async for chunk in request.stream():
            body += chunk
            if len(body) > _FORM_BYTES:
                return ""
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]


def _with_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            headers.append("content-security-policy", _FRAMES)  # beside the response's own, if any: both hold
            headers.update(_HEADERS)
        await send(message)

    return add


def _sign(token: str | None, what: str) -> str:
    return hmac.new((token or "").encode(), what.encode(), "sha256").hexdigest()

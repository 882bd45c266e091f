"""Starts the app: the address to listen on, the access token, and what is printed."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from sparserm.support.connections import Connection, connection_room, limit_repeated_lines
from sparserm.support.defaults import bundle_dir
from sparserm.support.hosts import LOOPBACK, loopback
from sparserm.types import SparseRMError
from sparserm.ui.server.gate import Gate

#: The environment variable with the access token, and its minimum number of characters: it can be guessed at any rate.
TOKEN, MIN_TOKEN = "SPARSERM_APP_TOKEN", 16

_SHARED = (
    "warning: other people can reach this app. The connection is not encrypted: the network can read the access token and all "
    "texts, unless a reverse proxy with HTTPS is in front. Whoever has the token sees all heads, uploads and jobs, and can "
    "delete them.\n"
)


def run(host: str, port: int, names: Sequence[str]) -> None:
    """Serve the app until Ctrl+C or SIGTERM.

    Args:
        host: the address to listen on.
        names: further host names under which the app is reached, e.g. through a reverse proxy.

    Raises:
        SparseRMError: the token is too short, or the address and port cannot be listened on.
    """
    shared = bool(names) or not loopback(host)
    token = access_token(shared)
    _check_free(host, port)
    start = f"{_SHARED if shared else ''}{message(host, port, names, token)}\n"

    @contextlib.asynccontextmanager
    async def announced(_app: st.App) -> AsyncIterator[dict[str, Any]]:
        sys.stderr.write(start)
        yield {}

    script = bundle_dir() / "app.py"
    os.chdir(script.parent)  # of the folders with a .streamlit/config.toml only the app's own counts
    sys.argv = [str(script)]
    logging.disable(logging.INFO)  # uvicorn would print the address again, without the token
    limit_repeated_lines()
    HTTP_PROTOCOLS["auto"] = f"{__name__}:connection"  # Streamlit starts uvicorn, with its default protocol
    app = st.App(
        script,
        middleware=[Middleware(Gate, hosts=(host, *names), token=token)],
        lifespan=announced,
        on_script_error=report_error,
    )
    with contextlib.suppress(KeyboardInterrupt):
        app.run(
            config={
                "server.address": host,
                "server.port": port,
                # The gate has checked the host; pages read from these two whether others can reach the app.
                "server.allowedHosts": ["*"] if shared else [*LOOPBACK, host],
                "logger.hideWelcomeMessage": True,
            }
        )


def connection(*args: Any, **rest: Any) -> Connection:
    """A connection of the app, with limits for slow clients."""
    return Connection(*args, most=_room(), **rest)


@functools.cache
def _room() -> int:
    return connection_room()[0]


def access_token(shared: bool) -> str | None:
    """The token of the environment; without one, a new token if others can reach the app, else None.

    Raises:
        SparseRMError: the token is too short.
    """
    given = os.environ.get(TOKEN, "").strip()
    if given and len(given) < MIN_TOKEN:
        raise SparseRMError(
            f"{TOKEN} has {len(given)} characters; expected at least {MIN_TOKEN}, since a shorter token can be guessed; "
            "leave the variable out to have a token generated"
        )
    return given or (secrets.token_urlsafe(24) if shared else None)


def message(host: str, port: int, names: Sequence[str], token: str | None) -> str:
    """The address to open, with the token."""
    everywhere = host in ("", "0.0.0.0", "::")
    shown = names[0] if names else "127.0.0.1" if everywhere else f"[{host}]" if ":" in host else host
    place = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    other = " (from elsewhere with this computer's address instead of 127.0.0.1)" if everywhere and not names else ""
    return f"SparseRM on {place}{other}; stop with Ctrl+C"


def report_error(error: Exception) -> bool:
    """Print an unexpected error of a page to the log, and say in the browser only that there was one."""
    traceback.print_exception(error)
    st.error("Something went wrong on this page. Reload it, or choose other settings. The log of the app has the details.")
    return True


def _check_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while ")[0]
        raise SparseRMError(
            f"cannot listen on {host} port {port} ({reason}); expected an address of this computer and a free port; choose "
            "others with --host and --port"
        ) from error

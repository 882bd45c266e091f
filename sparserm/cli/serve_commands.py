"""The command ``serve``: heads behind HTTP."""

from __future__ import annotations

import functools
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from sparserm.cli.common import app
from sparserm.support.hosts import loopback
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

#: Seconds that running requests have to finish after SIGTERM.
GRACE_S = 60

#: Bytes of a key that is made at the start.
KEY_BYTES = 24

#: Printed where others can reach the server.
_OPEN = (
    "warning: others can reach this server and use it without a key (--no-key); expected a proxy in front of it that asks for "
    "one. The connection is not encrypted."
)
_MADE = (
    "Key for this run, since others can reach this server: {key}\nClients send `Authorization: Bearer KEY`. Set "
    "SPARSERM_API_KEY to keep one key. The connection is not encrypted; put a reverse proxy with HTTPS in front of it."
)


@app.command()
def serve(
    heads: Annotated[
        list[str], typer.Argument(help="Heads (names or folders) that share a backbone; the first is the default.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SPARSERM_API_KEY",
            help="Require `Authorization: Bearer KEY`. Prefer the environment variable to the option. By default a key is "
            "made and printed where others can reach the server, and none is required otherwise.",
        ),
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Require no key, e.g. behind a proxy that asks for one.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further host name of this server, e.g. behind a proxy. Repeatable.")
    ] = None,
    max_wait: Annotated[
        float, typer.Option(help="Maximum seconds until an answer; requests that would wait longer get 429.", min=1)
    ] = 120,
    max_texts: Annotated[int, typer.Option(help="Maximum number of texts per request.", min=1)] = 512,
    max_client_requests: Annotated[
        int, typer.Option(help="Maximum number of requests in progress of one client; this computer has no such limit.", min=1)
    ] = 64,
    max_client_texts: Annotated[
        int, typer.Option(help="Maximum number of texts per minute of one client; this computer has no such limit.", min=1)
    ] = 60_000,
    log_texts: Annotated[bool, typer.Option(help="Log prompts, responses and rewards. By default no text is logged.")] = False,
) -> None:
    """Serve heads over HTTP: /score, /compare and /explain, and the interfaces of OpenRLHF (/get_reward), vLLM (/classify,
    /pooling, /v1/score, /v1/rerank, /v1/models) and TEI (/predict, /rerank)."""
    try:
        import uvicorn

        from sparserm.integrations.server.app import create_app
        from sparserm.integrations.server.logs import log_to_stderr
        from sparserm.integrations.server.service import Limits
        from sparserm.support.connections import limit_repeated_lines
    except ImportError as error:
        raise SparseRMError(
            f'serving needs fastapi and uvicorn ({error}); install them with `pip install "sparserm[serve]"`'
        ) from error
    from sparserm.heads.saved import find_head
    from sparserm.model import SparseRM

    api_key, said = _key(api_key, no_key, public=not loopback(host) or bool(allow_host))
    models = {find_head(head).resolve().name: SparseRM.from_pretrained(head) for head in heads}
    if len(models) < len(heads):
        raise SparseRMError(
            f"two of the heads {', '.join(heads)} have the same name; expected different names; rename a folder"
        )
    limits = Limits(texts=max_texts, wait_s=max_wait, client_requests=max_client_requests, client_texts=max_client_texts)
    hosts = (host, *(allow_host or ()))
    served = create_app(models, limits=limits, api_key=api_key, hosts=hosts, log_texts=log_texts)
    if said:
        typer.echo(said, err=True)
    typer.echo(f"{', '.join(models)} on http://{host}:{port}, API documentation at /docs; stop with Ctrl+C", err=True)
    log_to_stderr()
    limit_repeated_lines("sparserm.server")
    server = uvicorn.Server(_configuration(served, host, port))
    server.run()
    if not server.started:  # uvicorn has printed why
        raise typer.Exit(2)


def _key(given: str | None, no_key: bool, public: bool) -> tuple[str | None, str]:
    """The key that requests have to send, and what to say about it; a public server has one unless ``no_key`` is set.

    Raises:
        SparseRMError: both a key and no key are asked for.
    """
    if given and no_key:
        raise SparseRMError("got a key and --no-key; expected one of them; unset SPARSERM_API_KEY or leave out --no-key")
    if given or not public:
        return given or None, ""
    if no_key:
        return None, _OPEN
    made = secrets.token_urlsafe(KEY_BYTES)
    return made, _MADE.format(key=made)


def _configuration(served: FastAPI, host: str, port: int) -> uvicorn.Config:
    """uvicorn's settings: connections that cannot hold it up, and time for running requests to finish."""
    import uvicorn

    from sparserm.support.connections import Connection, connection_room

    most, backlog = connection_room()
    return uvicorn.Config(
        served,
        host=host,
        port=port,
        http=functools.partial(Connection, most=most),  # type: ignore[arg-type]
        ws="none",
        backlog=backlog,
        log_config=None,  # uvicorn's warnings are logged as ours are
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )

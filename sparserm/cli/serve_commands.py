"""The command ``serve``: heads behind HTTP."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from sparserm.cli.common import app
from sparserm.types import SparseRMError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

#: Seconds that running requests have to finish after SIGTERM.
GRACE_S = 60

#: Printed where others can reach the server and no key is asked for.
_OPEN = (
    "warning: others can reach this server and use it without a key; set SPARSERM_API_KEY to require one. The connection is "
    "not encrypted; put a reverse proxy with HTTPS in front of it."
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
            help="Require `Authorization: Bearer KEY`. Prefer the environment variable to the option.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further host name of this server, e.g. behind a proxy. Repeatable.")
    ] = None,
    max_wait: Annotated[
        float, typer.Option(help="Maximum seconds until an answer; requests that would wait longer get 429.", min=1)
    ] = 120,
    max_texts: Annotated[int, typer.Option(help="Maximum number of texts per request.", min=1)] = 512,
    log_texts: Annotated[bool, typer.Option(help="Log prompts, responses and rewards. By default no text is logged.")] = False,
) -> None:
    """Serve heads over HTTP: /score, /compare and /explain, and the interfaces of OpenRLHF (/get_reward), vLLM (/classify,
    /pooling) and TEI (/predict, /rerank)."""
    try:
        import uvicorn

        from sparserm.integrations.server.app import create_app
        from sparserm.integrations.server.service import Limits
        from sparserm.support.connections import limit_repeated_lines
    except ImportError as error:
        raise SparseRMError(
            f'serving needs fastapi and uvicorn ({error}); install them with `pip install "sparserm[serve]"`'
        ) from error
    import logging

    from sparserm.heads.saved import head_name
    from sparserm.model import SparseRM
    from sparserm.support.hosts import loopback

    models = {head_name(head): SparseRM.from_pretrained(head) for head in heads}
    if len(models) < len(heads):
        raise SparseRMError(
            f"two of the heads {', '.join(heads)} have the same name; expected different names; rename a folder"
        )
    limits = Limits(texts=max_texts, wait_s=max_wait)
    hosts = (host, *(allow_host or ()))
    served = create_app(models, limits=limits, api_key=api_key, hosts=hosts, log_texts=log_texts)
    if log_texts:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if api_key is None and not (loopback(host) and not allow_host):
        typer.echo(_OPEN, err=True)
    typer.echo(f"{', '.join(models)} on http://{host}:{port}, API documentation at /docs; stop with Ctrl+C", err=True)
    limit_repeated_lines("sparserm.server")
    server = uvicorn.Server(_configuration(served, host, port))
    server.run()
    if not server.started:  # uvicorn has printed why
        raise typer.Exit(2)


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
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )

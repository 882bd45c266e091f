"""The command ``serve``: heads behind HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from sparserm.cli.common import app
from sparserm.types import SparseRMError

#: Seconds that running requests have to finish after SIGTERM.
GRACE_S = 60


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
    max_waiting: Annotated[
        int, typer.Option(help="Maximum number of queued texts; further requests get status 429.", min=1)
    ] = 2048,
    max_texts: Annotated[int, typer.Option(help="Maximum number of texts per request.", min=1)] = 512,
    log_texts: Annotated[bool, typer.Option(help="Log prompts, responses and rewards. By default no text is logged.")] = False,
) -> None:
    """Serve heads over HTTP: /score, /compare and /explain, and the interfaces of OpenRLHF (/get_reward), vLLM (/classify,
    /pooling) and TEI (/predict, /rerank)."""
    try:
        import uvicorn

        from sparserm.integrations.server.app import create_app
        from sparserm.integrations.server.service import Limits
    except ImportError as error:
        raise SparseRMError(
            f'serving needs fastapi and uvicorn ({error}); install them with `pip install "sparserm[serve]"`'
        ) from error
    import logging

    from sparserm.heads.saved import find_head
    from sparserm.model import SparseRM

    models = {find_head(head).resolve().name: SparseRM.from_pretrained(head) for head in heads}
    if len(models) < len(heads):
        raise SparseRMError(
            f"two of the heads {', '.join(heads)} have the same name; expected different names; rename a folder"
        )
    served = create_app(models, limits=Limits(texts=max_texts, waiting=max_waiting), api_key=api_key, log_texts=log_texts)
    if log_texts:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    typer.echo(f"{', '.join(models)} on http://{host}:{port}, API documentation at /docs; stop with Ctrl+C", err=True)
    uvicorn.run(
        served, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S, lifespan="on"
    )

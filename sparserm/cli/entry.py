"""The entry point of the command line, and the command ``app``."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from sparserm.cli.common import app
from sparserm.types import SparseRMError

#: Exit code after Ctrl-C.
CANCELLED = 130


@app.command("app")
def app_command(
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8501,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other than loopback addresses need the access token that is printed.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further host name under which the app is reached, e.g. through a reverse proxy. Repeatable."),
    ] = None,
) -> None:
    """Start the app, on http://localhost:8501 by default, for this computer only.

    With the environment variable SPARSERM_APP_TOKEN the app always asks for this access token.
    """
    from sparserm.ui.server.start import run

    run(host, port, allow_host or [])


def main() -> None:
    """Entry point: errors become one line on stderr and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except SparseRMError as error:
        fail(str(error))
    except TyperException as error:
        context = getattr(error, "ctx", None)
        message = getattr(error, "format_message", error.__str__)()
        fail(message + (f" See `{context.command_path} --help`." if context else ""))
    except (KeyboardInterrupt, typer.Abort):
        code = CANCELLED
    except Exception as error:
        if (reason := _disk_error(error)) is None:
            raise
        fail(f"{reason}; expected a place with write access and free space; check the path, its permissions and the free space")
    if code == CANCELLED:  # Typer's code for Ctrl-C inside a command
        typer.echo("cancelled; finished work is saved, run the same command to resume", err=True)
    raise SystemExit(code or 0)


def _disk_error(error: Exception) -> str | None:
    """What a disk refused, if that is what an error says; libraries have errors of their own for it. None for other errors."""
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error.strerror or error)
    text = str(error)
    if isinstance(error, sqlite3.OperationalError):
        return text
    if "(os error " in text:  # safetensors: "Error while serializing: I/O error: No space left on device (os error 28)"
        return text.partition("(os error ")[0].rpartition("I/O error: ")[2].strip()
    return "a file could not be written whole" if "inline_container.cc" in text else None  # torch.save, which has no reason


def fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)

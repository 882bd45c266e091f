"""The entry point of the command line, and the command ``app``."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from sparserm.cli.common import app
from sparserm.support.defaults import bundle_dir
from sparserm.types import SparseRMError

#: Exit code after Ctrl-C.
CANCELLED = 130


@app.command("app")
def app_command(port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501) -> None:
    """Start the app, on http://localhost:8501 by default."""
    os.chdir(bundle_dir())  # Streamlit looks here for .streamlit/config.toml
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    os.execv(sys.executable, command)  # replaces this process, so that signals reach the app


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
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename or ''}; check the path, its permissions and the free space")
    if code == CANCELLED:  # Typer's code for Ctrl-C inside a command
        typer.echo("cancelled; finished work is saved, run the same command to resume", err=True)
    raise SystemExit(code or 0)


def fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)

"""The entry point, and the command that opens the app."""

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
    """Open the app."""
    os.chdir(bundle_dir())  # where Streamlit looks for .streamlit/config.toml
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    os.execv(sys.executable, command)  # in place of this process: what ends it ends the app


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
    if code == CANCELLED:  # Typer makes it of Ctrl-C in a command
        typer.echo("cancelled; what was computed is kept, and the same command goes on from there", err=True)
    raise SystemExit(code or 0)


def fail(message: str) -> NoReturn:
    typer.echo("error: " + " ".join(message.split()), err=True)
    raise SystemExit(2)

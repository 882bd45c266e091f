"""Virtual environments of the clients, one each, in a folder that is ignored by git and used again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients.kinds import Client

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".clients"
#: Seconds that pip may take for one client.
INSTALL_S = 900


class UnavailableError(Exception):
    """An environment could not be made; says why."""


def environment(name: str, client: Client) -> Path:
    """The Python of a client's environment, which is made if it is not there or its requirements have changed.

    It has what the client requires, and behind that the packages of this environment, so that PyTorch is not installed again.
    A client without requirements runs in this environment.

    Raises:
        UnavailableError: pip cannot install what the client requires.
    """
    if not client.requirements and not client.alone:
        return Path(sys.executable)
    folder = CACHE / name
    python = folder / "bin" / "python"
    shared = site.getsitepackages()
    wanted = json.dumps([sys.version, shared, client.requirements, client.alone])
    stamp = folder / "installed.json"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder)  # pip is that of this environment
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    if client.alone:
        _install([*pip, "--no-deps", "--ignore-installed", *client.alone])
    if client.requirements:
        _install([*pip, *client.requirements])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _install(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"pip took longer than {INSTALL_S} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UnavailableError(f"pip: {(lines or ['exited with ' + str(done.returncode)])[-1]}")


def run(command: Sequence[str], log: Path, limit_s: float, variables: Mapping[str, str]) -> int | None:
    """Run a command of an environment and end it with all that it started. Returns its exit code; None if the time was up."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

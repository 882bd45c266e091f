"""``sparserm serve`` on a free port of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Seconds until the server must answer: the backbone may have to be downloaded first.
START_S = 300


@contextmanager
def served(heads: Sequence[str], log: Path) -> Iterator[str]:
    """Serve heads; yields the address.

    Raises:
        RuntimeError: the server does not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from sparserm.cli import main; main()"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", start, "serve", *heads, "--port", str(port)], stdout=file, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + START_S
            while not _answers(f"{address}/health"):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8')[-500:]}")
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(90)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False

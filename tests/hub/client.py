"""A process that has the hub of the tests as its Hub.

The Hub's clients read ``HF_ENDPOINT`` and ``HF_HOME`` once, when they are imported: so journeys run in a process that is
started with them. It stays, so that a test does not pay for the imports again.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

#: Seconds that a journey may take, imports included.
LONGEST_S = 120

#: Variables of the user's own Hub and proxies.
_FOREIGN = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def _work(pipe: Connection, settings: dict[str, str]) -> None:
    """The process: run the journeys that come through the pipe, until it is closed."""
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(settings)
    with suppress(EOFError):  # the tests have ended
        while True:
            pipe.send(_run(*pipe.recv()))


def _run(journey: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, str]) -> tuple[Any, str, str]:
    """The result of a journey, or the message of its ``SparseRMError``, or the traceback of anything else."""
    from sparserm.types import SparseRMError

    try:
        with patch.dict(os.environ, settings):
            return journey(*args), "", ""
    except SparseRMError as error:
        return None, str(error), ""
    except Exception:
        return None, "", traceback.format_exc()


class Client:
    """A process with its own ``HF_HOME`` that runs journeys, one after another.

    Args:
        hub: address of the Hub.
        folder: for the cache of the Hub's clients, and an own ``SPARSERM_HOME``.
        settings: further environment variables, such as ``HF_HUB_OFFLINE``.
    """

    def __init__(self, hub: str, folder: Path, **settings: str) -> None:
        settings = {
            "HF_ENDPOINT": hub,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "SPARSERM_HOME": str(folder / "home"),
            "SPARSERM_DATA": "",
            **settings,
        }
        # Spawned, not forked: a fork would keep what the tests' process has imported.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, settings), daemon=True)
        self._process.start()

    def __call__(self, journey: Callable[..., Any], *args: Any, **settings: str) -> Any:
        """Run a journey, with further environment variables, and return its result; its errors fail the test."""
        result, refusal, failure = self._ask(journey, args, settings)
        if refusal or failure:
            raise AssertionError(refusal or failure)
        return result

    def refused(self, journey: Callable[..., Any], *args: Any, **settings: str) -> str:
        """Run a journey that has to end with a ``SparseRMError``, and return its message."""
        result, refusal, failure = self._ask(journey, args, settings)
        if not refusal:
            raise AssertionError(failure or f"no error, but {result!r}")
        return refusal

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _ask(self, *journey: Any) -> tuple[Any, str, str]:
        self._pipe.send(journey)
        if not self._pipe.poll(LONGEST_S):
            raise AssertionError(f"{journey[0].__name__} takes longer than {LONGEST_S} seconds")
        return self._pipe.recv()

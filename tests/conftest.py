"""The suite runs in parallel, a file per process at a time; a single file runs in this process.

``-n 0`` turns the processes off, ``-n 4`` sets their number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Rooms and files in the order in which they start: the slowest first, so that no process is left alone with them at the end.
SLOWEST_FIRST = (
    "tests/browser/",
    "tests/integration/",
    "tests/app/",
    "tests/hub/",
    "tests/unit/pairs/test_fuzz.py",
    "tests/unit/integrations/",
    "tests/unit/policy/",
)

MAIN = sys.modules["__main__"]

#: Each process may hold the real backbone: about 2 GB.
MAX_PROCESSES = 4


class OneFileAtATime(LoadScopeScheduling):
    """Gives a process all tests of a file, and all browser tests to one process, which then starts one app and one browser."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/browser" if nodeid.startswith("tests/browser/") else nodeid.split("::", 1)[0]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """No processes besides this one for a single file; otherwise one per CPU."""
    if len(config.args) == 1 and ".py" in config.args[0]:
        return 0
    return min(os.cpu_count() or 1, MAX_PROCESSES)


def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Share the CPUs between the processes, which inherit the variable."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(specs))))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneFileAtATime:
    return OneFileAtATime(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest rooms first."""

    def rank(item: pytest.Item) -> int:
        return next((i for i, room in enumerate(SLOWEST_FIRST) if item.nodeid.startswith(room)), len(SLOWEST_FIRST))

    items.sort(key=rank)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """AppTest leaves its page behind as ``__main__``, which a process that a fixture spawns would run first."""
    sys.modules["__main__"] = MAIN

"""Independent fits at the same time, one for each core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """What ``work`` makes of each item, in the order of the items; NumPy lets go of Python's lock while it computes.

    Results are the same as one after the other, to the bit, since every fit has one thread of BLAS. What is not begun when the
    consumer stops is left undone. An exception of ``work`` comes out where its result would.
    """
    # The limit belongs to the process: were it each worker's own, the first to end would lift it for those still at work.
    with threadpool_limits(1), ThreadPoolExecutor(_cores()) as pool:
        yield from pool.map(work, items)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Fits on one thread each, several at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

#: Pieces of work at a time at most: each holds its own copy of the pairs' representations.
MOST = 4

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _OneThread:
    """The libraries' limit is one for the whole process, and whichever thread has set it has it to itself while it lives: a
    thread of its own sets it when the first comes and lifts it when the last leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._over = threading.Event()
        self._keeper = threading.Thread()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                limited, self._over = threading.Event(), threading.Event()
                self._keeper = threading.Thread(target=_keep_limit, args=(limited, self._over), daemon=True)
                self._keeper.start()
                limited.wait()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._over.set()
                self._keeper.join()


def _keep_limit(limited: threading.Event, over: threading.Event) -> None:
    try:
        with threadpool_limits(1, user_api="blas"):
            limited.set()
            over.wait()
    finally:
        limited.set()


_one_thread = _OneThread()
_worker = threading.local()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Multiply matrices on one thread: so small, they only make threads wait for one another, and the sums come out the same
    on any machine.
    """
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results in the order of the items, several worked at a time: NumPy lets others go on while it multiplies.

    What a piece of work raises is raised in its place; then, or when the results are closed, those not begun never are. Inside
    a piece of work the items come one after another.
    """
    with one_thread():
        if getattr(_worker, "busy", False):
            yield from map(work, items)
            return
        pool = ThreadPoolExecutor(min(MOST, _cores()), initializer=lambda: setattr(_worker, "busy", True))
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)

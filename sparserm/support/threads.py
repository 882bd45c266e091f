"""Work in threads: results in order, and several fits in parallel, each on a single BLAS thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import TypeVar

from threadpoolctl import threadpool_limits

#: Maximum number of parallel calls: each holds its own copy of the pairs' representations.
MOST = 4

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _OneThread:
    """Reference-counted limit of BLAS to one thread.

    The limit is global to the process and bound to the thread that set it, so a dedicated thread sets it for the first caller
    and lifts it after the last.
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
    """Limit BLAS to one thread inside the block.

    The matrices are too small to gain from more threads, and the sums are then the same on every machine.
    """
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map ``work`` over the items in parallel threads (NumPy releases the GIL) and yield the results in order.

    An error is raised in place of its result; after an error, or once the generator is closed, no further call starts. Nested
    calls run sequentially.
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


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int
) -> Generator[_Result, None, None]:
    """Yield ``work(item)`` for each item, in order, with at most ``ahead`` items begun beyond the one that is yielded next.

    The items are taken one by one, when they are begun, and worked on in the caller's context. Once the generator is closed no
    item is begun, and none is in progress.
    """
    waiting = deque[Future[_Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(copy_context().run, work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
        wait(waiting)

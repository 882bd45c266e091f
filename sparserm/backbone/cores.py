"""Independent work on the cores of a CPU: a thread for each core, in which PyTorch uses one thread.

The threads into which PyTorch divides an operation wait for each other, spinning, hundreds of times in a pass. Alone on the
machine that is as fast as threads with work of their own; beside other busy processes it is several times slower.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from sparserm.support.threads import in_order

_T = TypeVar("_T")
_R = TypeVar("_R")


def on_cores(function: Callable[[_T], _R], items: Sequence[_T], cores: int) -> Generator[_R, None, None]:
    """Yield ``function(item)`` for each item, in order; no more items are begun than the caller is about to ask for.

    Once the generator is closed no item is begun, and none is in progress.

    Args:
        cores: as many threads are used; with one, or in such a thread, the function runs in the caller's own thread.
    """
    if cores == 1 or torch.get_num_threads() == 1:
        yield from map(function, items)
        return
    yield from in_order(_pool(os.getpid(), cores), function, items, ahead=2 * cores)


@functools.cache
def _pool(process: int, cores: int) -> ThreadPoolExecutor:
    """The threads of this process, all started; a forked process (hence ``process``) has none of its parent's."""
    pool = ThreadPoolExecutor(cores, "sparserm-core", initializer=_use_one_thread)
    started = threading.Barrier(cores + 1)
    for _ in range(cores):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(cores)  # the last setting of any thread is also that of threads which start later
    return pool


def _use_one_thread() -> None:
    """Let PyTorch use one thread in this one."""
    torch.get_num_threads()  # takes over the setting of other threads, which would otherwise happen later
    torch.set_num_threads(1)

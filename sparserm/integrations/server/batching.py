"""Dynamic batching: concurrent requests are collected into batches for one language model."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparserm.types import Text

#: Computes one result for each text.
Compute = Callable[[Sequence[Text]], Sequence[Any]]


class OverloadedError(Exception):
    """The queue is full."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class _Work:
    kind: Hashable
    texts: Sequence[Text]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Sequence[Any]]
    given_up: threading.Event = field(default_factory=threading.Event)

    def finish(self, results: Sequence[Any] | None, error: Exception | None = None) -> None:
        def tell() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(results or [])

        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits for the result
            self.loop.call_soon_threadsafe(tell)


class Batcher:
    """Run batches in a thread; requests that arrive meanwhile are collected into the next batch.

    Args:
        compute: the function for each kind of work.
        max_waiting: maximum number of waiting texts; further requests are refused.
        max_batch: maximum number of texts in a batch; larger requests are split.
        on_batch: called with the number of texts of every batch.
    """

    def __init__(
        self,
        compute: dict[Hashable, Compute],
        *,
        max_waiting: int,
        max_batch: int,
        on_batch: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._compute = compute
        self._max_waiting, self._max_batch, self._on_batch = max_waiting, max_batch, on_batch
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sparserm-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of waiting texts."""
        with self._changed:
            return self._count()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    async def run(self, kind: Hashable, texts: Sequence[Text]) -> Sequence[Any]:
        """Compute the results of texts, in their order. Work that is cancelled before it starts is skipped.

        Raises:
            OverloadedError: the queue is full.
            ClosedError: the batcher is closed.
        """
        if not texts:
            return []
        loop = asyncio.get_running_loop()
        slices = [texts[start : start + self._max_batch] for start in range(0, len(texts), self._max_batch)]
        works = [_Work(kind, part, loop, loop.create_future()) for part in slices]
        with self._changed:
            if self._closed:
                raise ClosedError
            waiting = self._count()
            if waiting and waiting + len(texts) > self._max_waiting:
                raise OverloadedError
            self._waiting.extend(works)
            self._changed.notify()
        try:
            return [result for part in await asyncio.gather(*(work.future for work in works)) for result in part]
        finally:
            for work in works:
                work.given_up.set()

    def close(self) -> None:
        """Refuse new work, finish the waiting work and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _count(self) -> int:
        return sum(len(work.texts) for work in self._waiting if not work.given_up.is_set())

    def _run(self) -> None:
        while batch := self._next():
            self._on_batch(sum(len(work.texts) for work in batch))
            self._do(batch)

    def _next(self) -> list[_Work]:
        """The next batch: the oldest work and all work of the same kind that fits; empty once closed and done."""
        with self._changed:
            while True:
                self._waiting = deque(work for work in self._waiting if not work.given_up.is_set())
                if self._waiting:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            first = self._waiting.popleft()
            batch, rest, n = [first], deque[_Work](), len(first.texts)
            for work in self._waiting:
                if work.kind == first.kind and n + len(work.texts) <= self._max_batch:
                    batch.append(work)
                    n += len(work.texts)
                else:
                    rest.append(work)
            self._waiting = rest
            return batch

    def _do(self, batch: Sequence[_Work]) -> None:
        texts = [text for work in batch for text in work.texts]
        try:
            results = self._compute[batch[0].kind](texts)
        except Exception as error:
            if len(batch) == 1:
                batch[0].finish(None, error)
                return
            for work in batch:  # one of them caused the error: run each separately
                if not work.given_up.is_set():
                    self._do([work])
            return
        start = 0
        for work in batch:
            work.finish(results[start : start + len(work.texts)])
            start += len(work.texts)

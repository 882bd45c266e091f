"""Dynamic batching: concurrent requests are collected into batches for one language model, and admitted by expected wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparserm.types import Text

#: Computes one result for each text.
Compute = Callable[[Sequence[Text]], Sequence[Any]]


#: Seconds that a batch is expected to take at most; a single text may take longer.
BATCH_S = 5.0

#: How much longer an answer may take than expected: other requests, even refused ones, and longer texts slow batches down.
HEADROOM = 1.5

#: How fast measurements of the speed are forgotten: the share that remains after each batch.
MEMORY = 0.8


#: Batches of this many texts take about as long per text as larger ones; those of half the size take 6 % longer.
FULL = 32

#: Share of a batch's time for which the next one waits to be full: clients that have their answers send the next requests.
LINGER = 0.05


class OverloadedError(Exception):
    """The expected wait is too long.

    Attributes:
        retry_s: seconds until there is expected to be room.
    """

    def __init__(self, retry_s: float) -> None:
        super().__init__(retry_s)
        self.retry_s = retry_s


class TooLongError(Exception):
    """A request would take too long even if nothing else was waiting.

    Attributes:
        expected_s: seconds that it is expected to take.
    """

    def __init__(self, expected_s: float) -> None:
        super().__init__(expected_s)
        self.expected_s = expected_s


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class _Work:
    kind: Hashable
    texts: Sequence[Text]
    cost: float
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
    """Run batches in a thread; requests that arrive meanwhile are collected into the next batch, the oldest first.

    Args:
        compute: the function for each kind of work.
        cost: the work in a text, in any unit in which time is about proportional to it.
        seconds_per_cost: a first measurement; it is updated with every batch.
        max_wait_s: maximum time until the answer. Requests that could wait longer are refused (:data:`HEADROOM`); those that
            do nevertheless are given up.
        max_batch: maximum number of texts in a batch; larger requests are split.
        on_batch: called with the number of texts of every batch.
    """

    def __init__(
        self,
        compute: dict[Hashable, Compute],
        *,
        cost: Callable[[Text], float],
        seconds_per_cost: float,
        max_wait_s: float,
        max_batch: int,
        on_batch: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._compute = compute
        self._cost, self._max_wait_s, self._max_batch, self._on_batch = cost, max_wait_s, max_batch, on_batch
        self._measured_s, self._measured_cost = seconds_per_cost, 1.0
        self._running_cost = 0.0
        self._last = 0, 0.0  # texts and seconds of the last batch
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sparserm-batcher", daemon=True)
        self._thread.start()

    @property
    def seconds_per_cost(self) -> float:
        """The measured time for one unit of cost."""
        return self._measured_s / self._measured_cost

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
            OverloadedError: the wait would be too long, or was.
            TooLongError: it would be too long even if nothing else was waiting.
            ClosedError: the batcher is closed.
        """
        if not texts:
            return []
        loop = asyncio.get_running_loop()
        works = [_Work(kind, part, cost, loop, loop.create_future()) for part, cost in self._split(texts)]
        with self._changed:
            self._admit(sum(work.cost for work in works))
            self._waiting.extend(works)
            self._changed.notify()
        try:
            found = await asyncio.wait_for(asyncio.gather(*(work.future for work in works)), self._max_wait_s)
            return [result for part in found for result in part]
        except asyncio.TimeoutError:
            raise OverloadedError(self._max_wait_s) from None
        finally:
            for work in works:
                work.given_up.set()

    def _admit(self, cost: float) -> None:
        """Refuse work of this cost if it could take too long."""
        if self._closed:
            raise ClosedError
        most_s = self._max_wait_s / HEADROOM
        if (expected_s := cost * self.seconds_per_cost) > most_s:
            raise TooLongError(expected_s)
        before = self._running_cost + sum(work.cost for work in self._waiting if not work.given_up.is_set())
        if (excess_s := before * self.seconds_per_cost + expected_s - most_s) > 0:
            raise OverloadedError(excess_s)

    def close(self) -> None:
        """Refuse new work, finish the waiting work and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _split(self, texts: Sequence[Text]) -> list[tuple[list[Text], float]]:
        """Parts that each fit into a batch, with their cost."""
        most = BATCH_S / self.seconds_per_cost
        parts: list[tuple[list[Text], float]] = []
        for text in texts:
            cost = self._cost(text)
            if parts and len(parts[-1][0]) < self._max_batch and parts[-1][1] + cost <= most:
                parts[-1] = ([*parts[-1][0], text], parts[-1][1] + cost)
            else:
                parts.append(([text], cost))
        return parts

    def _count(self) -> int:
        return sum(len(work.texts) for work in self._waiting if not work.given_up.is_set())

    def _run(self) -> None:
        while batch := self._next():
            self._on_batch(sum(len(work.texts) for work in batch))
            started = time.monotonic()
            self._do(batch)
            seconds = time.monotonic() - started
            with self._changed:
                self._last = sum(len(work.texts) for work in batch), seconds
                self._measured_s = MEMORY * self._measured_s + seconds
                self._measured_cost = MEMORY * self._measured_cost + self._running_cost
                self._running_cost = 0.0

    def _next(self) -> list[_Work]:
        """The next batch: the oldest work and all work of the same kind that fits; empty once closed and done."""
        with self._changed:
            self._linger()
            while True:
                self._waiting = deque(work for work in self._waiting if not work.given_up.is_set())
                if self._waiting:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            first = self._waiting.popleft()
            batch, rest, n, cost = [first], deque[_Work](), len(first.texts), first.cost
            most = BATCH_S / self.seconds_per_cost
            for work in self._waiting:
                if work.kind == first.kind and n + len(work.texts) <= self._max_batch and cost + work.cost <= most:
                    batch.append(work)
                    n, cost = n + len(work.texts), cost + work.cost
                else:
                    rest.append(work)
            self._waiting, self._running_cost = rest, cost
            return batch

    def _linger(self) -> None:
        """Wait a moment for the next requests of those who have just been answered, if that makes a fuller batch."""
        answered, seconds = self._last
        wanted, deadline = min(self._count() + answered, FULL), time.monotonic() + LINGER * seconds
        while not self._closed and self._count() < wanted and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)

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

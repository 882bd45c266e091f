"""Connections that cannot hold up the server: a time limit for headers, a maximum number, and a limit on repeated log lines."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

#: Descriptors left for files, pipes and the connections that are accepted before the first of them is counted.
SPARE = 16

#: Log lines with the same text in :data:`LOG_WINDOW_S` seconds; more are only counted. Clients can cause as many as they like.
LOG_LINES, LOG_WINDOW_S = 10, 60.0


class Connection(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """uvicorn's HTTP connection, closed if the headers of a request do not arrive in time, or to make room for a new one.

    Args:
        headers_s: seconds in which the headers have to arrive.
        most: maximum number of connections. Above it the one that has been without a whole request for the longest is closed:
            so a client that sends its request at once is served while others keep connections half open.
    """

    def __init__(self, *args: Any, headers_s: float, most: int, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._headers_s, self._most = headers_s, most
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Count the connection; close one if there are too many."""
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > self._most:
            idle = [one for one in self.connections if isinstance(one, Connection) and not one.has_request]
            oldest = min(idle, key=lambda one: one.idle_since)  # this one is among them
            self.connections.discard(oldest)  # its own callback comes later
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the timer runs from the first byte of a request to the end of its headers."""
        super().data_received(data)
        if self._has_headers():
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_headers()

    @property
    def has_request(self) -> bool:
        """Whether a whole request is being answered."""
        return self._has_headers() and not self.cycle.more_body

    def _has_headers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self.idle_since = self.loop.time()
        self._timer = self.loop.call_later(self._headers_s, self._close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if not self._has_headers():
            self.transport.abort()


def connection_room(most: int) -> tuple[int, int]:
    """How many connections this process has descriptors for, ``most`` at most, and how many to accept at once.

    asyncio accepts as many as the backlog before it counts the first, and logs an error for each that has no descriptor.
    """
    try:
        import resource

        free = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd")) - SPARE
    except (ImportError, OSError):  # Windows
        free = most
    room = max(8, min(most, free))
    return max(4, room * 3 // 4), max(4, min(128, room // 4))


class RepeatedLines(logging.Filter):
    """Drops log lines of the same text and kind of error above :data:`LOG_LINES` a window, and says later how many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        if record.levelno < logging.WARNING:
            return True
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        text = f"{str(record.msg)[:100]} {kind}"
        if len(self._seen) > 1000:  # texts that differ each time
            self._seen.clear()
        start, n = self._seen.get(text, (-LOG_WINDOW_S, 0))
        if self._clock() - start >= LOG_WINDOW_S:
            if n > LOG_LINES:
                record.msg = f"{record.msg} ({n - LOG_LINES:,} more lines like this were not written)"
            start, n = self._clock(), 0
        self._seen[text] = (start, n + 1)
        return n < LOG_LINES

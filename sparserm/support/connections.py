"""Connections that cannot hold up a server: time limits, a maximum number, and a limit on repeated log lines."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds in which the headers of a request have to arrive, and in which a client has to take what was sent to it.
HEADERS_S, TAKE_S = 10.0, 30.0

#: Bytes of an answer that a client has to take in that time, or what is left of it.
TAKE_BYTES = 1 << 16

#: Maximum number of connections, where there are descriptors for so many.
MOST = 1024

#: Descriptors left for files, pipes and the connections that are accepted before the first of them is counted.
SPARE = 16

#: Log lines with the same text in :data:`LOG_WINDOW_S` seconds; more are only counted. Clients can cause as many as they like.
LOG_LINES, LOG_WINDOW_S = 10, 60.0


class Connection(H11Protocol):
    """uvicorn's HTTP connection, closed where a client is too slow, or to make room for a new one.

    A client that sends a further request before it has the answer gets that answer and no more (RFC 9112, section 9.3.2):
    otherwise it could keep the server busy without taking a single answer.

    Args:
        most: maximum number of connections. Above it the one that has waited for its client the longest is closed: so a client
            that sends its request at once is served while others keep connections half open or do not take their answers.
        headers_s: seconds in which the headers have to arrive.
        take_s: seconds in which a client has to take :data:`TAKE_BYTES` of an answer, or what is left of it.
    """

    def __init__(self, *args: Any, most: int, headers_s: float = HEADERS_S, take_s: float = TAKE_S, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._most, self._headers_s, self._take_s = most, headers_s, take_s
        self._headers_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self.waiting_since = self.loop.time()

    def connection_made(self, transport: Any) -> None:
        """Count the connection; close one if there are too many."""
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > self._most:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.waits_for_client]
            oldest = min(waiting, key=lambda one: one.waiting_since)  # this one is among them
            self.connections.discard(oldest)  # its own callback comes later
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_waiting_for_headers()
        self._stop_waiting_for_taking()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the timer runs from the first byte of a request to the end of its headers."""
        super().data_received(data)
        if self.transport.get_protocol() is not self:  # a WebSocket now
            return
        if not self._has_headers():
            if self._headers_timer is None:
                self._wait_for_headers()
            return
        self._stop_waiting_for_headers()
        if not self.flow.write_paused:
            self._stop_waiting_for_taking()  # the last answer: the client goes on
        if not self.cycle.more_body and self.conn.trailing_data[0]:
            self.headers.append((b"connection", b"close"))  # uvicorn answers as if the client had asked for it

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to another protocol."""
        self._stop_waiting_for_headers()
        self._stop_waiting_for_taking()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        """The client does not take what is sent to it."""
        super().pause_writing()
        self._wait_for_taking()

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        self._stop_waiting_for_taking()

    def on_response_complete(self) -> None:
        """The answer has been handed to the transport, which may still have to send it."""
        super().on_response_complete()
        if self._take_timer is None and self.transport.get_write_buffer_size():
            self._wait_for_taking()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is computed for it: a whole request has not arrived, or its answer is not taken."""
        return not self._has_headers() or self.cycle.more_body or self.flow.write_paused or self.transport.is_closing()

    def _has_headers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self.waiting_since = self.loop.time()
        self._headers_timer = self.loop.call_later(self._headers_s, self._no_headers)

    def _wait_for_taking(self) -> None:
        self._stop_waiting_for_taking()
        self.waiting_since = self.loop.time()
        self._untaken = self.transport.get_write_buffer_size()
        self._take_timer = self.loop.call_later(self._take_s, self._not_taken)

    def _stop_waiting_for_headers(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _stop_waiting_for_taking(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None

    def _no_headers(self) -> None:
        self._headers_timer = None
        if not self._has_headers():
            self.transport.abort()

    def _not_taken(self) -> None:
        self._take_timer = None
        left = self.transport.get_write_buffer_size()
        if left and self._untaken - left >= TAKE_BYTES:
            self._wait_for_taking()  # a slow client of a large answer
        elif left:
            self.transport.abort()


def connection_room(most: int = MOST) -> tuple[int, int]:
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


def limit_repeated_lines(*names: str) -> None:
    """Limit the lines of a server's loggers, and of those in ``names``, with :class:`RepeatedLines`."""
    for name in ("uvicorn.error", "asyncio", *names):
        logging.getLogger(name).addFilter(RepeatedLines())


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

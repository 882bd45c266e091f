"""Limits of each client, so that one of them cannot use all of the server's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

#: Clients whose counts are kept; above it those that are idle are forgotten.
MOST_CLIENTS = 10_000


class BusyClientError(Exception):
    """A client exceeds its limits; the message says which.

    Attributes:
        retry_s: seconds until it may ask again.
    """

    def __init__(self, message: str, retry_s: float) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass
class _Client:
    """What a client uses: requests in progress, and the texts that it may still send, as of ``seen``."""

    requests: int
    texts: float
    seen: float


class Clients:
    """Requests in progress and texts per minute of each client, by address.

    Texts are counted in a bucket that refills steadily: a client may send a minute's worth at once. A request that begins
    before the bucket is empty is served whole and paid for by waiting afterwards, so no request is too large in itself.

    Args:
        requests: maximum number of requests in progress.
        texts: texts per minute.
        clock: seconds, for tests.
    """

    def __init__(self, requests: int, texts: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests, self._texts, self._clock = requests, texts, clock
        self._clients: dict[str, _Client] = {}

    def enter(self, client: str) -> None:
        """Count a request of a client; ``client`` is empty where no limits apply.

        Raises:
            BusyClientError: the client has too many requests in progress.
        """
        if not client:
            return
        own = self._of(client)
        if own.requests >= self._requests:
            raise BusyClientError(
                f"this client has {own.requests:,} requests in progress; expected {self._requests:,} at most; wait for their "
                "answers",
                1,
            )
        own.requests += 1

    def leave(self, client: str) -> None:
        """A request that :meth:`enter` has counted is answered."""
        if client:
            self._clients[client].requests -= 1

    def charge(self, client: str, texts: int) -> None:
        """Count the texts of a request.

        Raises:
            BusyClientError: the client has sent too many in the last minute.
        """
        if not client:
            return
        own = self._of(client)
        if own.texts <= 0:
            raise BusyClientError(
                f"this client has sent more than {self._texts:,} texts in a minute; expected that many at most; wait",
                max(1.0, -own.texts * 60 / self._texts),
            )
        own.texts -= texts

    def _of(self, client: str) -> _Client:
        """A client's counts, up to date."""
        now = self._clock()
        if client not in self._clients and len(self._clients) >= MOST_CLIENTS:
            self._forget_idle(now)
        own = self._clients.setdefault(client, _Client(0, self._texts, now))
        own.texts = min(self._texts, own.texts + (now - own.seen) * self._texts / 60)
        own.seen = now
        return own

    def _forget_idle(self, now: float) -> None:
        """Forget clients without requests whose bucket is full again."""
        for name, one in list(self._clients.items()):
            if not one.requests and one.texts + (now - one.seen) * self._texts / 60 >= self._texts:
                del self._clients[name]


def client_name(address: str | None) -> str:
    """The name under which a client is counted: its address, of IPv6 its network of 64 bits, which one client may use whole.

    Returns:
        Empty for this computer and where there is no address: no limits apply.
    """
    if not address:
        return ""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:100]  # what a proxy calls it
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.is_loopback:
        return ""
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed.packed, 64), strict=False).network_address) + "/64"
    return str(parsed)

"""Checks of addresses to listen on and of ``Host`` headers, against DNS rebinding.

In DNS rebinding a web page has its own name resolve to 127.0.0.1: the browser then lets that page read what a server of this
computer answers. The ``Host`` header still has the foreign name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

#: The names of the loopback interface.
LOOPBACK = ("localhost", "127.0.0.1", "::1")

#: A host, then perhaps a port; IPv6 addresses are in brackets.
_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\s:/?#@\[\]\\]+))(?::\d*)?")


def loopback(address: str) -> bool:
    """Whether a server that listens on the address is reached only from this computer."""
    name = _normal(address)
    parsed = _address(name)
    return name == "localhost" if parsed is None else parsed.is_loopback


def host_allowed(host_header: str | None, allowed: Collection[str]) -> bool:
    """Whether a request's ``Host`` header names the server.

    Case, the port and a trailing dot do not matter.

    Args:
        host_header: the header's value; None (no header) is never allowed.
        allowed: the address listened on, and further names of the server. A loopback address or ``localhost`` stands for all
            loopback addresses and ``localhost``. ``0.0.0.0`` and ``::`` stand for all addresses and ``localhost``, since DNS
            rebinding needs a name.
    """
    match = _HOST.fullmatch((host_header or "").strip().lower())
    if match is None:
        return False
    asked = _normal(match["address"] or match["name"])
    address = _address(asked)
    if match["address"] and address is None:
        return False
    local = loopback(asked)
    for name in map(_normal, allowed):
        listened = _address(name)
        everywhere = listened is not None and listened.is_unspecified
        if (
            asked == name
            or (address is not None and address == listened)
            or (local and (everywhere or loopback(name)))
            or (address is not None and everywhere)
        ):
            return True
    return False


def _normal(host: str) -> str:
    return host.strip().lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address, or None for a name. IPv4 addresses mapped into IPv6 become IPv4 addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address

"""Addresses to listen on, and Host headers."""

from __future__ import annotations

import pytest

from sparserm.support.hosts import host_allowed, loopback

LOCAL = ("127.0.0.1",)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_loopback(address: str) -> None:
    assert loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.168.1.5", "a.localhost", "evil.test", "127.0.0.1.evil.test"])
def test_not_loopback(address: str) -> None:
    assert not loopback(address)


@pytest.mark.parametrize(
    "header",
    ["127.0.0.1", "127.0.0.1:8501", "localhost", "LocalHost:80", "localhost.:8501", "[::1]", "[::1]:8501", " localhost "],
)
@pytest.mark.parametrize("listened", ["127.0.0.1", "localhost", "::1"])
def test_a_loopback_server_answers_to_loopback(header: str, listened: str) -> None:
    assert host_allowed(header, (listened,))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "evil.test",
        "evil.test:8501",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "a.localhost",
        "localhost:8501@evil.test",
        "evil.test#localhost",
        "evil.test/localhost",
        "localhost, evil.test",
        "localhost:x",
        "localhost:80:80",
        "[localhost]",
        "[::1",
        "::1",
        "[evil.test]:8501",
        "192.168.1.5",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        ":8501",
        ".",
    ],
)
def test_a_loopback_server_refuses_all_else(header: str | None) -> None:
    assert not host_allowed(header, LOCAL)


def test_an_address_is_answered_to_as_itself() -> None:
    assert host_allowed("192.168.1.5:80", ("192.168.1.5",))
    assert host_allowed("[fe80:0::1]", ("fe80::1",))
    assert not host_allowed("192.168.1.6", ("192.168.1.5",))
    assert not host_allowed("localhost", ("192.168.1.5",))


@pytest.mark.parametrize("listened", ["0.0.0.0", "::"])
def test_all_interfaces_answer_to_addresses_but_not_to_names(listened: str) -> None:
    for header in ("192.168.1.5:8501", "[2001:db8::1]", "127.0.0.1", "localhost:8501"):
        assert host_allowed(header, (listened,))
    for header in ("evil.test", "machine", "a.localhost"):
        assert not host_allowed(header, (listened,))


def test_names_that_were_added() -> None:
    allowed = ("127.0.0.1", "Heads.Example.org")
    assert host_allowed("heads.example.org:443", allowed)
    assert host_allowed("heads.example.org.", allowed)
    assert host_allowed("localhost", allowed)
    for header in ("a.heads.example.org", "example.org", "heads.example.org.evil.test"):
        assert not host_allowed(header, allowed)
    assert not host_allowed("evil.test", ())

"""No request to an address that is not public: the table of addresses, and what is connected to after a look-up."""

from __future__ import annotations

import socket

import pytest

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.stages.download import connections
from wat2mds.stages.download.addresses import Resolver, is_public, literal
from wat2mds.stages.download.refusal import Refused

PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.63.255.255", "100.128.0.1", "223.255.255.255", "11.0.0.1"]
PUBLIC_V6 = ["2606:4700::1111", "2a00:1450:4001:81b::200e", "2400:cb00:2048:1::6814:55"]
REFUSED = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": ["169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "unique local": ["fc00::1", "fd12:3456::1"],
    "v4-mapped": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe"],
    "v4-compatible": ["::7f00:1"],
    "6to4": ["2002:7f00:1::", "2002:808:808::1", "192.88.99.1"],
    "Teredo": ["2001:0:53aa:64c::1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b:1::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "5f00::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarking": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "discard-only": ["100::1"],
    "no address": ["", "example.org", "1.2.3", "1.2.3.4.5"],
}


@pytest.mark.parametrize("address", PUBLIC + PUBLIC_V6)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(("kind", "address"), [(kind, address) for kind, all_of in REFUSED.items() for address in all_of])
def test_refused(kind: str, address: str) -> None:
    assert not is_public(address), kind


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("example.org", None),
        ("1.2.3.4.example.org", None),
        ("abc", None),
        ("", None),
    ],
)
def test_addresses_written_in_any_form_are_seen_as_such(host: str, address: str | None) -> None:
    assert literal(host) == address


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", "[::1]", "10.1.2.3"])
def test_private_hosts_are_refused_without_a_world(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Resolver(None, 2).addresses(host, 80, 5)
    assert refused.value.reason is DropReason.PRIVATE_ADDRESS


@pytest.mark.parametrize("host", ["nothing.invalid", "a..b", "x" * 70 + ".example"])
def test_names_that_do_not_resolve(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Resolver(None, 2).addresses(host, 80, 20)
    # Without a name server, which is how tests may run, a well-formed name is unanswered.
    assert refused.value.reason in (DropReason.DNS, *([DropReason.DNS_UNANSWERED] if host == "nothing.invalid" else []))


@pytest.mark.parametrize(
    ("code", "reason", "asked"), [(socket.EAI_NONAME, DropReason.DNS, 1), (socket.EAI_AGAIN, DropReason.DNS_UNANSWERED, 2)]
)
def test_a_name_that_is_not_there_and_one_that_nobody_answers_for(
    monkeypatch: pytest.MonkeyPatch, code: int, reason: DropReason, asked: int
) -> None:
    """The first is for good and remembered, the second is asked for again."""
    calls: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> object:
        calls.append(host)
        raise socket.gaierror(code, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver(None, 2)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            resolver.addresses("gone.example", 80, 5)
        assert refused.value.reason is reason
    assert len(calls) == asked


def test_the_world_answers_for_names_only() -> None:
    world = Resolver("127.0.0.1:8099", 2)
    assert world.addresses("photos.example", 443, 1) == [("127.0.0.1", 8099)]
    assert world.addresses("8.8.8.8", 80, 1) == [("127.0.0.1", 8099)]
    for host in ("127.0.0.1", "169.254.169.254", "[::1]", "intranet.private.test", "0x7f.1"):
        with pytest.raises(Refused, match="not public"):
            world.addresses(host, 80, 1)


@pytest.mark.parametrize("text", ["127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_a_mistyped_world_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="address:port"):
        Resolver(text, 2)


def test_what_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address first and to loopback afterwards, and one that resolves to both at once."""
    asked: list[str] = []
    connected: list[object] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        found = {"rebinding.example": ["8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"], "both.example": ["127.0.0.1", "9.9.9.9"]}
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found[host]]

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    resolver = Resolver(None, 2)
    with connections.within(5, 5):
        for host in ("rebinding.example", "rebinding.example", "both.example"):
            with pytest.raises(Refused, match="refused"):
                connections.connect(resolver, host, 80)
    assert connected == [("8.8.8.8", 80), ("8.8.8.8", 80), ("9.9.9.9", 80)]
    assert asked == ["rebinding.example", "both.example"]

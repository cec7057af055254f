"""Which addresses may be connected to, and what a host name resolves to.

In: a URL's host. Out: addresses that have been checked; whoever connects takes these and looks nothing up again. Guaranteed: global
unicast addresses only. What does not belong here: connecting (``connections.py``).

**The one exception** is ``download.resolver=ADDRESS:PORT``, for the demo's and the replay's worlds, which live on loopback: every
host *name* resolves to that address and port. Even there the check stays on for addresses written in URLs and redirects
(``http://127.0.0.1/``, ``http://169.254.169.254/`` are refused), and a world's name that ends in ``.private.test`` resolves to
10.0.0.1, so that a redirect to a private host can be shown to be refused.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.stages.download.once import Once
from wat2mds.stages.download.refusal import Refused

PRIVATE_SUFFIX = ".private.test"  # .test is reserved for testing (RFC 6761 6.2)
PRIVATE_ADDRESS = "10.0.0.1"
# getaddrinfo tells no time to live; five minutes follow a moved host soon enough and spare resolvers most repeats.
_KEEP_SECONDS = 300
_KEEP_MOST = 20_000

# IANA IPv4 Special-Purpose Address Registry, multicast (RFC 5771), reserved (RFC 1112), and one cloud's metadata.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; holds Alibaba's metadata address
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # Azure's metadata and wire server
        "169.254.0.0/16",  # link-local, RFC 3927; holds the metadata address of AWS, GCP, Azure
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # IETF protocol assignments, RFC 6890; holds Oracle's metadata address
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.88.99.0/24",  # 6to4 relay, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved and broadcast, RFC 1112, RFC 919
    )
)
# Global unicast is 2000::/3 (IANA IPv6 Address Space). Outside lie loopback, v4-mapped, NAT64 (64:ff9b::/96, 64:ff9b:1::/48),
# discard-only, unique local, link-local and multicast; inside, these are refused.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056
        "3fff::/20",  # documentation, RFC 9637
    )
)


@lru_cache(maxsize=65536)
def is_public(address: str) -> bool:
    """Whether an address is global unicast and not special in any way."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _REFUSED_V4)
    return parsed.scope_id is None and parsed in _GLOBAL_V6 and not any(parsed in network for network in _REFUSED_V6)


@lru_cache(maxsize=65536)
def literal(host: str) -> str | None:
    """The address that a host is written as, in any form that a resolver takes for one (``127.1``, ``0x7f000001``); None for a name."""
    host = host.strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or host.strip("0123456789abcdefABCDEFxX.") != "":
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


class Resolver:
    """Checked addresses of hosts, from DNS or from the world's setting."""

    def __init__(self, world: str | None, threads: int) -> None:
        self.world = _world_address(world) if world else None
        self._names: Once[str, tuple[str, ...] | Refused] = Once(
            _look_up, threads=threads, seconds=_KEEP_SECONDS, most=_KEEP_MOST, keep=_is_lasting
        )

    def addresses(self, host: str, port: int, wait: float) -> list[tuple[str, int]]:
        """Addresses and port to connect to, at least one. Raises Refused."""
        written = literal(host)
        if written is not None:
            found: tuple[str, ...] = (written,)
        elif self.world is not None:
            if host.lower().rstrip(".").endswith(PRIVATE_SUFFIX):
                found = (PRIVATE_ADDRESS,)
            else:
                return [self.world]
        else:
            found = self._resolve(host, wait)
        public = [address for address in found if is_public(address)]
        if not public:
            raise Refused(DropReason.PRIVATE_ADDRESS, f"address is not public: {found[0]}")
        return [self.world] if self.world is not None else [(address, port) for address in public]

    def _resolve(self, host: str, wait: float) -> tuple[str, ...]:
        try:
            found = self._names.get(host, wait)
        except TimeoutError:
            raise Refused(DropReason.DNS_UNANSWERED, "host name did not resolve in time") from None
        if isinstance(found, Refused):
            raise Refused(found.reason, str(found))
        return found


def _look_up(host: str) -> tuple[str, ...] | Refused:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except socket.gaierror as error:
        reason = DropReason.DNS_UNANSWERED if error.errno == socket.EAI_AGAIN else DropReason.DNS
        return Refused(reason, f"host name does not resolve: {error.strerror}")
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of no or more than 63 characters
        return Refused(DropReason.DNS, f"host name does not resolve: {error}")
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found)) or Refused(DropReason.DNS, "host name has no address")


def _is_lasting(answer: tuple[str, ...] | Refused) -> bool:
    return not (isinstance(answer, Refused) and answer.at_once)


def _world_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"download.resolver: {text!r} is not of the form address:port, e.g. 127.0.0.1:8099")
    try:
        address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4]
    except OSError as error:
        raise ConfigError(f"download.resolver: {host!r} does not resolve: {error}") from error
    return str(address[0]), int(port)

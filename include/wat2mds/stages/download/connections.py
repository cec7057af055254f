"""Connections that go to checked addresses only and never outlast a deadline; kept alive, one pool and one TLS context a process.

In: a Resolver. Out: a urllib3 PoolManager. Guaranteed: the address that was checked is the one connected to, for every connection;
TLS is verified against the system's certificates; whatever a server does, each wait on a socket ends at the thread's deadline.
What does not belong here: what is asked for (``fetch.py``).
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from wat2mds.drops import DropReason
from wat2mds.stages.download.addresses import Resolver
from wat2mds.stages.download.refusal import Refused

# Pools of the most recent hosts; each keeps as many idle connections as it had at once.
_HOSTS = 128
_TRIED_ADDRESSES = 3


class _Deadline(threading.local):
    """When the work that this thread does now has to end, and the longest single wait; endless outside of ``within``."""

    end = float("inf")
    wait = 60.0


_deadline = _Deadline()


@contextmanager
def within(seconds: float, wait: float) -> Iterator[None]:
    """This thread's socket operations end within ``seconds`` in all, and each within ``wait``."""
    before = _deadline.end, _deadline.wait
    _deadline.end, _deadline.wait = time.monotonic() + seconds, wait
    try:
        yield
    finally:
        _deadline.end, _deadline.wait = before


def remaining() -> float:
    """Seconds until this thread's deadline. Raises Refused when it has passed."""
    left = _deadline.end - time.monotonic()
    if left <= 0:
        raise Refused(DropReason.TIMEOUT, "deadline exceeded")
    return left


def next_wait() -> float:
    """Seconds that the next socket operation may take."""
    return min(remaining(), _deadline.wait)


# A server that sends a byte now and then keeps every single wait short: so the deadline is asked at each read from the socket.
class _Socket(socket.socket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(next_wait())
        return super().recv_into(*args, **kwargs)


class _SecureSocket(ssl.SSLSocket):
    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(next_wait())
        return super().recv_into(*args, **kwargs)


def tls_context() -> ssl.SSLContext:
    """Verifying, with the system's certificates. Made once: making one costs 25 to 45 ms, most of what an https image costs."""
    context = ssl.create_default_context()
    context.sslsocket_class = _SecureSocket
    return context


def connect(resolver: Resolver, host: str, port: int) -> socket.socket:
    """A connection to the first address that answers, of those that passed the check. Raises Refused."""
    failure = Refused(DropReason.CONNECT, "no connection")
    for address, its_port in resolver.addresses(host, port, remaining())[:_TRIED_ADDRESSES]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            connection = _Socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise Refused(DropReason.CONNECT, f"no connection: {error}") from error
        try:
            connection.settimeout(next_wait())
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect((address, its_port))
        except TimeoutError:
            connection.close()
            failure = Refused(DropReason.TIMEOUT, "connect timed out")
        except OSError as error:
            connection.close()
            failure = Refused(DropReason.CONNECT, f"no connection: {error.strerror or error}")
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


class _Pools(PoolManager):
    def connection_from_host(
        self, host: str | None, port: int | None = None, scheme: str | None = "http", pool_kwargs: dict[str, Any] | None = None
    ) -> HTTPConnectionPool:
        # urllib3's makes a key of all of its options for each request; here they are the same for all.
        key: Any = scheme, host, port
        return self.connection_from_pool_key(key, self.connection_pool_kw | {"scheme": scheme, "host": host, "port": port})


def pool_manager(resolver: Resolver, threads: int) -> PoolManager:
    """Connections by host, opened through ``connect``."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connect(resolver, self._dns_host, self.port)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(resolver, self._dns_host, self.port)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    # It warns of every connection beyond the pool's size and of every odd header of the web.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    manager = _Pools(num_pools=_HOSTS, maxsize=threads, block=False, ssl_context=tls_context())
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager

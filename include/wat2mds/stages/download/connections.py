"""Connections that go to checked addresses only and never outlast a deadline; kept alive, one pool and one TLS context a process.

In: a Resolver. Out: a Pool of connections. Guaranteed: the address that was checked is the one connected to, for every connection;
TLS is verified against the system's certificates; whatever a server does, each wait on a socket ends at the thread's deadline.
What does not belong here: what is asked for (``fetch.py``).
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from wat2mds.drops import DropReason
from wat2mds.stages.download.addresses import Resolver
from wat2mds.stages.download.answers import Response, Stream, request
from wat2mds.stages.download.refusal import Refused

# Idle connections are kept of the most recent origins, as many of each as it had at once.
_ORIGINS = 128
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
    """The kernel keeps the time of a wait (SO_RCVTIMEO), and is told when it changes: Python's own would take a poll and an ioctl more
    for each read."""

    _wait = 0.0

    def send_all(self, data: bytes) -> None:
        self._be_patient()
        try:
            self.sendall(data)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def receive(self, most: int) -> bytes:
        self._be_patient()
        try:
            return self.recv(most)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def has_ended(self) -> bool:
        try:
            self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _be_patient(self) -> None:
        wait = next_wait()
        if wait != self._wait:
            self.settimeout(None)
            patience = struct.pack("ll", int(wait), max(1, int(wait % 1 * 1e6)))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            self._wait = wait


class _SecureSocket(ssl.SSLSocket):
    def send_all(self, data: bytes) -> None:
        self.settimeout(next_wait())
        self.sendall(data)

    def receive(self, most: int) -> bytes:
        self.settimeout(next_wait())
        return self.recv(most)

    def has_ended(self) -> bool:
        self.settimeout(0)
        try:
            socket.socket.recv(self, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def tls_context() -> ssl.SSLContext:
    """Verifying, with the system's certificates. Made once: making one costs 25 to 45 ms, most of what an https image costs."""
    context = ssl.create_default_context()
    context.sslsocket_class = _SecureSocket
    return context


def connect(resolver: Resolver, host: str, port: int) -> _Socket:
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


class Connection:
    """To one origin. A request and its answer at a time."""

    def __init__(self, origin: tuple[str, str, int], opened: _Socket | _SecureSocket) -> None:
        self.origin = origin
        self._socket = opened
        self._stream = Stream(opened.receive)

    def get(self, target: str, host: str, headers: Mapping[str, str]) -> Response:
        """Raises OSError, HTTPException, or ValueError for what is no request."""
        self._socket.send_all(request(target, host, headers))
        return Response(self._stream)

    def usable(self, response: Response) -> bool:
        """After that answer: it was read to its end, and the server meant it to be the last of nothing."""
        return response.isclosed() and not response.will_close and self._stream.empty

    def has_ended(self) -> bool:
        """Whether the server closed it meanwhile, or sent what nobody asked for."""
        return self._socket.has_ended()

    def close(self) -> None:
        self._socket.close()


class Pool:
    """Connections by origin: scheme, host and port. An idle one is taken by one request at a time, the last that was put back first."""

    def __init__(self, resolver: Resolver, most: int) -> None:
        """``most`` idle ones are kept of an origin."""
        self._resolver = resolver
        self._most = most
        self._tls = tls_context()
        self._idle: OrderedDict[tuple[str, str, int], list[Connection]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, scheme: str, host: str, port: int) -> Connection:
        """One that is open, or a new one. Raises Refused, or OSError of TLS."""
        origin = scheme, host, port
        while (idle := self._pop(origin)) is not None:
            if not idle.has_ended():
                return idle
            idle.close()
        opened = connect(self._resolver, host, port)
        if scheme == "http":
            return Connection(origin, opened)
        try:
            opened.settimeout(next_wait())
            name = host.strip("[]").partition("%")[0].rstrip(".")
            secure = self._tls.wrap_socket(opened, server_hostname=name)
        except BaseException:
            opened.close()
            raise
        assert isinstance(secure, _SecureSocket)
        return Connection(origin, secure)

    def put_back(self, connection: Connection) -> None:
        """One that is usable."""
        dropped: list[Connection] = []
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            self._idle.move_to_end(connection.origin)
            (idle if len(idle) < self._most else dropped).append(connection)
            if len(self._idle) > _ORIGINS:
                dropped += self._idle.popitem(last=False)[1]
        for one in dropped:
            one.close()

    def _pop(self, origin: tuple[str, str, int]) -> Connection | None:
        with self._lock:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

"""A web of many hosts with every kind of fault, on real sockets: what its URLs answer depends on their path and on nothing else.

``web`` draws the URLs, seeded; ``FaultyOrigin`` answers them, keeps connections alive where the fault allows it, and logs when each
request began and ended. A fault that passes (``flaky``, ``reset-once``) passes after its URL's first request, so that a download that
was killed and goes on comes to the same result as one that was not.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import numpy as np

from tests.wat2mds.stages.download.hostile_origin import picture

# Kind of URL, its share, and what comes of it with one retry: a drop reason, or None for an image.
KINDS: dict[str, tuple[float, str | None]] = {
    "good": (0.50, None),
    "png": (0.04, None),
    "redirect": (0.05, None),
    "flaky": (0.06, None),  # 503, then the image
    "reset-once": (0.04, None),
    "slow": (0.03, None),
    "long": (0.03, None),  # announces more than comes: what comes is whole
    "missing": (0.08, "http_404"),
    "closed": (0.03, "http_403"),
    "busy": (0.02, "http_429"),
    "down": (0.02, "http_5xx"),
    "reset": (0.02, "connect"),
    "loop": (0.01, "redirects"),
    "cut": (0.02, "decode"),  # announces the whole image, half of it comes
    "noise": (0.01, "not_image"),
    "tiny": (0.01, "too_small_bytes"),
    "noai": (0.01, "x_robots"),
    "private": (0.02, "robots"),
}
_PICTURES = 12
LARGEST = "h0.example"  # of ``web``'s hosts


@dataclass
class Request:
    """One line of the log: seconds of the monotonic clock; ``end`` before its last bytes were sent, 0 while it is being answered."""

    host: str
    path: str
    start: float
    end: float = 0.0

    @property
    def url(self) -> str:
        return f"http://{self.host}{self.path}"


def web(urls: int, hosts: int, seed: int) -> list[str]:
    """URLs over hosts, of kinds in the shares of KINDS; as on the web, a few hosts have most of them (Zipf: the n-th largest has 1/n of
    the largest's)."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, hosts + 1)
    places = rng.choice(hosts, urls, p=weights / weights.sum())
    kinds = rng.choice(list(KINDS), urls, p=[share for share, _ in KINDS.values()])
    return [f"http://h{host}.example/{kind}/{number}.jpg" for number, (host, kind) in enumerate(zip(places, kinds, strict=True))]


def kind_of(url: str) -> str:
    return urlsplit(url).path.split("/")[1]


@cache
def _picture(number: int, form: str) -> bytes:
    return picture(200 + number, 100, form)


class FaultyOrigin:
    """``with FaultyOrigin() as origin: … origin.address … origin.log``."""

    def __init__(self, gate: Callable[[Request], None] = lambda _: None) -> None:
        """``gate`` is called before each answer, and may keep it back."""
        self.log: list[Request] = []
        self._gate = gate
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        for number in range(_PICTURES):
            _picture(number, "JPEG"), _picture(number, "PNG")

    def __enter__(self) -> FaultyOrigin:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            received = b""
            while True:
                while b"\r\n\r\n" not in received:
                    part = connection.recv(65536)
                    if not part:
                        return
                    received += part
                head, _, received = received.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                host = next(line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:"))
                request = Request(host, lines[0].split(" ")[1], time.monotonic())
                with self._lock:
                    self.log.append(request)
                    self._seen[request.url] += 1
                    first = self._seen[request.url] == 1
                self._gate(request)
                try:
                    if not _answer(_Answering(connection, request), request.path, first):
                        return
                finally:
                    request.end = request.end or time.monotonic()


class _Answering:
    """A connection, and the request that is answered on it: whoever has its last bytes finds its end in the log."""

    def __init__(self, connection: socket.socket, request: Request) -> None:
        self._connection = connection
        self._request = request

    def send(self, data: bytes, *, last: bool = True) -> None:
        if last:
            self._request.end = time.monotonic()
        self._connection.sendall(data)

    def reset(self) -> None:
        """Once the connection is closed."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def most_at_once(log: Sequence[Request]) -> dict[str, int]:
    """Of each host, the requests that were being answered at the same time."""
    most: dict[str, int] = {}
    now: Counter[str] = Counter()
    ends = [(request.end, -1, request.host) for request in log if request.end]
    for _, change, host in sorted([*((request.start, 1, request.host) for request in log if request.end), *ends]):
        now[host] += change
        most[host] = max(most.get(host, 0), now[host])
    return most


def _answer(connection: _Answering, path: str, first: bool) -> bool:
    """Whether the connection stays open."""
    if path == "/robots.txt":
        return _reply(connection, "200 OK", b"User-agent: *\nDisallow: /private/\n")
    _, kind, name = [*path.split("/"), "", ""][:3]
    if not name.endswith(".jpg"):
        return _reply(connection, "404 Not Found", b"nothing here")
    number = int(name.removesuffix(".jpg"))
    body = _picture(number % _PICTURES, "PNG" if kind == "png" else "JPEG")
    if kind == "flaky" and first:
        return _reply(connection, "503 Service Unavailable", b"later")
    if kind == "retry-after" and number == 0 and first:
        return _reply(connection, "429 Too Many Requests", b"later", "Retry-After: 1")
    if kind == "reset" or (kind == "reset-once" and first):
        return _reset(connection, body)
    if kind in ("cut", "long"):
        sent, announced = (len(body) // 2, len(body)) if kind == "cut" else (len(body), len(body) + 1000)
        connection.send(_head("200 OK", announced, "Connection: close") + body[:sent])
        return False
    if kind == "slow":
        connection.send(_head("200 OK", len(body)), last=False)
        for start in range(0, len(body), len(body) // 5):
            time.sleep(0.1)
            connection.send(body[start : start + len(body) // 5], last=start + len(body) // 5 >= len(body))
        return True
    if kind == "redirect":
        return _reply(connection, "302 Found", b"", f"Location: http://t{number % 7}.example/target/{number}.jpg")
    if kind == "loop":
        return _reply(connection, "302 Found", b"", f"Location: {path}")
    failures = {
        "missing": "404 Not Found",
        "closed": "403 Forbidden",
        "busy": "429 Too Many Requests",
        "down": "500 Internal Server Error",
    }
    if kind in failures:
        return _reply(connection, failures[kind], b"no")
    if kind == "noise":
        return _reply(connection, "200 OK", b"<html>" + b"sorry " * 2000)
    if kind == "tiny":
        return _reply(connection, "200 OK", body[:3000])
    return _reply(connection, "200 OK", body, *(["X-Robots-Tag: noai"] if kind == "noai" else []))


def _reply(connection: _Answering, status: str, body: bytes, *headers: str) -> bool:
    connection.send(_head(status, len(body), *headers) + body)
    return True


def _reset(connection: _Answering, body: bytes) -> bool:
    connection.reset()
    connection.send(_head("200 OK", len(body)) + body[:1000])
    return False


def _head(status: str, length: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers, "", ""]).encode()

"""A reverse proxy that fails: between an S3 client and moto's server, on real sockets, at points that a seed chooses.

Like S3, it refuses a body that is not the one the client signed (``x-amz-content-sha256``), which moto does not check.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# Before the request reaches the store …
REFUSED = ("error_500", "slow_down", "cut", "stall")
# … or afterwards. ``damaged`` turns a bit of the body: of a PUT on its way up, of a GET on its way down; ``silent_damage`` of a PUT after
# the signature was checked, as bad memory in the store would.
FORWARDED = ("lost_answer", "damaged", "silent_damage")
KINDS = (*REFUSED, *FORWARDED)
_ANSWERS = {"error_500": (500, "InternalError"), "slow_down": (503, "SlowDown"), "damaged": (400, "XAmzContentSHA256Mismatch")}
_STALLS = 1
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultProxy:
    """``with FaultProxy(url) as proxy``: clients use ``proxy.url``; ``choose(method, path, size)`` names a fault for a request, or None."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.choose: Callable[[str, str, int], str | None] = lambda method, path, size: None
        self.seen: Counter[str] = Counter()
        self.requests = 0
        self.stopping = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def calm(self) -> None:
        self.choose = lambda method, path, size: None

    def seed(self, seed: int, rate: float, kinds: tuple[str, ...] = KINDS) -> None:
        """Faults at a rate; the same requests meet the same ones, in whatever order their threads send them."""
        counts: Counter[tuple[str, str]] = Counter()
        lock = threading.Lock()

        def choose(method: str, path: str, size: int) -> str | None:
            # What differs between equal runs is left out: the ids of multipart uploads.
            key = (method, path.partition("uploadId=")[0])
            with lock:
                counts[key] += 1
                dice = random.Random(f"{seed} {key} {counts[key]}")
            kind = dice.choice(kinds)
            if dice.random() >= rate or not _fits(kind, method, path, size):
                return None
            with lock:  # each stall costs the client's timeout
                counts["stalls", ""] += kind == "stall"
                return None if kind == "stall" and counts["stalls", ""] > _STALLS else kind

        self.choose = choose

    def once(self, kind: str, method: str, ending: str, times: int = 1) -> None:
        """One fault, or some, for requests of this method whose path ends so."""
        left = [kind] * times
        self.choose = lambda m, path, size: left.pop() if left and m == method and unquote(path).endswith(ending) else None


def _fits(kind: str, method: str, path: str, size: int) -> bool:
    if kind == "silent_damage":  # where we look at what is stored; Delta's own files carry no checksum
        return method == "PUT" and size > 0 and ("/shards/" in path or "/embeddings/" in path)
    if kind == "stall":  # Delta's own timeout is not the store's
        return "/metadata/" not in path
    if kind == "damaged":
        return (method == "PUT" and size > 0) or (method == "GET" and "?" not in path and "/metadata/" not in path)
    return True


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        proxy, length = self.proxy, int(self.headers.get("Content-Length") or 0)
        proxy.requests += 1
        kind = proxy.choose(self.command, self.path, length)
        if kind:
            proxy.seen[kind] += 1
        if kind == "cut" and (length or self.command != "GET"):
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if kind == "stall":
            self.connection.settimeout(60)
            with suppress(OSError):
                self.connection.recv(1)  # until the client gives up
            self.close_connection = True
            return
        if kind in ("error_500", "slow_down"):
            self._refuse(kind)
            return
        sent = _bit_turned(body) if kind in ("damaged", "silent_damage") and body else body
        signed = self.headers.get("x-amz-content-sha256", "")
        if kind != "silent_damage" and len(signed) == 64 and hashlib.sha256(sent).hexdigest() != signed:
            self._refuse("damaged")
            return
        answer, data = self._forward(sent)
        if kind == "lost_answer":
            self._reset()
            return
        if kind == "damaged" and self.command == "GET" and answer.status < 300 and data:
            data = _bit_turned(data, 2)  # another than on the way up: two damages must not mend each other
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if kind == "cut":
            self.wfile.write(data[: len(data) // 2])
            self._reset()
            return
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_accept_encoding=True, skip_host=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def _refuse(self, kind: str) -> None:
        status, code = _ANSWERS[kind]
        text = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>the proxy's doing</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _bit_turned(data: bytes, bit: int = 1) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ bit]) + data[middle + 1 :]

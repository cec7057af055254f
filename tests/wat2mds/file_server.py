"""A web server of one file that misbehaves as told, and a clock on which nobody waits."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class FakeClock:
    """Sleeping takes no time, and is added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Asked(NamedTuple):
    """One request: when, its path, the first byte it wanted, whether that byte only, its headers, the status it got."""

    at: float
    path: str
    first: int
    probe: bool
    headers: dict[str, str]
    status: int


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what is tested."""


class FileServer:
    """Serves one file, in ranges. What is set before a request decides its answer."""

    def __init__(self, content: bytes, clock: FakeClock | None = None) -> None:
        self.content = content
        self.etag = '"one"'
        self.statuses: list[tuple[int, dict[str, str]]] = []  # of the next requests, in place of the file
        self.cut_after, self.cuts = 0, 0  # bytes after which the next so many answers are cut
        self.stalls = 0  # of the next answers that stall where they would be cut, until close()
        self.ranges = True
        self.states_length = True
        self.chunked = False  # what has no stated length
        self.stated: int | None = None  # a length that is not the file's
        self.delay = 0.0
        self.before: Callable[[FileServer], None] = lambda _: None  # each answer with the file
        self.log: list[Asked] = []
        self._clock = clock or FakeClock()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def firsts(self) -> list[int]:
        """The first byte of each request for more than one."""
        return [asked.first for asked in self.log if not asked.probe]

    def pauses(self) -> list[float]:
        """Seconds between each request and the one before it."""
        return [after.at - before.at for before, after in zip(self.log, self.log[1:], strict=False)]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = re.match(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        first, last = (int(asked[1]), asked[2]) if asked else (0, "")
        probe = last == "0"

        def begin(status: int, headers: dict[str, str]) -> None:
            self.log.append(Asked(self._clock.now(), request.path, first, probe, dict(request.headers), status))
            request.send_response_only(status)
            for name, value in ({"Date": request.date_time_string()} | headers).items():
                request.send_header(name, value)
            request.end_headers()

        if self.statuses:
            status, headers = self.statuses.pop(0)
            return begin(status, {"Content-Length": "0", **headers})
        if "/resolve/" in request.path:
            sha256 = hashlib.sha256(self.content).hexdigest()
            return begin(302, {"Content-Length": "0", "Location": "/cdn/list.parquet", "X-Linked-Etag": f'"{sha256}"'})
        if "missing" in request.path:
            return begin(404, {"Content-Length": "0"})
        if not probe:
            self.before(self)
        size = len(self.content) if self.stated is None else self.stated
        part = asked is not None and self.ranges and request.headers.get("If-Range", self.etag) == self.etag
        if part and first >= len(self.content):
            return begin(416, {"Content-Length": "0", "Content-Range": f"bytes */{size}"})
        body = self.content[first : int(last) + 1 if last else None] if part else self.content
        headers = {"ETag": self.etag} if self.etag else {}
        if part:
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{size}"
        if self.states_length:
            lie = 0 if probe and part else size - len(self.content)
            headers["Content-Length"] = str(len(body) + lie)
        else:
            headers |= {"Transfer-Encoding": "chunked"} if self.chunked else {"Connection": "close"}
        begin(206 if part else 200, headers)
        whole = len(body)
        if not probe and self.cuts:
            self.cuts -= 1
            body = body[: self.cut_after]
            request.close_connection = True
        elif not probe and self.stalls:
            self.stalls -= 1
            request.wfile.write(body[: self.cut_after])
            self._closing.wait(60)
            request.close_connection = True
            return None
        for i in range(0, len(body), 4096):
            piece = body[i : i + 4096]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)
            if self.delay:
                time.sleep(self.delay)
        if self.chunked and len(body) == whole:
            request.wfile.write(b"0\r\n\r\n")
        if self.stated is not None:
            request.close_connection = True
        return None

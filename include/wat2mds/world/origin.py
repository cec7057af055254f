"""A local web server that answers for every host: the demo's web, a test's web, an archive's replay.

In: a source, that is a function from host and request target to an Answer, or None. Out: HTTP/1.1 on loopback with keep-alive,
HEAD, ranges, and a log of what was asked. The host is taken from the Host header, or from the target where the client uses the
origin as its proxy, so that a setting ``download.resolver=127.0.0.1:PORT`` is enough to reach it.
Guaranteed: what no source knows is 404; a connection is never closed after a well-formed request for a known method.
What does not belong here: what is answered (``demo_world.py``, ``replay.py``), TLS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mimetypes
import shutil
import signal
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from wat2mds.identity import normalize_url

log = logging.getLogger(__name__)
# RFC 9110 6.4.1: answers with these have no body.
_NO_BODY = {204, 304}
_IDLE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """One response. A path as body is read when it is asked for."""

    body: bytes | Path = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        return self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)


class Access(NamedTuple):
    """One line of the access log. ``connection`` tells connections apart; ``seconds`` is the time since the start."""

    host: str
    target: str
    method: str
    status: int
    sent: int
    user_agent: str
    connection: int
    seconds: float


Source = Callable[[str, str], Answer | None]


def address(url: str) -> str:
    """Under what a URL is looked up: normalised, without scheme and default port, because https arrives here as plain http."""
    normal = normalize_url(url)
    netloc, slash, rest = normal.partition("://")[2].partition("/")
    if netloc.endswith((":80", ":443")):
        netloc = netloc.rpartition(":")[0]
    return f"{netloc}{slash}{rest}"


class AnswerTable:
    """A source of answers by URL, http and https alike; can be kept in a folder, bodies as files."""

    _INDEX = "answers.json"

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def __call__(self, host: str, target: str) -> Answer | None:
        return self._answers.get(address(f"http://{host}{target}"))

    def __len__(self) -> int:
        return len(self._answers)

    def __contains__(self, url: str) -> bool:
        return address(url) in self._answers

    def add(self, url: str, answer: Answer) -> None:
        self._answers[address(url)] = answer

    def save(self, folder: Path) -> None:
        """Write all answers; the index comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        index = {}
        for number, (key, answer) in enumerate(sorted(self._answers.items())):
            suffix = Path(urlsplit(f"http://{key}").path).suffix
            name = f"{number:05d}{suffix if suffix.isascii() and len(suffix) < 6 else ''}"
            if isinstance(answer.body, Path):
                shutil.copyfile(answer.body, folder / name)
            else:
                (folder / name).write_bytes(answer.body)
            index[key] = {"file": name, "status": answer.status, "headers": [list(h) for h in answer.headers]}
        (folder / self._INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> AnswerTable:
        table = cls()
        for key, entry in json.loads((folder / cls._INDEX).read_text(encoding="utf-8")).items():
            headers = tuple((name, value) for name, value in entry["headers"])
            table._answers[key] = Answer(folder / entry["file"], entry["status"], headers)
        return table


def folder_source(folder: Path) -> Source:
    """A source of a folder's files by path, whatever the host; such as a mirror of Common Crawl."""
    root = folder.resolve()

    def answer(host: str, target: str) -> Answer | None:
        path = (root / unquote(urlsplit(target).path).lstrip("/")).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            return None
        kind = "application/octet-stream" if path.suffix == ".gz" else mimetypes.guess_type(path.name)[0]
        changed = formatdate(path.stat().st_mtime, usegmt=True)
        return Answer(path, headers=(("Content-Type", kind or "application/octet-stream"), ("Last-Modified", changed)))

    return answer


def first_of(*sources: Source) -> Source:
    """Asks one source after the other."""
    return lambda host, target: next((a for source in sources if (a := source(host, target)) is not None), None)


class Origin:
    """The server. ``with Origin(source) as origin: … origin.address …``, or ``origin.serve_forever()`` as a command."""

    def __init__(self, source: Source, port: int = 0, host: str = "127.0.0.1", log_size: int = 100_000) -> None:
        self.log: deque[Access] = deque(maxlen=log_size)
        self._server = _Server((host, port), source, self.log)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """``host:port``, as ``download.resolver`` wants it."""
        return f"{self._server.server_address[0]!s}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> Origin:
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"origin {self.address}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Origin:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def serve_forever(self) -> None:
        """Serve until SIGINT or SIGTERM; for the main thread of a command."""
        ended = threading.Event()

        def end(number: int, frame: FrameType | None) -> None:
            ended.set()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self:
                log.info("answering for every host on %s", self.url)
                ended.wait()
                log.info("%d requests answered", len(self.log))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # The default of 5 refuses a crawler's burst of new connections.
    request_queue_size = 1024

    def __init__(self, where: tuple[str, int], source: Source, accesses: deque[Access]) -> None:
        self.source = source
        self.accesses = accesses
        self.started = time.monotonic()
        self._open: dict[socket.socket, int] = {}
        self._connections = 0
        super().__init__(where, _Handler)

    def connection_number(self, connection: socket.socket) -> int:
        return self._open.get(connection, 0)

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up, which can take seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections += 1
        self._open[request] = self._connections
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("connection from %s ended", client_address, exc_info=True)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):  # idle keep-alive connections would outlive the server
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        host, target = self._asked()
        try:
            answer = self.server.source(host, target) if host else None
        except Exception:
            log.exception("the answer to %s%s failed", host, target)
            answer = Answer(b"the answer could not be made\n", 500, (("Content-Type", "text/plain; charset=utf-8"),))
        if answer is None:
            answer = Answer(f"nothing at {host}{target}\n".encode(), 404, (("Content-Type", "text/plain; charset=utf-8"),))
        self._send(host, target, answer)

    do_HEAD = do_GET

    def _asked(self) -> tuple[str, str]:
        """Host and path with query; the host is empty where it is no host."""
        # Not self.path, in which http.server makes one slash of several at the beginning. The target may hold bytes beyond
        # ASCII, which http.server reads as Latin-1.
        raw = self.requestline.split()[1].encode("latin-1").decode("utf-8", "replace")
        host = self.headers.get("Host", "").strip()
        if not raw.startswith("/"):
            parts = urlsplit(raw)
            host, raw = parts.netloc or host, raw.partition("://")[2].partition("/")[2]
            raw = f"/{raw}"
        try:
            address(f"http://{host}/")
        except ValueError:
            return "", raw
        return host, raw

    def _send(self, host: str, target: str, answer: Answer) -> None:
        status, start, length, extra = _part(answer, self.headers.get("Range"))
        lines = [f"HTTP/1.1 {status} {_reason(status)}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in (*answer.headers, *extra)]
        if status not in _NO_BODY:
            lines.append(f"Content-Length: {length}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        # Logged before it is sent: who has read an answer finds it in the log.
        self._log(host, target, status, length)
        # Head and body go out in one write: two small ones with Nagle's algorithm cost 40 ms an answer.
        if self.command == "HEAD" or status in _NO_BODY:
            self.wfile.write(head)
        elif isinstance(answer.body, Path):
            with answer.body.open("rb") as file:
                file.seek(start)
                self.wfile.write(head + file.read(min(length, 1 << 20)))
                for block in _blocks(file, length - (1 << 20)):
                    self.wfile.write(block)
        else:
            self.wfile.write(head + answer.body[start : start + length])

    def _log(self, host: str, target: str, status: int, sent: int) -> None:
        server = self.server
        agent = self.headers.get("User-Agent", "")
        number = server.connection_number(self.connection)
        seconds = time.monotonic() - server.started
        server.accesses.append(Access(host, target, self.command, status, sent, agent, number, seconds))

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _blocks(file: Any, length: int) -> Iterator[bytes]:
    while length > 0:
        block = file.read(min(length, 1 << 20))
        if not block:
            return
        length -= len(block)
        yield block


def _part(answer: Answer, wanted: str | None) -> tuple[int, int, int, list[tuple[str, str]]]:
    """Status, first byte, number of bytes and further headers, for a Range header of one range (RFC 9110 14)."""
    size = answer.size
    whole = (answer.status, 0, size, [("Accept-Ranges", "bytes")] if answer.status == 200 else [])
    if answer.status != 200 or not wanted or not wanted.startswith("bytes=") or "," in wanted:
        return whole
    first, dash, last = wanted.removeprefix("bytes=").strip().partition("-")
    if not dash or not (first or last) or not (first + last).isdigit():
        return whole
    start = int(first) if first else max(0, size - int(last))
    end = min(size - 1, int(last)) if first and last else size - 1
    if start > end:
        return 416, 0, 0, [("Content-Range", f"bytes */{size}")]
    return 206, start, end - start + 1, [("Content-Range", f"bytes {start}-{end}/{size}")]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"

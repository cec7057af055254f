"""HTTP/1.1 on one connection: a request written at once, an answer read with few calls of the kernel.

In: a connection's ``receive``. Out: http.client's response, whose transfer codings these are, with headers read by a tenth of the work
(http.client reads them with the parser of e-mail, urllib3 puts two more layers on top: together half of what a worker did). Guaranteed:
a line has at most 65,536 bytes and an answer at most 100 header lines; nothing beyond an answer is taken from the connection
unnoticed. What does not belong here: sockets, which know the deadline (``connections.py``); what an answer means (``fetch.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse, LineTooLong, UnknownProtocol
from typing import Any

_LINE_BYTES = 65536
_MOST_HEADERS = 100
_READ_BYTES = 1 << 16
_NOT_IN_A_REQUEST = re.compile(r"[\x00-\x20\x7f]")


class Headers:
    """By name in any case. ``get``: the values, joined."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(name.lower(), []).append(value)

    def getlist(self, name: str) -> list[str]:
        return self._values.get(name.lower(), [])

    def get(self, name: str, default: Any = None) -> Any:
        values = self._values.get(name.lower())
        return default if values is None else ", ".join(values)

    def all(self) -> dict[str, str]:
        return {name: ", ".join(values) for name, values in self._values.items()}


class Stream:
    """What a connection has received and nobody has read: as much of a file as http.client asks for. It outlives an answer."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._kept = b""
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at == len(self._kept)

    def makefile(self, *_: object) -> Stream:
        """As a socket, for http.client."""
        return self

    def readline(self, most: int = _LINE_BYTES) -> bytes:
        while (end := self._kept.find(b"\n", self._at)) < 0 and len(self._kept) - self._at < most:
            more = self._receive(_READ_BYTES)
            if not more:
                break
            self._kept, self._at = self._kept[self._at :] + more, 0
        return self._take(most if end < 0 else min(most, end + 1 - self._at))

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end of the connection, and none taken beyond them."""
        part = self._take(size)
        missing = size - len(part)
        if not missing:
            return part
        parts = [part]
        while missing and (part := self._receive(min(missing, _READ_BYTES))):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Of the answer: the connection stays."""

    def flush(self) -> None:
        """Nothing is written."""

    def _take(self, size: int) -> bytes:
        part = self._kept[self._at : self._at + size]
        self._at += len(part)
        return part


class Response(HTTPResponse):
    """An answer as far as its headers; ``read`` brings its body."""

    headers: Headers  # type: ignore[assignment]

    def __init__(self, stream: Stream) -> None:
        """Raises HTTPException, and whatever the connection's ``receive`` does."""
        super().__init__(stream, method="GET")  # type: ignore[arg-type]
        self.begin()

    def begin(self) -> None:
        while True:  # 100 Continue, 103 Early Hints, until the deadline
            version, self.code, reason = self._read_status()  # type: ignore[attr-defined]
            self.status, self.reason = self.code, reason.strip()
            self.headers = self.msg = _headers(self.fp)  # type: ignore[assignment]
            if not 100 <= self.status < 200 or self.status == 101:
                break
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise UnknownProtocol(version)
        self.version = 10 if version in ("HTTP/1.0", "HTTP/0.9") else 11
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        lengths = {length.strip() for value in self.headers.getlist("content-length") for length in value.split(",")}
        if len(lengths) > 1:
            raise HTTPException("several lengths")
        announced = "".join(lengths)
        self.length = int(announced) if announced.isdecimal() and not self.chunked else None
        if self.status in (204, 304) or 100 <= self.status < 200:
            self.length = 0
        self.will_close = self.will_close or (not self.chunked and self.length is None)


def request(target: str, host: str, headers: Mapping[str, str]) -> bytes:
    """A GET. Raises ValueError for a target or host that would be more than one word of it."""
    if _NOT_IN_A_REQUEST.search(target) or _NOT_IN_A_REQUEST.search(host):
        raise ValueError("a control character or a space in the URL")
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


def _headers(stream: Any) -> Headers:
    """As lenient as browsers: what is no header is passed over, a line that begins with a space goes on with the one before."""
    found = Headers()
    name = value = ""
    for _ in range(_MOST_HEADERS + 1):
        line = stream.readline(_LINE_BYTES + 1)
        if len(line) > _LINE_BYTES:
            raise LineTooLong("header line")
        text = line.decode("iso-8859-1")
        if text[:1] in (" ", "\t") and name and text.strip():
            value = f"{value} {text.strip()}"
            continue
        if name:
            found.add(name, value)
        if line in (b"\r\n", b"\n", b""):
            return found
        name, colon, value = text.partition(":")
        name, value = name.strip() if colon else "", value.strip()
    raise HTTPException(f"got more than {_MOST_HEADERS} headers")

"""Replays web archives: every URL archived in WARC files, answered as it was.

In: ``FILE.warc`` or ``.warc.gz``, any number. Out: a source for ``origin.py``. Offsets are indexed at the start, payloads read when
they are asked for. Guaranteed: the body is the entity itself, transfer and content codings undone; of several captures of one URL
the first with status 200 is served, else the first.
What does not belong here: serving (``origin.py``), rewriting links in pages: this replays for programs, not for browsers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecordType

from wat2mds.errors import DataError
from wat2mds.world.origin import Answer, Origin, address

log = logging.getLogger(__name__)
# Headers of one connection, not of the resource (RFC 9110 7.6.1), those that origin.py sets itself, and those that would bind a
# client to the original server.
_LEFT_OUT = {
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length", "content-range", "accept-ranges", "date", "alt-svc",
    "strict-transport-security",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.6.2: a token
# Some crawlers store a body decoded under the headers that it came with: where decoding fails, the bytes stand as they are.
_DECODINGS: tuple[Literal["all", "content", "transfer", "none"], ...] = ("all", "content", "transfer", "none")
_CODINGS = {"gzip", "x-gzip", "deflate", "br", "zstd"}


class _Place(NamedTuple):
    path: Path
    offset: int
    status: int


class Archive:
    """A source of what is archived in WARC files. Raises DataError for a file that holds nothing to replay."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: dict[str, _Place] = {}
        for path in paths:
            before = len(self._places)
            try:
                for url, place in _captures(path):
                    self._add(url, place)
            except OSError as error:
                raise DataError(f"{path} cannot be read as a WARC file: {error}") from error
            if len(self._places) == before:
                raise DataError(f"{path} holds no HTTP response or resource that could be replayed")
            log.info("%s: %d URLs to replay", path, len(self._places) - before)

    def __call__(self, host: str, target: str) -> Answer | None:
        place = self._places.get(address(f"http://{host}{target}"))
        return None if place is None else _read(place)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, url: str) -> bool:
        return address(url) in self._places

    def _add(self, url: str, place: _Place) -> None:
        try:
            key = address(url)
        except ValueError:
            log.debug("%s is no URL that can be asked for", url)
            return
        known = self._places.get(key)
        if known is None or (known.status != 200 and place.status == 200):
            self._places[key] = place


def serve_replay(paths: Iterable[Path], port: int = 0) -> Origin:
    """An origin that replays the files; start it, or let it serve in the foreground."""
    return Origin(Archive(paths), port)


def _captures(path: Path) -> Iterator[tuple[str, _Place]]:
    kinds = WarcRecordType.response | WarcRecordType.resource
    with path.open("rb") as file:
        for record in ArchiveIterator(file, record_types=kinds, parse_http=True):
            url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
            if not url.startswith(("http://", "https://")):
                continue
            if record.record_type == WarcRecordType.response:
                if not record.is_http or record.http_headers is None or record.http_headers.status_code is None:
                    continue
                status = record.http_headers.status_code
            else:
                status = 200
            yield url, _Place(path, record.stream_pos, status)


def _read(place: _Place) -> Answer:
    for decode in _DECODINGS:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            record = next(iter(ArchiveIterator(file, parse_http=True, auto_decode=decode)))
            try:
                body = record.reader.read()
            except OSError as error:
                log.debug("%s at %d cannot be decoded as %s: %s", place.path, place.offset, decode, error)
                continue
            captured = ("X-Archive-Datetime", record.headers.get("WARC-Date") or "")
            if record.record_type == WarcRecordType.resource:
                return Answer(body, headers=(("Content-Type", record.headers.get("Content-Type") or ""), captured))
            return Answer(body, place.status, (*_headers(record.http_headers), captured))
    return Answer(b"the archived record is damaged\n", 502, (("Content-Type", "text/plain; charset=utf-8"),))


def _headers(archived: Any) -> Iterator[tuple[str, str]]:
    for name, value in archived.items():
        lower = name.lower()
        if lower in _LEFT_OUT or (lower == "content-encoding" and value.strip().lower() in _CODINGS):
            continue
        # Archived headers may be damaged; a bad line would end the header block for a strict client.
        if _NAME.fullmatch(name):
            yield name, " ".join(value.split())

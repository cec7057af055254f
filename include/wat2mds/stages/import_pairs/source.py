"""Bringing one parquet file here: read in place where it is local, else fetched, resumed where it broke off, and checked.

In: a path or URL; ``#sha256=<hex>`` after it asks for that hash. Out: a local path. Guaranteed: what is returned has the length that the
server stated, and the checksum where one is known: the URL's own, the hub's (X-Linked-Etag), or S3's MD5. What was fetched of a file
outlives the attempt that fetched it, named by the server's tag, so that the next one goes on from there. What does not belong here:
what the file holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import httpx
from obstore.exceptions import BaseError

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.imports import hub_address
from wat2mds.settings import digest
from wat2mds.store import Store, file_hash, split

log = logging.getLogger(__name__)
TRIES = 6  # in a row without a byte of progress; further ones are the scheduler's business
FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_PIECE = 4 << 20
_KEEP_SECONDS = 7 * 24 * 3600
_LATER = {408, 429, 500, 502, 503, 504}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_TIMEOUT = httpx.Timeout(60, connect=20)


@dataclass(frozen=True)
class Source:
    """A file before it is fetched. ``tag`` changes with its content; ``size`` and hashes are None where nobody states them."""

    url: str
    size: int | None
    tag: str
    sha256: str | None = None
    md5: str | None = None
    token: str = ""

    @property
    def identity(self) -> str:
        return f"{self.size}:{self.sha256 or self.tag}"


def look_up(url: str, hub: str, token: str = "") -> Source:
    """What is known of a file without fetching it. Raises DataError where there is none."""
    address, _, fragment = url.partition("#")
    wanted = fragment.removeprefix("sha256=").lower() if fragment else None
    if wanted is not None and not _SHA256.fullmatch(wanted):
        raise ConfigError(f"{url}: after # stands sha256= and 64 hex digits, or nothing")
    on_hub = address.startswith("hf:")
    if on_hub:
        address = hub_address(address, hub)
    if address.startswith(("http:", "https:")):
        return _look_up_http(address, wanted, token if on_hub else "")
    store, name = _place(address)
    try:
        head = store.head(name)
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist") from error
    tag = head.tag.strip('"')
    md5 = tag if address.startswith("s3:") and _MD5.fullmatch(tag) else None
    return Source(address, head.size, tag, wanted, md5)


def _place(url: str) -> tuple[Store, str]:
    folder, name = split(url)
    store = Store(folder)
    # A local name comes percent-encoded out of a file: URL.
    return store, unquote(name) if store.local is not None else name


def _look_up_http(url: str, wanted: str | None, token: str) -> Source:
    with _client(token) as client:
        for pause in _pauses():
            try:
                # The first byte only: some servers answer HEAD wrongly, and addresses signed for GET refuse it.
                with client.stream("GET", url, headers={"Range": "bytes=0-0"}) as answer:
                    if answer.status_code not in _LATER:
                        _require_found(answer, url)
                        linked = [a.headers.get("x-linked-etag", "").strip('"') for a in (*answer.history, answer)]
                        sha256 = wanted or next((tag for tag in linked if _SHA256.fullmatch(tag)), None)
                        tag = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
                        return Source(url, _size(answer), tag, sha256, token=token)
                    why = f"status {answer.status_code}"
                    pause = max(pause, _retry_after(answer))
            except httpx.TransportError as error:
                why = repr(error)
            log.warning("%s: %s; asking again in %.0f s", url, why, pause)
            time.sleep(pause)
    raise TransientError(f"{url} cannot be reached: {why}")


def bring(source: Source, scratch: Path) -> Path:
    """The file as a local path; one that was fetched lies in ``scratch``."""
    store, name = _place(source.url)
    if store.local is not None:
        path = store.local / name
    else:
        path = scratch / "source.parquet"
        with _part(source, scratch) as part:
            if source.url.startswith("http"):
                _fetch_http(source, part)
            else:
                _fetch_store(source, store, name, part)
            _check(source, part)
            shutil.move(part, path)
        return path
    _check(source, path)
    return path


def _check(source: Source, path: Path) -> None:
    """Raises TransientError for what came damaged, and takes it away, so that the next attempt begins anew; DataError in place."""
    size = path.stat().st_size
    problem = ""
    if source.size is not None and size != source.size:
        problem = f"{size:,} bytes came, {source.size:,} were stated"
    elif source.sha256 is not None and (found := file_hash(path)) != source.sha256:
        problem = f"its SHA-256 is {found}, not {source.sha256}"
    elif source.md5 is not None and (found := _md5(path)) != source.md5:
        problem = f"its MD5 is {found}, not {source.md5}"
    if not problem:
        return
    if not source.url.startswith(("http", "s3:")):
        raise DataError(f"{source.url} is not the file that is meant: {problem}")
    path.unlink()
    raise TransientError(f"{source.url} came damaged: {problem}. It is fetched again from the start")


@contextmanager
def _part(source: Source, scratch: Path) -> Iterator[Path]:
    """Where the file is collected: a place that outlives the attempt, unless another attempt is at it or nothing tells versions apart."""
    base = Path(tempfile.gettempdir()) / f"wat2mds-{os.getuid()}" / "imports"
    base.mkdir(parents=True, exist_ok=True)
    for old in base.iterdir():
        if old.stat().st_mtime < time.time() - _KEEP_SECONDS:
            old.unlink(missing_ok=True)
    name = digest(source.url, source.size, source.tag, source.sha256)
    with (base / f"{name}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield scratch / "part"
            return
        part = base / f"{name}.part" if source.tag or source.sha256 else scratch / "part"
        if part.exists():
            log.info("%s: going on from %s bytes", source.url, f"{part.stat().st_size:,}")
        yield part


def _fetch_http(source: Source, part: Path) -> None:
    pauses = _pauses()
    with _client(source.token) as client:
        while True:
            have = part.stat().st_size if part.exists() else 0
            if source.size is not None and have >= source.size:
                return
            why = ""
            pause = 0.0
            try:
                with client.stream("GET", source.url, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
                    if answer.status_code in _LATER:
                        why, pause = f"status {answer.status_code}", _retry_after(answer)
                    else:
                        _require_found(answer, source.url)
                        _require_same(answer, source)
                        if answer.status_code == 206 and _start(answer) != have:
                            raise TransientError(f"{source.url}: asked from byte {have:,}, the server sent another part")
                        with part.open("ab" if answer.status_code == 206 else "wb", buffering=0) as out:
                            for piece in answer.iter_raw():  # unbuffered: what came is kept, whatever follows
                                out.write(piece)
                        if source.size is None:
                            return
            except httpx.TransportError as error:
                why = repr(error)
            if part.exists() and part.stat().st_size > have:
                pauses = _pauses()  # progress
            elif source.size is None or have < source.size:
                why = why or "the answer ended early"
            if why:
                wait = next(pauses, None)
                if wait is None:
                    raise TransientError(f"{source.url} broke off at {have:,} bytes: {why}. The next attempt goes on from there")
                log.warning("%s: %s at %s bytes; going on in %.0f s", source.url, why, f"{have:,}", max(wait, pause))
                time.sleep(max(wait, pause))


def _fetch_store(source: Source, store: Store, name: str, part: Path) -> None:
    try:
        with store.open(name) as stream, part.open("ab") as out:
            stream.seek(out.tell())
            while piece := bytes(stream.read(_PIECE)):
                out.write(piece)
    except BaseError as error:
        raise TransientError(f"{source.url} broke off: {error}. The next attempt goes on from there") from error


def _client(token: str) -> httpx.Client:
    # httpx takes the authorization away from a redirect to another host: the hub's signed addresses need none.
    headers = {"User-Agent": "wat2mds", "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers=headers)


def _pauses() -> Iterator[float]:
    return (min(FIRST_PAUSE * 2**i, _LONGEST_PAUSE) for i in range(TRIES))


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("retry-after", "")
    return min(float(value), _LONGEST_PAUSE) if value.isdecimal() else 0.0


def _require_found(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    if status in (401, 403):
        raise ConfigError(f"{url}: access denied ({status}). A gated dataset on the hub wants a token: WAT2MDS_HUB_TOKEN")
    if status in (404, 410):
        raise DataError(f"{url} does not exist ({status})")
    if status == 416 and _size(answer) == 0:
        raise DataError(f"{url} is empty")
    if status not in (200, 206):
        raise TransientError(f"{url} was answered with status {status}")


def _require_same(answer: httpx.Response, source: Source) -> None:
    """A file that was changed between two requests must not be pieced together."""
    tag = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
    if tag != source.tag or (source.size is not None and _size(answer) not in (None, source.size)):
        raise TransientError(f"{source.url} was changed while it was fetched: it is fetched again from the start")


def _size(answer: httpx.Response) -> int | None:
    """The whole file's size, as Content-Range or Content-Length states it."""
    whole = answer.headers.get("content-range", "").rpartition("/")[2]
    if whole.isdecimal():
        return int(whole)
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() and answer.status_code == 200 else None


def _start(answer: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return int(match[1]) if match else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

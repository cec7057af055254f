"""A unit's input: what is known of it before it is read, and its bytes, in place or brought here.

In: a path or URL (file:, s3:, http(s):). Out: a Source; of it a seekable stream of bounded memory, or a local path. Guaranteed: what is
read has the length that was stated and is of one state of the file; what is brought also has the checksum where one is known: the
caller's, the server's X-Linked-Etag, or S3's MD5. What was brought of a file outlives the attempt that did so, named by its tag, and the
next one goes on from there. What does not belong here: what the file holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from wat2mds import resume
from wat2mds.errors import DataError, TransientError
from wat2mds.settings import digest
from wat2mds.store import Store, file_hash, split

log = logging.getLogger(__name__)
_KEEP_SECONDS = 7 * 24 * 3600
_BUFFER = 1 << 20
_BEHIND = 4 << 20  # bytes kept behind the reader: a reader that seeks a little back asks nobody
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Source:
    """A file before it is read. ``tag`` changes with its content; ``size`` and hashes are None where nobody states them."""

    url: str
    size: int | None
    tag: str
    sha256: str | None = None
    md5: str | None = None
    token: str = ""

    @property
    def identity(self) -> str:
        return f"{self.size}:{self.sha256 or self.tag}"

    @property
    def remote(self) -> bool:
        return self.url.startswith(("http:", "https:", "s3:"))


def look_up(url: str, *, sha256: str | None = None, token: str = "", access: str = "") -> Source:
    """What is known of a file without reading it. ``access``: what to do where access is denied (``resume.look``).

    Raises DataError where there is no such file, ConfigError where access is denied, TransientError.
    """
    if url.startswith(("http:", "https:")):
        size, tag, linked = resume.look(url, token, access)
        return Source(url, size, tag, sha256 or next((t for t in linked if _SHA256.fullmatch(t)), None), token=token)
    try:
        if url.startswith("s3:"):
            size, tag = resume.look_in_store(url)
            return Source(url, size, tag, sha256, tag if _MD5.fullmatch(tag) else None)
        store, name = _local(url)
        head = store.head(name)
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist") from error
    return Source(url, head.size, head.tag, sha256)


def _local(url: str) -> tuple[Store, str]:
    folder, name = split(url)
    # The name comes percent-encoded out of a file: URL.
    return Store(folder), unquote(name)


@contextmanager
def open_source(source: Source, scratch: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A seekable stream of the file and its size in bytes; a file whose size nobody states is brought to ``scratch`` first."""
    if source.remote and source.size is not None:
        reader = _Reader(source, source.size)
        with io.BufferedReader(reader, _BUFFER) as stream:
            yield stream, source.size
        return
    path = bring(source, scratch)
    with path.open("rb") as file:
        yield file, path.stat().st_size


def read(source: Source) -> bytes:
    """All of a file that is small."""
    if source.remote:
        return b"".join(resume.stream(source.url, source.size, source.tag, 0, source.token))
    store, name = _local(source.url)
    return store.read(name)


class _Reader(io.RawIOBase):
    """A remote file, read as one stream while its reader goes forward, from another byte where it seeks far."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        self._position = 0
        self._pieces: Any = None
        self._start_at(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        position = self._position
        if position >= self._size:
            return 0
        if position < self._first or position > self._next + _BEHIND:
            self._start_at(position)
        while self._next <= position:
            self._take()
        for start, piece in reversed(self._kept):
            if start <= position:
                data = memoryview(piece)[position - start : position - start + len(buffer)]
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        raise AssertionError("what is kept has no gaps")

    def close(self) -> None:
        if not self.closed:
            self._pieces.close()
        super().close()

    def _start_at(self, position: int) -> None:
        if self._pieces is not None:
            self._pieces.close()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._first = self._next = position
        source = self._source
        self._pieces = resume.stream(source.url, source.size, source.tag, position, source.token)

    def _take(self) -> None:
        piece = next(self._pieces)
        self._kept.append((self._next, piece))
        self._next += len(piece)
        while self._kept[0][0] + len(self._kept[0][1]) < self._next - _BEHIND:
            self._kept.popleft()
        self._first = self._kept[0][0]


def bring(source: Source, scratch: Path) -> Path:
    """The file as a local path: itself where it is local, else what is brought into ``scratch``. Raises as ``look_up``."""
    if not source.remote:
        store, name = _local(source.url)
        assert store.local is not None
        path = store.local / name
        _check(source, path)
        return path
    path = scratch / "source"
    with _part(source, scratch) as part:
        with part.open("ab", buffering=0) as out:  # unbuffered: what came is kept, whatever follows
            for piece in resume.stream(source.url, source.size, source.tag, out.tell(), source.token):
                out.write(piece)
        _check(source, part)
        shutil.move(part, path)
    return path


def _check(source: Source, path: Path) -> None:
    """Raises TransientError for what came damaged, and takes it away, so that the next attempt begins anew; DataError in place."""
    size = path.stat().st_size
    problem = ""
    if source.size is not None and size != source.size:
        problem = f"{size:,} bytes came, {source.size:,} were stated"
    elif source.sha256 is not None and (found := file_hash(path)) != source.sha256:
        problem = f"its SHA-256 is {found}, not {source.sha256}"
    elif source.md5 is not None and (found := _file_md5(path)) != source.md5:
        problem = f"its MD5 is {found}, not {source.md5}"
    if not problem:
        return
    if not source.remote:
        raise DataError(f"{source.url} is not the file that is meant: {problem}")
    path.unlink()
    raise TransientError(f"{source.url} came damaged: {problem}. It is fetched again from the start")


@contextmanager
def _part(source: Source, scratch: Path) -> Iterator[Path]:
    """Where the file is collected: a place that outlives the attempt, unless another attempt is at it or nothing tells versions apart."""
    base = Path(tempfile.gettempdir()) / f"wat2mds-{os.getuid()}" / "sources"
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
        lasting = source.size is not None and (source.tag or source.sha256)
        part = base / f"{name}.part" if lasting else scratch / "part"
        if part.exists():
            log.info("%s: going on from %s bytes", source.url, f"{part.stat().st_size:,}")
        yield part


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

"""The object store: whole objects, written atomically, created at most once, on ``file:`` and ``s3:``; read-only on ``http(s):``.

In: a URL (a bare path means ``file:``). Guaranteed: ``write`` and ``create`` are atomic (a reader sees all or nothing) and of two
``create`` calls for one path exactly one returns True, on both kinds of store. Swaps are creates of numbered objects, because
a conditional overwrite does not exist on ``file:``. A write that returns is stored: a lost answer, a cut connection and a byte damaged
on the way are noticed and tried again, with backoff and jitter, within the deployment's ``store_`` settings. S3 credentials, region and
endpoint come from the usual AWS_ variables. ``gs:`` and ``az:`` are refused: obstore knows them, but nothing here has been tried there.
What does not belong here: what the objects mean (``manifest.py``, the stages).
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import HTTPStore, LocalStore

from wat2mds import s3
from wat2mds.errors import ConfigError, TransientError
from wat2mds.layout import Layout as Layout
from wat2mds.layout import join as join
from wat2mds.layout import normalize as normalize
from wat2mds.layout import split as split
from wat2mds.ranged import Ranged
from wat2mds.settings import Deployment, deployment

log = logging.getLogger(__name__)
T = TypeVar("T")
# Tries of what the client gives up at once: a timeout of a request that is not safe to repeat unseen, an answer 400 to a damaged body.
TRIES = 3
_CREATOR = "wat2mds-create"  # the metadata that says which call created an object


class Object(NamedTuple):
    """One stored object: path below the store's URL, size in bytes, a tag that changes with its content, time of its last write (UTC)."""

    path: str
    size: int
    tag: str
    modified: datetime


class _Taken(Exception):
    """An object of this name is there already, or is being made."""


class Store:
    """Objects below one URL."""

    def __init__(self, url: str, *, retry: bool = True) -> None:
        """``retry=False``: for who has a pace of its own, such as the reader of sources (``resume.py``)."""
        self.url = normalize(url)
        parts = urlsplit(self.url)
        self.local = Path(unquote(parts.path)) if parts.scheme == "file" else None
        self._is_s3 = parts.scheme == "s3"
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._deployment = Deployment() if self.local is not None else deployment()
        if not retry:
            self._deployment = self._deployment.model_copy(update={"store_retries": 0, "store_retry_seconds": 0})
        # LocalStore wants an existing folder; it is made on the first write so that reading a wrong path leaves nothing.
        self._backend: Any = None
        with self._translated("open", ""):
            if self.local is not None:
                self._backend = LocalStore(self.local, mkdir=True) if self.local.is_dir() else None
            elif self._is_s3:
                self._backend = s3.client(self._bucket, self._prefix, self._deployment)
            else:
                options: Any = {"allow_http": parts.scheme == "http", "timeout": "600s"}
                self._backend = HTTPStore(self.url, client_options=options, retry_config=s3.retries(self._deployment))

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        return self._tried(lambda: self._read_once(path))

    def read_range(self, path: str, start: int, end: int, tag: str) -> bytes:
        """Bytes ``start`` to ``end`` of an object as long as it has this tag. Raises FileNotFoundError."""
        options: Any = {"range": (start, end), "if_match": f'"{tag}"'}
        try:
            with self._translated("read", path):
                return bytes(obstore.get(self._reader(path), path, options=options).bytes())
        except _Taken:
            raise TransientError(f"{join(self.url, path)} was replaced while it was read") from None

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges of bytes, start to end, of one object; near ones in one request. Raises FileNotFoundError."""
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        found = self._asked("read", path, lambda: obstore.get_ranges(self._reader(path), path, starts=starts, ends=ends))
        return [bytes(part) for part in found]

    def read_json(self, path: str) -> Any:
        return json.loads(self.read(path))

    @contextmanager
    def open(self, path: str) -> Iterator[Any]:
        """A seekable binary reader that fetches by range; nothing is held whole. Raises FileNotFoundError."""
        if self.local is not None:
            with self._translated("open", path):
                file = (self.local / path).open("rb")
            with file:
                yield file
            return
        with self._translated("open", path):
            reader = obstore.open_reader(self._reader(path), path, buffer_size=4 << 20)
        with Ranged(reader) as ranged:
            yield ranged

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write or replace one object atomically; on S3 a large one in parts, if the client thinks so."""

        def attempt() -> None:
            with self._translated("write", path):
                tag = obstore.put(self._writer(), path, data, mode="overwrite", use_multipart=self._is_s3 and None)["e_tag"]
            self._require_stored(path, data, tag)

        self._tried(attempt)

    def create(self, path: str, data: bytes) -> bool:
        """Write one object if none is there; False if there was. Of several at once, exactly one gets True.

        Also where the answer to the winner's request is lost and the request, tried again, finds the winner's own object: the object's
        metadata says which call made it. TransientError leaves it open whether the object was made.
        """
        if self.local is not None:
            with self._translated("create", path):
                try:
                    obstore.put(self._writer(), path, data, mode="create", use_multipart=False)
                except AlreadyExistsError:
                    return False
                return True
        token = secrets.token_hex(8)

        def attempt() -> bool:
            try:
                with self._translated("create", path):
                    labels = {_CREATOR: token}
                    tag = obstore.put(self._writer(), path, data, mode="create", use_multipart=False, attributes=labels)["e_tag"]
            except (_Taken, TransientError) as error:
                creator, tag = self._creator(path)
                if creator != token:
                    if isinstance(error, _Taken) and tag:
                        return False
                    # Failed; or S3's 409 while another's create is under way, which may yet fail.
                    raise TransientError(f"cannot create {join(self.url, path)}: {error}") from None
            if tag != s3.tag_of(data) and self._read_once(path) != data:  # ours, but damaged on the way
                self.write(path, data)
            return True

        return self._tried(attempt)

    def put_file(self, source: Path, path: str, part_bytes: int = s3.PART_BYTES) -> None:
        """Upload one local file, in parts of ``part_bytes`` when it is larger."""

        def attempt() -> None:
            try:
                with self._translated("write", path):
                    obstore.put(
                        self._writer(), path, source, mode="overwrite", chunk_size=part_bytes, max_concurrency=s3.PARTS_AT_ONCE
                    )
            except TransientError:
                if not self.holds(source, path, part_bytes):
                    raise
                log.info("%s is stored; the answer had been lost", join(self.url, path))

        self._tried(attempt)

    def holds(self, source: Path, path: str, part_bytes: int = s3.PART_BYTES) -> bool:
        """Whether the store's own size and checksum (S3's ETag) of an object are a local file's, uploaded in parts of ``part_bytes``.

        False proves nothing: the store may give no checksum, or one of another kind, as S3 does with a key of one's own.
        """
        if not self._is_s3:
            return False
        try:
            found = self.head(path)
        except FileNotFoundError:
            return False
        return found.size == source.stat().st_size and found.tag == s3.tag_of_file(source, part_bytes)

    def abort_uploads(self, prefix: str = "", before: datetime | None = None, *, dry_run: bool = False) -> int:
        """End multipart uploads below a folder that nobody finished (``s3.abort_uploads``). Returns how many; raises TransientError."""
        if not self._is_s3:
            return 0
        return s3.abort_uploads(self._bucket, join(self._prefix, prefix).strip("/") + "/", before, dry_run=dry_run)

    def get_file(self, path: str, target: Path) -> Path:
        """Download to a local file, streamed; the file is there when it is whole. Raises FileNotFoundError."""
        partial = target.with_name(f"{target.name}.partial")

        def attempt() -> None:
            with self._translated("read", path), partial.open("wb") as out:
                for part in obstore.get(self._reader(path), path).stream(min_chunk_size=4 << 20):
                    out.write(part)

        try:
            self._tried(attempt)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def copy(self, path: str, to: str) -> None:
        """An object once more under another path, by the store itself; on ``file:`` a hard link. Raises FileNotFoundError."""
        self._asked("copy", path, lambda: obstore.copy(self._writer(), path, to))

    def head(self, path: str) -> Object:
        """Raises FileNotFoundError."""
        return _object(self._asked("look up", path, lambda: obstore.head(self._reader(path), path)))

    def exists(self, path: str) -> bool:
        try:
            self.head(path)
        except FileNotFoundError:
            return False
        return True

    def walk(self, prefix: str = "") -> list[Object]:
        """All objects below a folder, sorted by path."""
        if self.local is not None and not (self.local / prefix).is_dir():
            return []
        found = self._listed(prefix, lambda *place: obstore.list(*place).collect())
        return sorted(map(_object, found))

    def names(self, prefix: str = "") -> tuple[list[str], list[str]]:
        """Names of the objects and of the folders directly in a folder, sorted."""
        if self.local is not None and not (self.local / prefix).is_dir():
            return [], []
        found = self._listed(prefix, obstore.list_with_delimiter)
        files = sorted(meta["path"].rpartition("/")[2] for meta in found["objects"])
        return files, sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def delete(self, path: str) -> None:
        """Delete one object; nothing there is no error."""
        with suppress(FileNotFoundError), self._translated("delete", path):
            obstore.delete(self._writer(), path)

    def delete_tree(self, prefix: str) -> None:
        """Delete all objects below a folder; nothing there is no error."""
        if self.local is not None:
            shutil.rmtree(self.local / prefix, ignore_errors=True)
            return
        paths = [entry.path for entry in self.walk(prefix)]
        if paths:
            with self._translated("delete", prefix):
                obstore.delete(self._backend, paths)

    def put_tree(self, folder: Path, prefix: str) -> None:
        """Bring a local folder's files under ``prefix``: a rename where the file system allows it, else uploads."""
        if self.local is not None:
            target = self.local / prefix
            with self._translated("write", prefix):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder, target)
            return
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        try:
            for path in paths:
                self.put_file(path, join(prefix, path.relative_to(folder).as_posix()))
        finally:
            if any(path.stat().st_size > s3.PART_BYTES for path in paths):
                self.abort_uploads(prefix)

    def _reader(self, path: str) -> Any:
        if self._backend is None:
            if self.local is None or not self.local.is_dir():
                raise FileNotFoundError(f"{join(self.url, path)} does not exist")
            self._backend = LocalStore(self.local)
        return self._backend

    def _writer(self) -> Any:
        if urlsplit(self.url).scheme in ("http", "https"):
            raise ConfigError(f"{self.url}: http(s): is for reading only")
        if self._backend is None and self.local is not None:
            self._backend = LocalStore(self.local, mkdir=True)
        return self._backend

    def _listed(self, prefix: str, lister: Callable[..., Any]) -> Any:
        return self._asked("list", prefix, lambda: lister(self._reader(prefix), prefix or None))

    def _creator(self, path: str) -> tuple[str, str]:
        """Which call of ``create`` made an object, and its ETag; empty where there is none."""
        try:
            with self._translated("look up", path):
                found = obstore.get(self._backend, path, options={"head": True})
        except FileNotFoundError:
            return "", ""
        return found.attributes.get(_CREATOR, ""), found.meta.get("e_tag") or ""

    def _read_once(self, path: str) -> bytes:
        with self._translated("read", path):
            found = obstore.get(self._reader(path), path)
            data = bytes(found.bytes())
            tag = found.meta.get("e_tag") or ""
            if self._is_s3 and s3.is_plain_md5(tag) and tag != s3.tag_of(data):
                # Damaged on the way, or an ETag that is no MD5: then a second look sees the same.
                again = bytes(obstore.get(self._reader(path), path).bytes())
                if again != data and tag != s3.tag_of(again):
                    raise TransientError(f"{join(self.url, path)} reads differently each time: the way to the store damages it")
                return again
            return data

    def _require_stored(self, path: str, data: bytes | memoryview, tag: str | None) -> None:
        if self._is_s3 and tag != s3.tag_of(data) and self._read_once(path) != data:
            raise TransientError(f"{join(self.url, path)} does not read back as written: is the store sound?")

    def _asked(self, verb: str, path: str, act: Callable[[], T]) -> T:
        def attempt() -> T:
            with self._translated(verb, path):
                return act()

        return self._tried(attempt)

    def _tried(self, act: Callable[[], T]) -> T:
        """``act``, again where it fails at an object store, as long as the client itself would have tried."""
        if self.local is not None:
            return act()
        started = time.monotonic()
        for attempt in range(1, TRIES):
            try:
                return act()
            except TransientError as error:
                if time.monotonic() - started > self._deployment.store_retry_seconds / 2:
                    raise
                log.info("%s; tried again", error)
                time.sleep(random.uniform(0, self._deployment.store_backoff * 2**attempt))
        return act()

    @contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        """Store errors as errors that say what to do next; FileNotFoundError stays as it is.

        The client's exception is not chained: it holds the store's whole answer, which may repeat credentials.
        """
        where = join(self.url, path)
        try:
            yield
        except FileNotFoundError as error:
            code = s3.code_of(error)
            if code == "NoSuchUpload" or (code and s3.is_fatal(code)):
                raise s3.explained(error, verb, where) from None
            if verb in ("write", "create") and self._is_s3:
                raise ConfigError(
                    f"cannot {verb} {where}: the store answered 404 to a write. Check the bucket in the URL and AWS_ENDPOINT_URL"
                ) from None
            raise FileNotFoundError(f"{where} does not exist") from None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise s3.explained(error, verb, where, denied=True) from None
        except (AlreadyExistsError, PreconditionError):
            raise _Taken(f"{where} is there already") from None
        except UnknownConfigurationKeyError as error:
            raise ConfigError(f"cannot {verb} {where}: {s3.said(error)}") from None
        except (BaseError, OSError) as error:
            raise s3.explained(error, verb, where) from None


def _object(meta: Any) -> Object:
    return Object(meta["path"], meta["size"], meta.get("e_tag") or "", meta["last_modified"])


def fetch(url: str, folder: Path) -> Path:
    """A local path with the object's bytes: the file itself on ``file:``, else a download into ``folder``."""
    parent, name = split(url)
    store = Store(parent)
    if store.local is not None:
        path = store.local / name
        if not path.is_file():
            raise FileNotFoundError(f"{url} does not exist")
        return path
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"
    return target if target.exists() else store.get_file(name, target)


def file_hash(path: Path) -> str:
    """SHA-256 of a local file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

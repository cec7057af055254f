"""The object store: whole objects, written atomically, created at most once, on ``file:`` and ``s3:``; read-only on ``http(s):``.

In: a URL (a bare path means ``file:``). Guaranteed: ``write`` and ``create`` are atomic (a reader sees all or nothing) and of two
``create`` calls for one path exactly one returns True, on both kinds of store. Swaps are creates of numbered objects, because
a conditional overwrite does not exist on ``file:``. S3 credentials, region and endpoint come from the usual AWS_ variables.
What does not belong here: what the objects mean (``manifest.py``, the stages).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
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
from obstore.store import HTTPStore, LocalStore, S3Store

from wat2mds.errors import ConfigError, TransientError

log = logging.getLogger(__name__)
SCHEMES = ("file", "s3", "http", "https")
# Ten tries within two minutes ride out a store's restart; more is the scheduler's business.
RETRY: Any = {
    "max_retries": 10,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=15), "base": 2},
}


class Object(NamedTuple):
    """One stored object: path below the store's URL, size in bytes, and a tag that changes with its content."""

    path: str
    size: int
    tag: str


def normalize(url: str) -> str:
    """``/data/x`` and ``file:/data/x`` become ``file:///data/x``; trailing slashes go. Raises ConfigError for other schemes."""
    if not url:
        raise ConfigError("no store is named: set WAT2MDS_ROOT to file:///a/folder or s3://bucket/prefix")
    if "://" not in url and not url.startswith("file:"):
        return Path(url).absolute().as_uri().rstrip("/")
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"{url}: scheme {scheme!r} is not supported; use file:, s3:, or http(s): for reading")
    if scheme == "file":
        return Path(unquote(urlsplit(url).path)).absolute().as_uri().rstrip("/")
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """``join("s3://b/p", "work", "00017")`` is ``"s3://b/p/work/00017"``."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts if part)])


def split(url: str) -> tuple[str, str]:
    """Folder URL and object name."""
    folder, _, name = normalize(url).rpartition("/")
    return folder, name


class _Ranged(io.RawIOBase):
    """obstore's reader as Python's own kind of file, which Arrow asks for."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = memoryview(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


class Store:
    """Objects below one URL."""

    def __init__(self, url: str) -> None:
        self.url = normalize(url)
        parts = urlsplit(self.url)
        self.local = Path(unquote(parts.path)) if parts.scheme == "file" else None
        with self._translated("open", ""):
            if self.local is not None:
                # LocalStore wants an existing folder; it is made on the first write so that reading a wrong path leaves nothing.
                self._backend: Any = LocalStore(self.local, mkdir=True) if self.local.is_dir() else None
            elif parts.scheme == "s3":
                options: Any = {"allow_http": True, "timeout": "120s"}
                prefix = parts.path.strip("/") or None
                self._backend = S3Store(parts.netloc, prefix=prefix, client_options=options, retry_config=RETRY)
            else:
                options = {"allow_http": parts.scheme == "http", "timeout": "600s"}
                self._backend = HTTPStore(self.url, client_options=options, retry_config=RETRY)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        with self._translated("read", path):
            return bytes(obstore.get(self._reader(path), path).bytes())

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
        with _Ranged(reader) as ranged:
            yield ranged

    def write(self, path: str, data: bytes) -> None:
        """Write or replace one object atomically."""
        with self._translated("write", path):
            obstore.put(self._writer(), path, data, mode="overwrite")

    def create(self, path: str, data: bytes) -> bool:
        """Write one object if none is there; False if there was. Of several at once, exactly one gets True."""
        with self._translated("create", path):
            try:
                obstore.put(self._writer(), path, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # A lost answer to a successful create, tried again inside the client, also ends here: ours if it reads as ours.
                return bool(self.read(path) == data) and self.local is None
            return True

    def put_file(self, source: Path, path: str) -> None:
        """Upload one local file, in parts when it is large."""
        with self._translated("write", path):
            obstore.put(self._writer(), path, source, mode="overwrite", chunk_size=16 << 20)

    def get_file(self, path: str, target: Path) -> Path:
        """Download to a local file, streamed. Raises FileNotFoundError."""
        with self._translated("read", path), target.open("wb") as out:
            for part in obstore.get(self._reader(path), path).stream(min_chunk_size=4 << 20):
                out.write(part)
        return target

    def head(self, path: str) -> Object:
        """Raises FileNotFoundError."""
        with self._translated("look up", path):
            meta = obstore.head(self._reader(path), path)
        return Object(meta["path"], meta["size"], meta.get("e_tag") or "")

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
        with self._translated("list", prefix):
            found = obstore.list(self._reader(prefix), prefix or None).collect()
        return sorted(Object(meta["path"], meta["size"], meta.get("e_tag") or "") for meta in found)

    def names(self, prefix: str = "") -> tuple[list[str], list[str]]:
        """Names of the objects and of the folders directly in a folder, sorted."""
        if self.local is not None and not (self.local / prefix).is_dir():
            return [], []
        with self._translated("list", prefix):
            found = obstore.list_with_delimiter(self._reader(prefix), prefix or None)
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
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put_file(path, join(prefix, path.relative_to(folder).as_posix()))

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

    @contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        """Store errors as errors that say what to do next; FileNotFoundError stays as it is."""
        where = join(self.url, path)
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where} does not exist") from error
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise ConfigError(
                f"cannot {verb} {where}: access denied. Check the credentials (Airflow connection wat2mds_store, or AWS_ variables) "
                f"and the rights on this path"
            ) from error
        except UnknownConfigurationKeyError as error:
            raise ConfigError(f"cannot {verb} {where}: {_first_line(error)}") from error
        except (BaseError, OSError) as error:
            raise TransientError(f"cannot {verb} {where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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


class Layout:
    """Where the parts of one dataset lie: one function per kind of path, all URLs (design.md, Store)."""

    def __init__(self, root: str, dataset: str) -> None:
        self.root = normalize(root)
        self.dataset = join(self.root, "datasets", dataset)

    @classmethod
    def of(cls, dataset_url: str) -> Layout:
        """From a dataset's own URL, ``<root>/datasets/<name>``."""
        parent, name = split(dataset_url)
        root, folder = split(parent)
        if folder != "datasets":
            raise ConfigError(f"{dataset_url} is not a dataset's folder: expected <root>/datasets/<name>")
        return cls(root, name)

    @property
    def registry(self) -> str:
        return join(self.root, "registry")

    def settings(self, digest: str) -> str:
        return join(self.dataset, "settings", f"{digest}.json")

    def work(self, snapshot: str, segment: str, wat_file: str) -> str:
        return join(self.dataset, "work", snapshot, segment, wat_file)

    def stage(self, snapshot: str, segment: str, wat_file: str, stage: str) -> str:
        return join(self.work(snapshot, segment, wat_file), stage)

    @property
    def ledger(self) -> str:
        return join(self.dataset, "ledger")

    @property
    def metadata(self) -> str:
        return join(self.dataset, "metadata")

    @staticmethod
    def unit_name(snapshot: str, segment: str, wat_file: str, digest: str) -> str:
        """Name of a WAT file's folder under shards/ and embeddings/."""
        return f"{snapshot}.{segment}.{wat_file}.{digest}"

    def shards(self, unit_name: str) -> str:
        return join(self.dataset, "shards", unit_name)

    def embeddings(self, unit_name: str) -> str:
        return join(self.dataset, "embeddings", unit_name)

    @staticmethod
    def version_path(number: int) -> str:
        """Path of a version record below the dataset's folder."""
        return f"versions/{number:06d}/version.json"

    @property
    def reports(self) -> str:
        return join(self.dataset, "reports")

    @staticmethod
    def quality_path(unit_key: str, digest: str, suffix: str) -> str:
        """Path of validate's report on a WAT file below reports/; ``suffix``: json or html."""
        return f"quality/{unit_key}.{digest}.{suffix}"

"""Files that say what a site allows, asked for once a day by all processes and tasks of one machine that share a folder.

In: the URL of such a file, and how to fetch it. Out: what was read from it. Guaranteed: an answer is used for at most 24 hours, a
failure to get one for at most one; of all processes one asks while the others wait; an answer outlives whoever fetched it; the store
keeps at most ``MOST_BYTES`` of texts; a store that fails costs a request more, never an image. What does not belong here: what the
files mean (``robots.py``), requests (``fetch.py``).
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from wat2mds.drops import DropReason
from wat2mds.stages.download.hosts import Hosts, Permit, private
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.turns import Turn

log = logging.getLogger(__name__)
KEEP_SECONDS = 24 * 3600  # RFC 9309 2.4: not used for more than 24 hours
KEEP_FAILURE_SECONDS = 3600  # a host that is back within the hour is not lost for the day
MOST_BYTES = 1 << 28
_PRUNE_EVERY = 1000  # texts written by one process
_KEEP_IN_MEMORY = 4096
_LOOK_AGAIN = 0.1  # seconds: how often to look whether another fetch has brought the text
T = TypeVar("T")


class SiteText(NamedTuple):
    """What came of asking for a file: status and body, or the reason why there was no answer. ``fetched``: seconds since 1970."""

    status: int | None
    body: bytes
    reason: DropReason | None
    message: str
    fetched: float

    @property
    def failed(self) -> bool:
        return self.status is None or self.status >= 500

    def fresh(self, now: float) -> bool:
        """Also false for one from the future: a clock that was set back keeps nothing alive."""
        return 0 <= now - self.fetched < (KEEP_FAILURE_SECONDS if self.failed else KEEP_SECONDS)


class SiteStore:
    """The texts, in an SQLite database that any number of processes use at a time."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, most_bytes: int = MOST_BYTES) -> None:
        self.clock = clock
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._written = 0
        self._database: sqlite3.Connection | None = None
        path = private(folder) / "sites.sqlite"
        try:
            with (folder / "sites.lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two that make the database at once would find it locked
                self._database = self._open(path)
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be used, each process asks for robots.txt itself: %s", path, error)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    def get(self, url: str) -> SiteText | None:
        """The text of at most a day ago."""
        row = self._run("SELECT status, body, reason, message, fetched FROM texts WHERE url = ?", url)
        if row is None:
            return None
        try:
            status, body, reason, message, fetched = row
            text = SiteText(status, zlib.decompress(body), DropReason.__call__(reason) if reason else None, message, fetched)
        except (ValueError, TypeError, zlib.error):  # another version's
            return None
        return text if text.fresh(self.clock()) else None

    def put(self, url: str, text: SiteText) -> None:
        body = zlib.compress(text.body, 1)
        reason = None if text.reason is None else str(text.reason)
        self._run(
            "INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?, ?)", url, text.status, body, reason, text.message, text.fetched
        )
        self._written += 1
        if self._written % _PRUNE_EVERY == 1:
            self._prune()

    def _prune(self) -> None:
        """Leave out what is too old, and of the rest the oldest quarter where there is too much."""
        self._run("DELETE FROM texts WHERE fetched < ?", self.clock() - KEEP_SECONDS)
        row = self._run("SELECT count(*), total(length(body) + length(url)) FROM texts")
        if row is not None and row[1] > self._most_bytes:
            oldest = "SELECT url FROM texts ORDER BY fetched LIMIT ?"
            self._run(f"DELETE FROM texts WHERE url IN ({oldest})", -(-row[0] // 4))

    def _run(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        if self._database is None:
            return None
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._database.execute(statement, values).fetchone()
                return row
        except sqlite3.Error as error:
            log.warning("the store of robots.txt files: %s", error)
            return None

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = OFF")  # a crash of the machine may cost the store, which is asked for again
            database.execute(
                "CREATE TABLE IF NOT EXISTS texts "
                "(url TEXT PRIMARY KEY, status INTEGER, body BLOB, reason TEXT, message TEXT, fetched REAL)"
            )
            database.execute("CREATE INDEX IF NOT EXISTS by_age ON texts (fetched)")
        except sqlite3.Error:
            database.close()
            raise
        return database


class SiteFiles(Generic[T]):
    """One kind of file, such as /robots.txt; ``read`` makes of its text what is kept in memory."""

    def __init__(
        self,
        path: str,
        read: Callable[[SiteText], T],
        fetch: Callable[[str], Generator[Turn, Permit, tuple[int, bytes]]],
        store: SiteStore,
        hosts: Hosts,
    ) -> None:
        self._path = path
        self._read = read
        self._fetch = fetch
        self._store = store
        self._hosts = hosts
        self._known: OrderedDict[str, tuple[SiteText, T]] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, authority: str) -> T | None:
        """Where the file of ``https://host:port`` was asked for before, here or by another process; else None."""
        with self._lock:
            found = self._known.get(authority)
        if found is not None and found[0].fresh(self._store.clock()):
            return found[1]
        text = self._store.get(authority + self._path)
        return None if text is None else self._remember(authority, text)

    def ask(self, authority: str) -> Generator[Turn, Permit, T]:
        """Ask for it, or wait until whoever does has it. Raises Refused(HOST_RESTING) where the host may not be asked now."""
        url = authority + self._path
        host = urlsplit(authority).hostname or ""
        while not self._hosts.claim(url):
            yield Turn(host, _LOOK_AGAIN, whole_host=True)
            found = self.known(authority)
            if found is not None:
                return found
        try:
            found = self.known(authority)  # it may have come while the claim was another's
            if found is not None:
                return found
            text = yield from self._text(url)
            self._store.put(url, text)
            return self._remember(authority, text)
        finally:
            self._hosts.unclaim(url)

    def _text(self, url: str) -> Generator[Turn, Permit, SiteText]:
        try:
            status, body = yield from self._fetch(url)
            return SiteText(status, body, None, "", self._store.clock())
        except Refused as refused:
            if refused.reason is DropReason.HOST_RESTING:  # nobody was asked: nothing to remember
                raise
            return SiteText(None, b"", refused.reason, str(refused), self._store.clock())

    def _remember(self, authority: str, text: SiteText) -> T:
        found = self._read(text)
        with self._lock:
            self._known[authority] = (text._replace(body=b""), found)
            self._known.move_to_end(authority)
            if len(self._known) > _KEEP_IN_MEMORY:
                self._known.popitem(last=False)
        return found

"""How often a host may be asked, and what it answered: one table for all processes, and all tasks of one machine, that share its folder.

In: a host's name. Out: a Permit for one request, or how long to wait. Guaranteed: never more than ``connections`` permits of a host
at a time and never two within ``delay`` seconds, over all processes; a process that is killed gives its permits back by that; a host
that asked to be left alone (429, 503, Retry-After) or failed many times in a row gives none until its rest is over. What does not
belong here: who waits (``turns.py``), requests (``fetch.py``).

The table is a file of fixed size in memory: per host the hash of its name, when its next request may start, until when it rests, and
its failures in a row. A permit is a lock on one byte far behind the file's end, chosen by host and number: the kernel drops it with
its process. All of it belongs to one machine: machines that download at once divide the limits (``download.machines``).
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wat2mds.errors import ConfigError, TransientError
from wat2mds.stage_settings import DownloadSettings

_ROW = struct.Struct("<Qddq")  # hash of the host's name, next start, end of rest (seconds since 1970), failures in a row
_ROWS_A_BUCKET = 8
_BUCKETS = 1 << 15  # 262,144 hosts, 8 MB; the one that was asked longest ago leaves a full bucket
_BUCKET_BYTES = _ROWS_A_BUCKET * _ROW.size
# Bytes that are locked and never written: 48 bits of a hash, then the number of the permit.
_PERMITS = 1 << 62
_CLAIMS = 1 << 61
_FULL_SECONDS = 0.05  # another process has all permits: how soon to look again; what this process gives back is known at once
_FIRST_REST = 1.0  # seconds of rest after a 429 or 503 that names none; doubled with each further failure in a row


@dataclass(slots=True)
class Permit:
    """For one request. Whoever has it says what came of it, before it is given back."""

    host: str
    key: int
    number: int
    at: int
    start: float
    asked: bool = False
    failed: bool = False
    rest: float | None = None  # seconds; 0: it named none

    def answered(self, status: int, retry_after: float | None) -> None:
        """429 and 503 put the host to rest, any 5xx counts as a failure."""
        self.failed = status == 429 or status >= 500
        if status in (429, 503):
            self.rest = retry_after or 0.0


@dataclass(frozen=True, slots=True)
class Busy:
    """No permit now; ask again in so many seconds. ``resting``: the host is to be left alone until then; ``ours``: this process has
    all of its permits, so that it knows when one is free."""

    seconds: float
    resting: bool = False
    ours: bool = False


class Hosts:
    """One a process and folder. ``clock`` gives seconds since 1970."""

    def __init__(self, folder: Path, settings: DownloadSettings, clock: Callable[[], float] = time.time) -> None:
        self.connections = max(1, settings.host_connections // settings.machines)
        self.delay = settings.host_delay * settings.machines
        self._most_failures = settings.host_failures
        self._rest = settings.host_rest
        self._most_rest = max(settings.host_rest, settings.max_retry_after)
        self._max_retry_after = settings.max_retry_after
        self._clock = clock
        self._held: set[tuple[int, int]] = set()
        self._claimed: set[int] = set()
        self._lock = threading.Lock()
        try:
            self._file = os.open(private(folder) / "hosts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.fstat(self._file).st_size < _BUCKETS * _BUCKET_BYTES:
                # Not sparse: a write to a mapped hole on a full disk would be SIGBUS.
                os.posix_fallocate(self._file, 0, _BUCKETS * _BUCKET_BYTES)
            self._table = mmap.mmap(self._file, _BUCKETS * _BUCKET_BYTES)
        except OSError as error:
            raise TransientError(f"cannot open the table of hosts in {folder}: {error}") from error

    def close(self) -> None:
        self._table.close()
        os.close(self._file)

    def take(self, host: str) -> Permit | Busy:
        """A permit to ask the host now."""
        key = _hash(host)
        with self._lock:
            bucket = self._lock_bucket(key)
            try:
                at = self._find(key)
                _, start, rest, failures = _ROW.unpack_from(self._table, at)
                now = self._clock()
                # A clock that was set back must not keep a host out for longer than any rule says.
                if rest > now:
                    return Busy(min(rest - now, self._most_rest), resting=True)
                if start > now:
                    return Busy(min(start - now, max(self.delay, _FULL_SECONDS)))
                number = self._lock_permit(key)
                if number is None:
                    return Busy(_FULL_SECONDS, ours=all((key, n) in self._held for n in range(self.connections)))
                start = now + self.delay
                _ROW.pack_into(self._table, at, key, start, rest, failures)
                return Permit(host, key, number, at, start)
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, bucket)

    def give_back(self, permit: Permit) -> None:
        """Ends the permit; what it says of the host counts from now on."""
        with self._lock:
            known, _, _, failures = _ROW.unpack_from(self._table, permit.at)
            if not permit.asked or permit.failed or known != permit.key or failures:
                self._note(permit)
            self._held.discard((permit.key, permit.number))
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(_PERMITS, permit.key, permit.number))

    def claim(self, url: str) -> bool:
        """Whether it is this caller who fetches what all need; others may not until ``unclaim``."""
        key = _hash(url)
        with self._lock:
            if key in self._claimed or not self._try_lock(_byte(_CLAIMS, key)):
                return False
            self._claimed.add(key)
            return True

    def unclaim(self, url: str) -> None:
        key = _hash(url)
        with self._lock:
            self._claimed.discard(key)
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(_CLAIMS, key))

    def _note(self, permit: Permit) -> None:
        bucket = self._lock_bucket(permit.key)
        try:
            at = self._find(permit.key)
            _, start, rest, failures = _ROW.unpack_from(self._table, at)
            now = self._clock()
            if not permit.asked:
                start = 0.0 if start == permit.start else start
            else:
                failures = failures + 1 if permit.failed else 0
            if permit.rest is not None:
                asked = min(permit.rest, self._max_retry_after)
                rest = max(rest, now + (asked or min(self._rest, _FIRST_REST * 2.0 ** min(failures - 1, 30))))
            if failures >= self._most_failures:
                rest = max(rest, now + self._rest)
                failures = self._most_failures - 1  # after its rest the host has one try
            _ROW.pack_into(self._table, at, permit.key, start, rest, failures)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, bucket)

    def _lock_bucket(self, key: int) -> int:
        bucket = key % _BUCKETS
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, bucket)
        return bucket

    def _find(self, key: int) -> int:
        """Where the host's row is, or may be made, in its bucket."""
        first = key % _BUCKETS * _BUCKET_BYTES
        oldest, its_time = first, float("inf")
        for at in range(first, first + _BUCKET_BYTES, _ROW.size):
            known, start, rest, _ = _ROW.unpack_from(self._table, at)
            if known in (key, 0):
                return at
            if max(start, rest) < its_time:
                oldest, its_time = at, max(start, rest)
        _ROW.pack_into(self._table, oldest, 0, 0.0, 0.0, 0)
        return oldest

    def _lock_permit(self, key: int) -> int | None:
        for number in range(self.connections):
            if (key, number) not in self._held and self._try_lock(_byte(_PERMITS, key, number)):
                self._held.add((key, number))
                return number
        return None

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except BlockingIOError:
            return False
        return True


def folder_of(settings: DownloadSettings, own: Path) -> Path:
    """Where the table lies. ``own``: where it does for a world that names no folder, which knows nothing of the real web's hosts."""
    if settings.host_folder is not None:
        return Path(settings.host_folder)
    return own if settings.resolver is not None else Path(tempfile.gettempdir()) / f"wat2mds-hosts-{os.getuid()}"


def private(folder: Path) -> Path:
    """The folder, made if it is not there. Raises ConfigError where it is someone else's: rules of sites are believed from there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise ConfigError(f"download.host_folder: {folder} cannot be made: {error.strerror}") from error
    if owner != os.getuid():
        raise ConfigError(f"download.host_folder: {folder} belongs to another user; name a folder of your own")
    return folder


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1


def _byte(base: int, key: int, number: int = 0) -> int:
    return base + ((key >> 16) << 10) + number

"""What attempts at a WAT file's download have finished so far, for the next attempt to go on from.

In: a unit. Out: a folder in which each shard has either its table and stats, or the journal of its finished rows (``journal.py``).
Guaranteed: one attempt at a time, with its workers, works in a folder; an attempt beside it on the same machine or file system has a folder
of its own, and the unit's commit decides between the two. The folder is named by the unit's settings and inputs: others never go on
from it. It lies beside the scratch folders: of a store on ``file:`` in the store, so that any machine that has the store goes
on from it; of an object store in this machine's temporary folder, so that another machine begins anew. What does not
belong here: what is in tables and journals.

Two locks, which the kernel drops with their processes, however they end: ``attempt`` is held by the process that hands out the
shards, ``workers`` is shared by its workers. When its parent is killed a worker lives on for a moment, and may be writing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import TransientError
from wat2mds.manifest import Unit
from wat2mds.settings import digest

log = logging.getLogger(__name__)
_FOLDER = "unfinished"
SHARD_DIGITS = 5  # img2dataset's default oom_shard_count
# A worker notices at once that its parent has ended; it needs a moment where the machine is busy.
_WORKERS_SECONDS = 60


def table_name(shard: int) -> str:
    """``00000.parquet``, as img2dataset names it."""
    return f"{shard:0{SHARD_DIGITS}d}.parquet"


def stats_name(shard: int) -> str:
    """``00000_stats.json``, as img2dataset names it; it is written last, so that with it the shard is finished."""
    return f"{shard:0{SHARD_DIGITS}d}_stats.json"


def journal_name(shard: int) -> str:
    return f"{shard:0{SHARD_DIGITS}d}.rows"


class Unfinished:
    """A folder that outlives the attempt, which has it until the end of the ``with``."""

    def __init__(self, unit: Unit) -> None:
        """Raises TransientError where workers of a dead attempt do not end."""
        self._base = unit.attempts / _FOLDER
        self.folder = self._base / digest(unit.digest, [i.identity for i in unit.inputs])
        lock = _locked(self.folder)
        if lock is None:
            log.warning(
                "download: another attempt at this unit is running: this one begins anew beside it, in a folder of its own"
            )
            self.folder = unit.scratch / _FOLDER
            lock = _locked(self.folder)
            assert lock is not None
        self._lock = lock
        self._wait_for_workers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()

    def finished(self, rows: int, size: int) -> dict[int, Counter[str]]:
        """Shards that are finished, of ``rows`` rows cut by ``size``, each with the number of its outcomes: ok, and drop reasons."""
        found = {}
        for shard in range(-(-rows // size)):
            outcomes = self._outcomes(shard)
            if outcomes is not None and outcomes.total() == min(size, rows - shard * size):
                found[shard] = outcomes
        return found

    def hand_over(self, folder: Path) -> None:
        """The finished tables and stats as files of ``folder`` too: they stay here until ``remove``."""
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".parquet", ".json"):
                try:
                    os.link(path, folder / path.name)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, folder / path.name)

    def remove(self) -> None:
        """The unit is complete: what is here, and what attempts with other settings left, goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        remove_unfinished(self._base.parent)

    def _outcomes(self, shard: int) -> Counter[str] | None:
        try:
            json.loads((self.folder / stats_name(shard)).read_bytes())
            reasons = pq.read_table(self.folder / table_name(shard), columns=["drop_reason"])["drop_reason"].to_pylist()
        except (OSError, ValueError, pa.ArrowException):
            return None
        return Counter("ok" if reason is None else reason for reason in reasons)

    def _wait_for_workers(self) -> None:
        end = time.monotonic() + _WORKERS_SECONDS
        with (self.folder / "workers").open("wb") as lock:
            while not _try_lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    raise TransientError(f"processes of an earlier attempt still work in {self.folder}: end them")
                time.sleep(0.05)


def hold(folder: Path) -> IO[bytes]:
    """A worker's share in its attempt's folder, as long as it is open."""
    lock = (folder / "workers").open("wb")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def remove_unfinished(attempts: Path) -> None:
    """Remove what dead attempts left of units that nobody needs to finish any more."""
    base = attempts / _FOLDER
    for folder in list(base.iterdir()) if base.is_dir() else []:
        lock = _locked(folder)
        if lock is not None:
            with lock:
                shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> IO[bytes] | None:
    """The folder, made where it is not there, with its lock; None where another process holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "attempt"
        try:
            lock = path.open("wb")
        except FileNotFoundError:  # removed between the two lines
            continue
        if not _try_lock(lock, fcntl.LOCK_EX):
            lock.close()
            return None
        # Who held it before may have removed the folder: then this is the lock of nothing.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno())):
            return lock
        lock.close()


def _try_lock(lock: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

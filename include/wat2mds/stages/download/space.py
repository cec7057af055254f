"""Room on a disk: who writes waits for it, and a full disk in the middle of a write is waited out.

In: a folder, and the bytes that have to be free on its disk. Out: nothing, in time. Guaranteed: a wait ends after ``patience``
seconds at the latest, with DiskFullError; ``tell`` is told why a wait begins, and nothing ("") when it ends. What does not belong
here: what is written, and that a write which failed left nothing behind (``journal.py``).
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wat2mds.errors import DiskFullError

T = TypeVar("T")
_LOOK_SECONDS = 0.5
# Once below the limit, a tenth more has to be free: else fetching would stop and go with every image.
_ENOUGH = 1.1


class Space:
    """Asked before each fetch, by many threads; a look at the disk is good for half a second."""

    def __init__(self, folder: Path, least: int, patience: float, tell: Callable[[str], object]) -> None:
        self._folder = folder
        self._least = least
        self._patience = patience
        self._tell = tell
        self._good_until = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Until the folder's disk has room. Raises DiskFullError."""
        if time.monotonic() < self._good_until:
            return
        with self._lock:  # one looks, the others wait for it
            if time.monotonic() >= self._good_until:
                self._look(time.monotonic() + self._patience)

    def write(self, act: Callable[[], T]) -> T:
        """``act``, once more each time that it failed for a full disk. Raises DiskFullError."""
        end = time.monotonic() + self._patience
        while True:
            try:
                return act()
            except OSError as error:
                if not DiskFullError.caused(error):
                    raise
                with self._lock:
                    self._tell(f"{error.strerror or error} in {self._folder}")
                    self._sleep(end)
                    self._look(end)
                    self._tell("")

    def _look(self, end: float) -> None:
        least = float(self._least)
        while (free := shutil.disk_usage(self._folder).free) < least:
            if least == self._least:
                least *= _ENOUGH
                self._tell(
                    f"{free:,} bytes are free in {self._folder}, fewer than download.min_free_bytes; "
                    f"it goes on when there are {least:,.0f}"
                )
            self._sleep(end)
        if least > self._least:
            self._tell("")
        self._good_until = time.monotonic() + _LOOK_SECONDS

    def _sleep(self, end: float) -> None:
        if time.monotonic() >= end:
            raise DiskFullError(f"no space on the disk of {self._folder} in {self._patience:g} s")
        time.sleep(_LOOK_SECONDS)

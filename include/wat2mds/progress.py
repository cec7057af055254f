"""How far long work has come: a live bar on a terminal, a plain line every half minute in a log.

In: how much is done, and a note. Out: something to read on stderr. What does not belong here: numbers that anything else relies on.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)
LOG_SECONDS = 30


class Progress:
    """``with Progress("download", 1000, "pairs") as progress: … progress.update(17, "90 % with an image")``."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._said = time.monotonic()
        self._done, self._note, self._line = 0, "", ""
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(f"{self._what} ({self._unit})", total=self._total, note="")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._say()

    def update(self, done: int, note: str = "", line: str = "") -> None:
        """``line``: what a log says, in place of the numbers and the note."""
        self._done, self._note, self._line = done, note, line
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._said >= LOG_SECONDS:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        if self._line:
            log.info("%s", self._line)
            return
        rate = self._done / max(self._said - self._start, 1e-3)
        note = f"; {self._note}" if self._note else ""
        log.info("%s: %d of %d %s, %.1f a second%s", self._what, self._done, self._total, self._unit, rate, note)

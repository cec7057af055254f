"""What a step of a benchmark uses: wall time, CPU seconds and peak memory of all processes that it starts, orphans included.

CPU seconds are the kernel's: of children that were waited for, and of descendants that live or wait to be reaped with what they waited
for. Memory is the sum of proportional set sizes (what is shared counts once), twice a second, so that a short peak may be missed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_EVERY = 0.5
_STRAGGLE = 30  # seconds that a step's orphans are waited for


@dataclass
class Use:
    wall: float = 0
    cpu: float = 0
    peak: float = 0

    def __iadd__(self, other: Use) -> Use:
        self.wall, self.cpu, self.peak = self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak)
        return self


class Meter:
    """One at a time in a process; orphans of its descendants become its children."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._self = psutil.Process()
        self._apart: set[int] = set()

    def leave_out(self) -> None:
        """Whatever runs now."""
        self._apart = {process.pid for process in self._self.children(recursive=True)}

    def _counted(self) -> list[psutil.Process]:
        return [process for process in self._self.children(recursive=True) if process.pid not in self._apart]

    def _cpu(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = ended.ru_utime + ended.ru_stime
        for process in self._counted():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total

    def _memory(self) -> float:
        total = 0
        for process in self._counted():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        return total / 1024

    @contextlib.contextmanager
    def step(self, *, to_the_end: bool = True) -> Iterator[Use]:
        """``to_the_end``: until all that it started has ended; what ran before is left out."""
        if to_the_end:
            self.leave_out()
        use, over = Use(), threading.Event()

        def sample() -> None:
            while not over.wait(_EVERY):
                use.peak = max(use.peak, self._memory())

        sampler = threading.Thread(target=sample, daemon=True)
        cpu, began = self._cpu(), time.monotonic()
        sampler.start()
        try:
            yield use
            if to_the_end:
                self._reap()
        finally:
            use.wall, use.cpu = time.monotonic() - began, self._cpu() - cpu
            over.set()
            sampler.join()

    def _reap(self) -> None:
        end = time.monotonic() + _STRAGGLE
        while (left := self._counted()) and time.monotonic() < end:
            for process in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            time.sleep(0.02)

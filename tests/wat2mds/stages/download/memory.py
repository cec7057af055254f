"""How much memory the processes of a stage hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """The highest memory that any one child of this process held: the kernel's own high-water mark, read often.

    One that has not become a program of its own yet shares this process's memory (vfork) and its command line, and is not meant.
    """
    own = Path("/proc/self/cmdline")
    marks: dict[int, int] = {}
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                status, command = Path(f"/proc/{process.pid}/status"), Path(f"/proc/{process.pid}/cmdline")
                try:
                    if command.read_bytes() == own.read_bytes():
                        continue
                    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
                except OSError:  # it ended
                    continue
                if lines:
                    marks[process.pid] = int(lines[0].split()[1]) * 1024

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield lambda: max(marks.values())
    finally:
        ended.set()
        thread.join()

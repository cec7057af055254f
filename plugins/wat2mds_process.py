"""One stage's program as a process group of its own: started, listened to, ended as a whole.

In: a command line and the child's environment. Out: the exit code and the last line of stdout. Guaranteed: standard error arrives
line by line while the program runs; no process of the group outlives the program, ``end``, or this process, however this process
ends (a watcher in a session of its own sees our end of a pipe close, even after kill -9, and kills the group).
What does not belong here: Airflow, and what an exit code means (``wat2mds_operator.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

LOG_LINE_BYTES = 16_384
# The summary is one line, and plan's names each WAT file of a batch.
SUMMARY_BYTES = 8 << 20
# What logging's formatters write before the message: a time, a level. A line without it belongs to the line above.
PREFIX = re.compile(r"^[\d :.,TZ+\[-]{0,40}(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b[\]:]*\s*")
# Waits for our end of the pipe: a byte means the program has ended in good order; end of file means that we are gone.
WATCHER = """
import os, signal, sys, time
if not os.read(0, 1):
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(int(sys.argv[1]), sig)
        except ProcessLookupError:
            break
        time.sleep(2)
"""


def read_line(line: str, previous: int) -> tuple[int, str]:
    """A log line's level and message; the time and level before it are Airflow's to write. A traceback is an error."""
    found = PREFIX.match(line)
    if found:
        return int(getattr(logging, found.group(1))), line[found.end() :]
    return logging.ERROR if line.startswith("Traceback ") else previous, line


class StageProcess:
    """A running program. Use ``run``; call ``end`` from a signal handler or another thread to stop it early."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.last_line = ""
        self.last_error = ""
        self._reaped = False
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._watcher = subprocess.Popen(
            [sys.executable, "-ISc", WATCHER, str(self._process.pid)],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, log: Callable[[int, str], object]) -> int:
        """Pass on log lines as they come until the program ends; its exit code, negative for a signal."""
        try:
            self._listen(log)
        finally:
            self.end()
            code = self._process.wait()
            self._reaped = True
            self._dismiss_watcher()
        return code

    def end(self, grace: float = 3) -> None:
        """End the whole group: SIGTERM, ``grace`` seconds, SIGKILL. Harmless when it has ended already.

        Safe in a signal handler: it never reaps, so it cannot wait for a lock that the interrupted code holds.
        """
        if self._reaped:
            return
        if not self._exited():
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while not self._exited() and time.monotonic() < deadline:
                time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _exited(self) -> bool:
        """Whether the program has ended. It is left unreaped, so that its group's number cannot become a stranger's."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _dismiss_watcher(self) -> None:
        pipe = self._watcher.stdin
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(b".")
                pipe.flush()
            pipe.close()
        self._watcher.wait()

    def _listen(self, log: Callable[[int, str], object]) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        level = logging.INFO

        def heard(line: str) -> None:
            nonlocal level
            level, message = read_line(line, level)
            if level >= logging.ERROR:
                self.last_error = message.strip()
            log(level, message)

        def told(line: str) -> None:
            # Whatever is printed before the summary is worth reading too.
            if self.last_line:
                log(logging.INFO, self.last_line[:LOG_LINE_BYTES])
            self.last_line = line

        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, _Lines(told, SUMMARY_BYTES))
            selector.register(self._process.stderr, selectors.EVENT_READ, _Lines(heard, LOG_LINE_BYTES))
            ended_at = None
            while selector.get_map():
                for key, _ in selector.select(timeout=0.2):
                    pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
                    if not key.data.feed(os.read(pipe.fileno(), 65_536)):
                        selector.unregister(pipe)
                        pipe.close()
                if ended_at is None and self._exited():
                    # A forgotten worker that holds the pipes must not keep us: it dies with the program.
                    ended_at = time.monotonic()
                    self._signal(signal.SIGKILL)
                if ended_at is not None and time.monotonic() - ended_at > 5:
                    break
            for key in list(selector.get_map().values()):
                key.data.feed(b"")
                key.fileobj.close()  # type: ignore[union-attr]


class _Lines:
    """Cuts a stream of bytes into lines; progress bars' carriage returns count as line ends."""

    def __init__(self, emit: Callable[[str], None], limit: int) -> None:
        self._emit = emit
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> bool:
        """False at the end of the stream."""
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data or len(self._rest) > self._limit:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                self._emit(line[: self._limit].decode("utf-8", "replace").rstrip())
        return bool(data)

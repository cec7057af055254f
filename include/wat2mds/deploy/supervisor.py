"""Starts a set of programs, and ends all that came of them: ``python -m wat2mds.deploy.supervisor PROGRAMS.json``.

In: a file of ``[{"name", "command", "log", "restart"}]``, and a pipe on standard input. Out: each program's output in its log file.
Guaranteed: when the pipe closes (the parent asked, or died, even of kill -9), on SIGTERM or SIGINT, or when a program that is not to be
restarted ends by itself, every process that the programs started, and their processes' processes in whatever group or session, is
ended before this one is. What does not
belong here: what the programs are (``launcher.py``).

honcho's manager ends less: it signals process groups, while Airflow's tasks and their stages live in groups and sessions of their own;
it owns the main thread, and does not notice that its parent has died. Here, Linux hands every orphan to this process
(PR_SET_CHILD_SUBREAPER), so all are found.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

SESSIONS_FILE, RUNNING_FILE = "sessions.json", "running.json"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# The scheduler waits for its running tasks when told to end; they resume later, so it is not given longer than this.
GRACE_SECONDS = 8
RESTART_SECONDS = 1.0
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main(programs_file: str) -> int:
    _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        programs = json.loads(Path(programs_file).read_text("utf-8"))
        return _Programs(programs, Path(programs_file).parent).watch()
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_descendants(GRACE_SECONDS)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Programs:
    """The programs, and two files that tell others of them: sessions that were begun, and the process of each name."""

    def __init__(self, programs: list[dict[str, Any]], folder: Path) -> None:
        self._programs = {program["name"]: program for program in programs}
        self._folder = folder
        self._sessions: list[tuple[int, float]] = []
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._programs:
            self._start(name)

    def _start(self, name: str) -> None:
        program = self._programs[name]
        with Path(program["log"]).open("ab") as out:
            process = subprocess.Popen(
                program["command"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Should this process be killed outright, its programs at least go with it.
                preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            )
        self._running[name] = process
        self._sessions.append((process.pid, psutil.Process(process.pid).create_time()))
        self._write(SESSIONS_FILE, self._sessions)
        self._write(RUNNING_FILE, {name: process.pid for name, process in self._running.items()})

    def _write(self, name: str, content: Any) -> None:
        """Replaced as a whole: others read it while this process lives, and after it was killed."""
        fresh = self._folder / f"{name}.new"
        fresh.write_text(json.dumps(content), "utf-8")
        fresh.rename(self._folder / name)

    def watch(self) -> int:
        """Until the pipe closes, 0, or a program that is not to be restarted has ended, 1."""
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], 0.5)
            if readable and not os.read(sys.stdin.fileno(), 64):
                return 0
            for name, process in list(self._running.items()):
                if process.poll() is None:
                    continue
                if not self._programs[name]["restart"]:
                    sys.stdout.write(f"{name} ended by itself with code {process.returncode}\n")
                    return 1
                time.sleep(RESTART_SECONDS)
                self._start(name)
            _reap_orphans({process.pid for process in self._running.values()})


def _reap_orphans(ours: set[int]) -> None:
    """Orphans handed to this process stay zombies until they are waited for; its own programs are subprocess's to wait for."""
    for child in psutil.Process().children():
        if child.pid not in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def end_descendants(grace: float) -> None:
    """SIGTERM to all, ``grace`` seconds, then SIGKILL until none is left, new ones included."""
    deadline = time.monotonic() + grace
    told: set[int] = set()
    while living := _descendants():
        late = time.monotonic() > deadline
        for process in living:
            if late or process.pid not in told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
                told.add(process.pid)
        time.sleep(0.1)


def _descendants() -> list[psutil.Process]:
    for child in psutil.Process().children():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_strays(sessions_file: Path) -> list[psutil.Process]:
    """End what is left of the programs of a supervisor that was itself killed outright; returns what was found.

    Found by session, since Airflow's programs overwrite their command lines and with them their environment.
    """
    sessions = dict(json.loads(sessions_file.read_text("utf-8"))) if sessions_file.exists() else {}
    strays = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            began = sessions.get(os.getsid(process.pid))
            if began is not None and process.create_time() >= began and "airflow" in " ".join(process.cmdline()):
                strays.append(process)
                process.kill()
    psutil.wait_procs(strays, timeout=10)
    return strays


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

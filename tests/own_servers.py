"""PostgreSQL and Redis of a test's own, from Debian's packages: started on free ports, stopped and restarted at will."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from wat2mds.deploy.launcher import free_port

FAST = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB"]


def _program(name: str) -> str:
    """Debian keeps PostgreSQL's programs off the path. Absent programs skip the test, in CI they fail it."""
    found = shutil.which(name) or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found:
        return found
    if os.environ.get("REQUIRE_SHARED") == "1":
        pytest.fail(f"{name} is not installed, and CI requires it")
    pytest.skip(f"{name} is not installed: apt-get install postgresql redis-server")


class _Server:
    """A server process over one folder; the port stays the same over restarts."""

    def __init__(self) -> None:
        # Not below pytest's folder, which only its own user may enter: PostgreSQL refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix=f"wat2mds-{type(self).__name__.lower()}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    command: Sequence[str]
    user: str | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as out:
            self._process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT, user=self.user, group=self.user)
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self._process.poll() is None, (self.folder / "log").read_text("utf-8")
            assert time.monotonic() < deadline, f"{self.command[0]} does not answer"
            time.sleep(0.1)

    def answers(self) -> bool:
        raise NotImplementedError

    def stop(self, number: int = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def __enter__(self):  # type: ignore[no-untyped-def]
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Postgres(_Server):
    """Run by its own user where the tests are root's."""

    def __init__(self) -> None:
        programs = {name: _program(name) for name in ("initdb", "postgres", "pg_isready", "pg_dump")}
        super().__init__()
        self._programs = programs
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user, self.user)
        data = self.folder / "data"
        initialise = [
            programs["initdb"],
            "--pgdata",
            str(data),
            "--username",
            "postgres",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
        ]
        subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, user=self.user, group=self.user, cwd=self.folder)
        place = ["-D", str(data), "-p", str(self.port), "-k", str(self.folder), "-h", "127.0.0.1"]
        self.command = [programs["postgres"], *place, *FAST]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        check = [self._programs["pg_isready"], "--host", "127.0.0.1", "--port", str(self.port)]
        return subprocess.run(check, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def dump(self) -> bytes:
        """All of its tables, as text."""
        command = [
            self._programs["pg_dump"],
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--username",
            "postgres",
            "postgres",
        ]
        return subprocess.run(command, check=True, capture_output=True).stdout


class Redis(_Server):
    """Keeps nothing on disk: a restart empties it."""

    def __init__(self) -> None:
        program = _program("redis-server")
        super().__init__()
        self.command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.ConnectionError:
            return False

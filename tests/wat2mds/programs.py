"""``wat2mds`` as a process for each command, without paying its imports each time.

A program of its own imports the stages' libraries once and then forks: every command is a fresh process with its own arguments,
environment and exit code, as under Airflow, less some five seconds of imports. It starts no thread before it forks.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.settings import child_environment

LIBRARIES = (
    "torch",
    "open_clip",
    "great_expectations",
    "streaming",
    "deltalake",
    "obstore",
    "lingua",
    "pyarrow.parquet",
)


class Done(NamedTuple):
    """One command's ending."""

    code: int
    stdout: str
    stderr: str


class Programs:
    """Runs commands one after the other; a context manager."""

    def __enter__(self) -> Programs:
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def run(self, arguments: list[str]) -> Done:
        assert self._server.stdin
        assert self._server.stdout
        with tempfile.TemporaryDirectory() as folder:
            out, log = Path(folder) / "stdout", Path(folder) / "stderr"
            command = {"arguments": arguments, "environment": child_environment(), "stdout": str(out), "stderr": str(log)}
            print(json.dumps(command), file=self._server.stdin, flush=True)
            code = self._server.stdout.readline()
            assert code, "the program that runs the commands has ended"
            return Done(int(code), out.read_text("utf-8"), log.read_text("utf-8"))


def serve() -> None:
    declare_torchvision_ops()
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would not be there after a fork"
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(command)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(command: dict) -> None:
    for name, number in (("stdout", 1), ("stderr", 2)):
        target = os.open(command[name], os.O_WRONLY | os.O_CREAT)
        os.dup2(target, number)
        os.close(target)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.clear()
    os.environ.update(command["environment"])
    tempfile.tempdir = None  # it follows TMPDIR
    from wat2mds.cli.main import main

    code = 70
    try:
        main(command["arguments"])
    except SystemExit as ending:
        code = int(ending.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()

"""Work in processes of its own, that kill themselves (SIGKILL) before a given write: real deaths, at every place where they matter.

In: source text of a function ``work(job)``, which returns an exit code, or None for 0. Out: a call that runs jobs at once, each in a
fork of one process, so that imports are paid once, and returns their exit codes. A job's ``writes`` are how many writes it survives;
NEVER lets it live.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wat2mds.settings import child_environment

NEVER, KILLED = -1, -9
Run = Callable[..., list[int]]

# ``dying`` makes a function one that counts as a write; the store's are.
BEFORE = """
import json, os, signal, sys
from wat2mds import store

left = -1

def dying(function):
    def wrapped(*given, **named):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*given, **named)
    return wrapped

for name in ("write", "create", "delete", "delete_tree", "put_tree"):
    setattr(store.Store, name, dying(getattr(store.Store, name)))
"""
AFTER = """
for line in sys.stdin:
    children = []
    for job in json.loads(line):
        child = os.fork()
        if child == 0:
            left = job["writes"]
            os._exit(work(job) or 0)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@contextmanager
def in_processes(work: str, *arguments: str) -> Iterator[Run]:
    """``work`` is source text; its ``arguments`` are in ``sys.argv[1:]``. Yields ``run(*jobs)``: each a dict with ``writes``."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEFORE + work + AFTER, *arguments],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*jobs: dict[str, Any]) -> list[int]:
        process.stdin.write(json.dumps(jobs) + "\n")
        process.stdin.flush()
        found: list[int] = json.loads(process.stdout.readline())
        return found

    yield run
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()

"""Processes that download shards, one shard each at a time, and the eye that is kept on them.

In: tasks. Out: the count of outcomes. Guaranteed: a worker that dies, and workers that make no progress, end in TransientError,
never in waiting; workers end with their parent, however it ends. What does not belong here: what a worker does (``engine.py``).

Workers come from a fork server that imports img2dataset once: this process stays without it, and without threads of image
libraries at the moment of a fork. Each worker has a pipe of its own, so that no lock can be left behind by a killed one, and
decodes in a child of its own (``decoders.py``).
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from wat2mds.errors import ConfigError, DataError, TransientError, Wat2MdsError
from wat2mds.progress import Progress
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.shards import Task

log = logging.getLogger(__name__)
_NEWS_SECONDS = 1.0
# Beyond an image's deadline and its decoding: hashing, writing a shard, importing img2dataset on a busy machine.
_STALL_SECONDS = 180
_ERRORS = {cls.__name__: cls for cls in (Wat2MdsError, TransientError, DataError, ConfigError)}


@dataclass
class Outcome:
    """What became of the rows: ``ok`` and drop reasons; CPU seconds of the workers and their decoders."""

    counts: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0


@dataclass
class _Worker:
    process: ForkServerProcess
    pipe: Connection
    counts: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0
    busy: bool = True  # importing, then with a shard


def download(tasks: Iterable[Task], total: int, processes: int, settings: DownloadSettings, contact: str) -> Outcome:
    """Download all tasks. Raises TransientError for a lost worker, and whatever a worker raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wat2mds.stages.download.engine"])
    workers = [_start(context, settings, contact) for _ in range(processes)]
    try:
        with Progress("download", total, "pairs") as progress:
            _distribute(iter(tasks), workers, progress, settings.deadline + settings.decode_timeout + _STALL_SECONDS)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()
    return Outcome(_sum(workers), sum(worker.cpu_seconds for worker in workers))


def _start(context: Any, settings: DownloadSettings, contact: str) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, settings, contact, log.getEffectiveLevel()), daemon=True)
    process.start()
    theirs.close()  # else its end would never be seen
    return _Worker(process, ours)


def _distribute(tasks: Iterator[Task], workers: list[_Worker], progress: Progress, patience: float) -> None:
    last_news, finished = time.monotonic(), -1
    while any(worker.busy for worker in workers):
        ready = wait([worker.pipe for worker in workers if worker.busy], timeout=_NEWS_SECONDS)
        for worker in workers:
            if worker.pipe in ready and _hear(worker):
                last_news = time.monotonic()
                task = next(tasks, None)
                worker.busy = task is not None
                if task is not None:
                    _send(worker, task)
        counts = _sum(workers)
        if counts.total() != finished:
            last_news, finished = time.monotonic(), counts.total()
        elif time.monotonic() - last_news > patience:
            raise TransientError(f"no image was finished in {patience:.0f} s: the download workers hang and were ended")
        progress.update(counts.total(), _note(counts))


def _hear(worker: _Worker) -> bool:
    """Take one message; whether the worker is free now."""
    try:
        kind, *content = worker.pipe.recv()
    except (EOFError, OSError) as error:
        raise _lost(worker) from error
    if kind == "failed":
        name, message, trace = content
        log.error("a download worker failed:\n%s", trace)
        raise _ERRORS.get(name, Wat2MdsError)(message)
    worker.counts, worker.cpu_seconds = content
    return bool(kind == "free")


def _send(worker: _Worker, task: Task) -> None:
    try:
        worker.pipe.send(task)
    except OSError as error:
        raise _lost(worker) from error


def _lost(worker: _Worker) -> TransientError:
    worker.process.join(5)
    code = worker.process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"
    return TransientError(f"download worker {worker.process.pid} {how}; out of memory, or a decoder's crash, if nobody did it")


def _sum(workers: list[_Worker]) -> Counter[str]:
    return sum((worker.counts for worker in workers), Counter())


def _note(counts: Counter[str]) -> str:
    """Success share and the most frequent reasons."""
    done = counts.total()
    share = f"{counts['ok'] / done:.1%}" if done else "-"
    reasons = ", ".join(f"{reason} {n}" for reason, n in counts.most_common(9) if reason != "ok") or "none"
    return f"{share} with an image; dropped: {reasons}"


def work(pipe: Connection, settings: DownloadSettings, contact: str, level: int) -> None:
    """A worker process: says that it is free, takes a task, and so on until its parent ends it."""
    _set_up(level)
    from wat2mds.stages.download.decoders import Decoders  # seconds of import, paid by the fork server

    decoders = Decoders(settings)  # forks, and so comes before any thread
    threading.Thread(target=_end_with_parent, daemon=True).start()
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def say(kind: str, *content: object) -> None:
        with lock:
            pipe.send((kind, *content))

    def seconds() -> float:
        return time.process_time() + decoders.cpu_seconds

    def news() -> None:
        with contextlib.suppress(OSError):  # the parent ended
            while True:
                time.sleep(_NEWS_SECONDS)
                say("news", Counter(counts), seconds())

    def done(outcome: str) -> None:
        counts[outcome] += 1

    try:
        from wat2mds.stages.download.engine import Engine

        engine = Engine(settings, contact, decoders, done)
        threading.Thread(target=news, daemon=True).start()
        while True:
            say("free", Counter(counts), seconds())
            engine.run(pipe.recv())
    except EOFError:
        os._exit(0)
    except Exception as error:
        with contextlib.suppress(OSError):
            say("failed", *_described(error), traceback.format_exc())
        os._exit(70)


def _described(error: Exception) -> tuple[str, str]:
    """Class and message of the error of ours that says what to do about it."""
    if isinstance(error, Wat2MdsError):
        return type(error).__name__, str(error)
    # A full disk, a lost mount, no memory: another try may find it better. The rest is a bug.
    name = "TransientError" if isinstance(error, OSError | MemoryError) else "Wat2MdsError"
    return name, f"a download worker failed: {type(error).__name__}: {error}"


def _set_up(level: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    # Decoders in C write what they dislike of each image to stderr, and stray prints would break the parent's stdout contract:
    # Python's own output goes to the log, the rest nowhere.
    sys.stderr = sys.stdout = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device, no path)
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    faulthandler.enable(sys.stderr)
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(75)

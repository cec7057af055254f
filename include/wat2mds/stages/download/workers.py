"""Processes that download shards, one shard each at a time, and the eye that is kept on them.

In: tasks. Out: the count of outcomes. Guaranteed: a worker that dies, and one that makes no progress, end in TransientError, never in
waiting; workers end with their parent, however it ends, and what they had finished is kept. What does not belong here: what a worker
does (``engine.py``).

Workers come from a fork server that imports the engine once: this process stays without it, and without threads of image
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from wat2mds.errors import ConfigError, DataError, DiskFullError, TransientError, Wat2MdsError
from wat2mds.figures import Figures, Rate
from wat2mds.progress import Progress
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.shards import Task
from wat2mds.stages.download.space import Space
from wat2mds.stages.download.unfinished import hold

log = logging.getLogger(__name__)
_NEWS_SECONDS = 1.0
# Beyond the wait for its host, an image's deadline and its decoding: hashing, writing a shard, importing the engine on a busy machine.
_STALL_SECONDS = 180
_ERRORS = {cls.__name__: cls for cls in (Wat2MdsError, TransientError, DiskFullError, DataError, ConfigError)}


@dataclass(frozen=True)
class News:
    """What a worker says of itself. ``counts``: outcomes of the rows of its shards, ok and drop reasons; ``fetched``: those of them that
    no earlier attempt had finished, and ``fetched_bytes`` of theirs; ``hosts`` that it asks now; ``waiting``: why it fetches nothing."""

    counts: Counter[str] = field(default_factory=Counter)
    fetched: int = 0
    fetched_bytes: int = 0
    hosts: frozenset[str] = frozenset()
    cpu_seconds: float = 0.0
    waiting: str = ""


@dataclass
class Outcome:
    """What became of the rows: ``ok`` and drop reasons; CPU seconds of the workers and their decoders."""

    counts: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0


@dataclass
class _Worker:
    process: ForkServerProcess
    pipe: Connection
    news: News = field(default_factory=News)
    since: float = field(default_factory=time.monotonic)  # when it last finished something
    busy: bool = True  # importing, then with a shard


def download(
    tasks: Iterable[Task],
    total: int,
    before: Counter[str],
    processes: int,
    folder: Path,
    settings: DownloadSettings,
    contact: str,
    tell: Callable[[Figures], object],
) -> Outcome:
    """Download all tasks. ``before``: outcomes of the shards of the ``total`` rows that are finished already; ``folder``: the tasks';
    ``tell`` gets the figures every second or so.

    Raises TransientError for a lost worker, one that hangs or a disk that stays full, and whatever a worker raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wat2mds.stages.download.engine"])
    workers = [_start(context, folder, settings, contact) for _ in range(processes)]
    try:
        rate = Rate()
        with Progress("download", total, "pairs") as progress:

            def show() -> None:
                figures = _figures(workers, before, total, rate)
                progress.update(figures.done, figures.brief(), figures.line())
                tell(figures)

            patience = settings.host_patience + settings.deadline + settings.decode_timeout + _STALL_SECONDS
            _distribute(iter(tasks), workers, show, patience)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()
    return Outcome(_sum(workers, before), sum(worker.news.cpu_seconds for worker in workers))


def pause_log() -> Callable[[str], None]:
    """Told again and again why fetching pauses, or "" that it does not; logs it once."""
    said = ""

    def tell(waiting: str) -> None:
        nonlocal said
        if bool(waiting) != bool(said):
            if waiting:
                log.warning("download: fetching pauses: %s", waiting)
            else:
                log.info("download: fetching goes on")
        said = waiting

    return tell


def _start(context: Any, folder: Path, settings: DownloadSettings, contact: str) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, folder, settings, contact, log.getEffectiveLevel()), daemon=True)
    process.start()
    theirs.close()  # else its end would never be seen
    return _Worker(process, ours)


def _distribute(tasks: Iterator[Task], workers: list[_Worker], show: Callable[[], None], patience: float) -> None:
    tell = pause_log()
    while any(worker.busy for worker in workers):
        ready = wait([worker.pipe for worker in workers if worker.busy], timeout=_NEWS_SECONDS)
        for worker in workers:
            if worker.pipe in ready and _hear(worker):
                began = time.monotonic()
                task = next(tasks, None)
                worker.busy, worker.since = task is not None, began
                for one in workers:  # which nobody listened to meanwhile: there may have been no room to write the task
                    one.since += time.monotonic() - began
                if task is not None:
                    _send(worker, task)
        tell(next((worker.news.waiting for worker in workers if worker.news.waiting), ""))
        for worker in workers:
            if worker.busy and time.monotonic() - worker.since > patience:
                raise TransientError(
                    f"download worker {worker.process.pid} finished no image in {patience:.0f} s: it hangs and was ended; "
                    f"the next attempt goes on from what is finished"
                )
        show()


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
    (news,) = content
    if news.waiting or news.counts != worker.news.counts:
        worker.since = time.monotonic()
    worker.news = news
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


def _figures(workers: list[_Worker], before: Counter[str], total: int, rate: Rate) -> Figures:
    counts = _sum(workers, before)
    news = [worker.news for worker in workers]
    fetched = sum(one.fetched for one in news)
    return Figures(
        done=counts.total(),
        total=total,
        fetched=fetched,
        images=counts["ok"],
        rate=rate.after(fetched),
        size=sum(one.fetched_bytes for one in news),
        hosts=len(frozenset().union(*(one.hosts for one in news))),
        dropped={reason: count for reason, count in counts.items() if reason != "ok"},
        waiting=next((one.waiting for one in news if one.waiting), ""),
    )


def _sum(workers: list[_Worker], before: Counter[str]) -> Counter[str]:
    return sum((worker.news.counts for worker in workers), before)


def work(pipe: Connection, folder: Path, settings: DownloadSettings, contact: str, level: int) -> None:
    """A worker process: says that it is free, takes a task, and so on until its parent ends it."""
    _set_up(level)
    from wat2mds.stages.download.decoders import Decoders  # seconds of import, paid by the fork server

    decoders = Decoders(settings)  # forks, and so comes before any thread and any lock
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()
    waiting = ""

    def say(kind: str, *content: object) -> None:
        with lock:
            pipe.send((kind, *content))

    def fail(error: Exception) -> NoReturn:
        with contextlib.suppress(OSError):
            say("failed", *_described(error), "".join(traceback.format_exception(error)))
        os._exit(70)

    def tell(why: str) -> None:
        nonlocal waiting
        waiting = why

    try:
        from wat2mds.stages.download.engine import Engine

        holding = hold(folder)
        space = Space(folder, settings.min_free_bytes, settings.disk_patience, tell)
        engine = Engine(settings, contact, decoders, space, fail)

        def news() -> News:
            seconds = time.process_time() + decoders.cpu_seconds
            return News(engine.counts, engine.fetched, engine.fetched_bytes, engine.hosts, seconds, waiting)

        def say_news() -> None:
            with contextlib.suppress(OSError):  # the parent ended
                while True:
                    time.sleep(_NEWS_SECONDS)
                    say("news", news())

        threading.Thread(target=say_news, daemon=True).start()
        with holding:
            while True:
                say("free", news())
                engine.run(pipe.recv())
    except EOFError:
        os._exit(0)
    except Exception as error:
        fail(error)


def _described(error: Exception) -> tuple[str, str]:
    """Class and message of the error of ours that says what to do about it."""
    if isinstance(error, Wat2MdsError):
        return type(error).__name__, str(error)
    if DiskFullError.caused(error):
        name = "DiskFullError"
    else:  # A lost mount, no memory: another try may find it better. The rest is a bug.
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

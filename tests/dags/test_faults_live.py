"""Faults on the distributed deployment: what is published afterwards is, in every object, what an undisturbed build publishes.

``make test-faults`` runs all of them and writes the README's table; otherwise a few.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from celery.utils.nodenames import gethostname

from tests.airflow_env import ROOT
from tests.dags.distributed import WORKERS, Distributed
from tests.dags.live import DAG
from wat2mds.snapshots import Registry
from wat2mds.versions import open_table, read_version
from wat2mds.world.demo_world import NEWER

pytestmark = [pytest.mark.live, pytest.mark.services, pytest.mark.timeout(900)]
WAT_FILE = "00001"
ALL = os.environ.get("FAULTS") == "all"
ROOT_USER = os.geteuid() == 0  # who may mount a disk


@dataclass(frozen=True)
class Struck:
    """A run under way, and ``after``: what is to be undone once it has ended."""

    apart: Distributed
    dataset: str
    run_id: str
    after: contextlib.ExitStack


@dataclass(frozen=True)
class Fault:
    """``act`` is called while ``stage`` runs; it returns when the fault is over. ``here``: whether this machine allows it."""

    what: str
    stage: str
    act: Callable[[Struck], None]
    short: bool = False
    here: bool = True


def stage_processes(dataset: str, stage: str) -> list[psutil.Process]:
    """The programs of a stage that run for a dataset, not what they started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "wat2mds" in words and stage in words and any(f"/datasets/{dataset}/" in word for word in words):
            found.append(process)
    return found


def kill_stage(run: Struck) -> None:
    for process in stage_processes(run.dataset, "download"):
        process.kill()


def kill_program(name: str) -> Callable[[Struck], None]:
    def act(run: Struck) -> None:
        run.apart.program(name).kill()

    return act


def restart_postgres(run: Struck) -> None:
    run.apart.postgres.stop(signal.SIGQUIT)  # its "immediate" mode: connections are cut, and it recovers as after a crash
    time.sleep(2)
    run.apart.postgres.start()


def empty_redis(run: Struck) -> None:
    """With the download's message in it: its worker is held meanwhile."""
    worker = run.apart.program("worker-fetcher")
    worker.suspend()
    broker = redis.Redis(port=run.apart.redis.port)
    wait_for(lambda: broker.llen("download") == 1)
    run.apart.redis.stop(signal.SIGKILL)
    time.sleep(2)
    run.apart.redis.start()
    assert broker.llen("download") == 0
    worker.resume()


def freeze_worker(run: Struck) -> None:
    """Longer than the heartbeat's timeout; another worker takes over, and then both go on."""
    worker = run.apart.program("worker-fetcher")
    frozen = [worker, *worker.children(recursive=True)]
    with contextlib.ExitStack() as thawed:
        for process in frozen:
            thawed.callback(resume, process)
            process.suspend()
        before = {process.pid for process in stage_processes(run.dataset, "download")}
        assert before, "the download had ended before it was frozen"
        thawed.enter_context(run.apart.further_worker("spare", "download,gpu"))
        wait_for(lambda: {process.pid for process in stage_processes(run.dataset, "download")} - before)
        for process in frozen:
            resume(process)
        wait_for(lambda: not stage_processes(run.dataset, "download"))


def resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def same_task_twice(run: Struck) -> None:
    process = stage_processes(run.dataset, "download")[0]
    subprocess.run(process.cmdline(), env=process.environ(), cwd=process.cwd(), check=False, stdout=subprocess.DEVNULL)


def store_unavailable(run: Struck) -> None:
    """503 SlowDown to every request, for a minute."""
    run.apart.store.choose = lambda method, path, size: "slow_down"
    time.sleep(60)
    run.apart.store.calm()


def fill_disk(worker: str, left: int, said: str) -> Callable[[Struck], None]:
    """The worker's temporary folder becomes a disk of its own with ``left`` bytes to spare, until a task's log says so.

    Without a byte to spare Python would take /tmp for its temporary files: it tries the folder first.
    """

    def act(run: Struck) -> None:
        folder = run.apart.base / worker / "tmp"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(folder)], check=True)
        run.after.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        filler = folder / "filler"
        with filler.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, shutil.disk_usage(folder).free - left)
        logs = run.apart.base / worker / "logs"
        wait_for(lambda: any(said in path.read_text("utf-8") for path in logs.rglob("*.log") if run.run_id in str(path)))
        filler.unlink()

    return act


# A wall clock that is a day ahead, and no other: Debian's faketime shifts the monotonic clock too, or breaks sleeping on it.
TOMORROW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int code = ((int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += 86400;
    return code;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int code = ((int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday"))(now, zone);
    if (code == 0) now->tv_sec += 86400;
    return code;
}
time_t time(time_t *now) {
    time_t shifted = ((time_t (*)(time_t *))dlsym(RTLD_NEXT, "time"))(NULL) + 86400;
    if (now) *now = shifted;
    return shifted;
}
"""


def shift_clock(run: Struck) -> None:
    """All that is still to be done, by a worker whose clock is a day ahead."""
    library = run.apart.base / "tomorrow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"], input=TOMORROW, text=True, check=True)
    workers = Celery(broker=run.apart.redis.url).control
    held = [(queue, [f"{name}@{gethostname()}"]) for name, queues in WORKERS.items() for queue in queues.split(",")]
    for queue, worker in held:
        assert workers.cancel_consumer(queue, destination=worker, reply=True, timeout=10)
    try:
        with run.apart.further_worker("tomorrow", "default,download,gpu", LD_PRELOAD=str(library)):
            run.apart.finish(run.run_id)
            assert run.apart.tasks_done()["tomorrow"] >= 5
    finally:
        for queue, worker in held:
            workers.add_consumer(queue, destination=worker, reply=True, timeout=10)
    url = run.apart.layout(run.dataset).dataset
    fetched = open_table(url, read_version(url)).to_pyarrow_table(columns=["fetched_at"])["fetched_at"].to_pylist()
    assert min(fetched) > datetime.now(UTC) + timedelta(hours=23)


def edit_dag(run: Struck) -> None:
    path = run.apart.base / "dags" / "build_dataset.py"
    path.write_text(
        path.read_text("utf-8").replace('tags=["build", "common-crawl"]', 'tags=["build", "common-crawl", "edited"]'), "utf-8"
    )
    wait_for(lambda: "edited" in str(run.apart.client.wait_for_dag(DAG)["tags"]))


FAULTS = [
    Fault("kill -9 of a stage's process", "download", kill_stage),
    Fault("kill -9 of a worker", "download", kill_program("worker-fetcher"), short=True),
    Fault("kill -9 of the scheduler", "extract", kill_program("scheduler")),
    Fault("kill -9 of the API server of tasks", "download", kill_program("execution-api")),
    Fault("kill -9 of the API server of people", "download", kill_program("api-server")),
    Fault("kill -9 of the dag-processor", "download", kill_program("dag-processor")),
    Fault("PostgreSQL crashes and is restarted", "download", restart_postgres, short=True),
    Fault("Redis crashes and comes back empty", "dedup", empty_redis, short=True),
    Fault("a worker is frozen past its heartbeat, replaced, and goes on", "download", freeze_worker),
    Fault("the same task instance runs twice at once", "download", same_task_twice),
    Fault("the store answers 503 for a minute", "convert", store_unavailable),
    Fault(
        "a worker's disk is full as it downloads", "extract", fill_disk("fetcher", 500_000_000, "fetching pauses"), here=ROOT_USER
    ),
    Fault("a worker's disk is full as it validates", "filter", fill_disk("builder", 65536, "the disk is full"), here=ROOT_USER),
    Fault("a worker's clock is a day ahead", "extract", shift_clock, here=shutil.which("cc") is not None),
    Fault("a DAG file is edited during a run", "download", edit_dag),
]
AT_ONCE = "a backfill and a run of the same batch at once"
TABLE: dict[str, str] = {}


def tell(what: str, *cells: object) -> None:
    TABLE[what] = f"| {what} | {' | '.join(map(str, cells))} |"
    print(TABLE[what])


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(apart: Distributed) -> dict[str, str]:
    apart.build(dataset="undisturbed", wat_files=str(int(WAT_FILE)))
    return apart.published_bytes("undisturbed", WAT_FILE)


@pytest.fixture(scope="module", autouse=True)
def readme_table() -> Iterator[None]:
    """The README's table gets the rows of what was run; the others stay."""
    yield
    if not ALL:
        return
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    found = re.search(r"(?<=<!-- faults: made by `make test-faults` -->\n).*?(?=<!-- end -->)", text, flags=re.S)
    assert found
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in found[0].splitlines()[2:]} | TABLE
    known = [what for what in [*(fault.what for fault in FAULTS), AT_ONCE] if what in rows]
    table = [
        "| Fault | While | Outcome | Tries | Next task began after |",
        "| --- | --- | --- | --- | --- |",
        *(rows[what] for what in known),
    ]
    readme.write_text(text[: found.start()] + "\n".join(table) + "\n" + text[found.end() :], "utf-8")


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.short or ALL], ids=lambda fault: fault.what.replace(" ", "-")
)
def test_after_a_fault_the_same_is_published(apart: Distributed, undisturbed: dict[str, str], fault: Fault) -> None:
    if not fault.here:
        pytest.skip("it takes root, who may mount a small disk, and a C compiler")
    dice = random.Random(fault.what)
    dataset = "fault-" + "".join(c if c.isalnum() else "-" for c in fault.what.lower()).strip("-")[:50]
    run_id = apart.client.trigger(DAG, {"dataset": dataset, "wat_files": str(int(WAT_FILE))})
    wait_for(lambda: stage_processes(dataset, fault.stage))
    time.sleep(dice.random() * 2)
    struck = datetime.now(UTC)
    with contextlib.ExitStack() as after:
        fault.act(Struck(apart, dataset, run_id, after))
        state = apart.finish(run_id)
    outcome = "the run ends green by itself"
    if state == "failed":
        why = apart.explain(run_id)
        assert "To reproduce it without Airflow" in why or "rror" in why, f"a message that says what happened: {why}"
        apart.client.clear(DAG, run_id, only_failed=True)
        state = apart.finish(run_id)
        outcome = "the run ends red, and green once cleared"
    assert state == "success", apart.explain(run_id)
    assert apart.published_bytes(dataset, WAT_FILE) == undisturbed
    tasks = apart.client.tasks(DAG, run_id)
    # By the worker's clock, which may be ahead.
    after = [begun for t in tasks if struck < (begun := datetime.fromisoformat(t["start_date"])) < datetime.now(UTC)]
    recovery = f"{(min(after) - struck).total_seconds():.0f} s" if after else "none needed"
    tries = max(t["try_number"] for t in tasks)
    tell(fault.what, fault.stage, f"{outcome}; every object identical", tries, recovery)


@pytest.mark.skipif(not ALL, reason="part of `make test-faults`")
def test_a_backfill_and_a_run_of_the_same_batch_at_once(apart: Distributed) -> None:
    apart.build(dataset="whole", wat_files="0-2")
    (batch,) = Registry(apart.root).get(NEWER).batches()
    days = [(batch.partition_date + timedelta(days=n)).date().isoformat() for n in (0, 1)]
    apart.client.backfill(DAG, *days)
    wait_for(lambda: len(apart.client.runs(DAG, run_type=["backfill"])) == 1)
    (other,) = apart.client.runs(DAG, run_type=["backfill"])
    run_id = apart.client.trigger(DAG, partition_key=batch.partition_key)
    assert apart.finish(run_id) == "success", apart.explain(run_id)
    assert apart.finish(other["dag_run_id"]) == "success", apart.explain(other["dag_run_id"])
    for number in ("00000", "00001", "00002"):
        assert apart.published_bytes("demo", number) == apart.published_bytes("whole", number)
    tell(AT_ONCE, "all", "both runs end green by themselves; every object identical", 1, "none needed")

"""Faults on the distributed deployment: what is published afterwards is, in every object, what an undisturbed build publishes.

``make test-faults`` runs all of them and writes the README's table; otherwise a few.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
import redis

from tests.airflow_env import ROOT
from tests.dags.distributed import Distributed
from tests.dags.live import DAG
from wat2mds.snapshots import Registry
from wat2mds.world.demo_world import NEWER

pytestmark = [pytest.mark.live, pytest.mark.services, pytest.mark.timeout(900)]
WAT_FILE = "00001"
ALL = os.environ.get("FAULTS") == "all"


@dataclass(frozen=True)
class Fault:
    """``act`` is called while ``stage`` runs for the build of ``dataset``; it returns when the fault is over."""

    what: str
    stage: str
    act: Callable[[Distributed, str], None]
    short: bool = False


def stage_processes(dataset: str, stage: str) -> list[psutil.Process]:
    """The programs of a stage that run for a dataset, not what they started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "wat2mds" in words and stage in words and any(f"/datasets/{dataset}/" in word for word in words):
            found.append(process)
    return found


def kill_stage(apart: Distributed, dataset: str) -> None:
    for process in stage_processes(dataset, "download"):
        process.kill()


def kill_program(name: str) -> Callable[[Distributed, str], None]:
    def act(apart: Distributed, dataset: str) -> None:
        apart.program(name).kill()

    return act


def restart_postgres(apart: Distributed, dataset: str) -> None:
    apart.postgres.stop(signal.SIGQUIT)  # its "immediate" mode: connections are cut, and it recovers as after a crash
    time.sleep(2)
    apart.postgres.start()


def empty_redis(apart: Distributed, dataset: str) -> None:
    """With the download's message in it: its worker is held meanwhile."""
    worker = apart.program("worker-fetcher")
    worker.suspend()
    broker = redis.Redis(port=apart.redis.port)
    wait_for(lambda: broker.llen("download") == 1)
    apart.redis.stop(signal.SIGKILL)
    time.sleep(2)
    apart.redis.start()
    assert broker.llen("download") == 0
    worker.resume()


def freeze_worker(apart: Distributed, dataset: str) -> None:
    """Longer than the heartbeat's timeout; another worker takes over, and then both go on."""
    worker = apart.program("worker-fetcher")
    frozen = [worker, *worker.children(recursive=True)]
    with apart.further_worker("spare", "download,gpu"):
        for process in frozen:
            process.suspend()
        before = {process.pid for process in stage_processes(dataset, "download")}
        wait_for(lambda: {process.pid for process in stage_processes(dataset, "download")} - before)
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        wait_for(lambda: not stage_processes(dataset, "download"))


def same_task_twice(apart: Distributed, dataset: str) -> None:
    process = stage_processes(dataset, "download")[0]
    subprocess.run(process.cmdline(), env=process.environ(), cwd=process.cwd(), check=False, stdout=subprocess.DEVNULL)


def store_unavailable(apart: Distributed, dataset: str) -> None:
    """503 SlowDown to every request, for a minute."""
    apart.store.choose = lambda method, path, size: "slow_down"
    time.sleep(60)
    apart.store.calm()


def edit_dag(apart: Distributed, dataset: str) -> None:
    path = apart.base / "dags" / "build_dataset.py"
    path.write_text(
        path.read_text("utf-8").replace('tags=["build", "common-crawl"]', 'tags=["build", "common-crawl", "edited"]'), "utf-8"
    )
    wait_for(lambda: "edited" in str(apart.client.wait_for_dag(DAG)["tags"]))


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
    Fault("a DAG file is edited during a run", "download", edit_dag),
]
TABLE: dict[str, str] = {}


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
    yield
    if ALL and len(TABLE) == len(FAULTS):
        readme = ROOT / "README.md"
        rows = "\n".join(TABLE[fault.what] for fault in FAULTS)
        table = f"| Fault | While | Outcome | Tries | Next task done after |\n| --- | --- | --- | --- | --- |\n{rows}\n"
        text = re.sub(
            r"(<!-- faults[^>]*-->\n).*?(<!-- end -->)", lambda m: m[1] + table + m[2], readme.read_text("utf-8"), flags=re.S
        )
        readme.write_text(text, "utf-8")


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.short or ALL], ids=lambda fault: fault.what.replace(" ", "-")
)
def test_after_a_fault_the_same_is_published(apart: Distributed, undisturbed: dict[str, str], fault: Fault) -> None:
    dice = random.Random(fault.what)
    dataset = "fault-" + "".join(c if c.isalnum() else "-" for c in fault.what.lower()).strip("-")[:50]
    run_id = apart.client.trigger(DAG, {"dataset": dataset, "wat_files": str(int(WAT_FILE))})
    wait_for(lambda: stage_processes(dataset, fault.stage))
    time.sleep(dice.random() * 2)
    struck = datetime.now(UTC)
    fault.act(apart, dataset)
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
    after = [ended for t in tasks if (ended := datetime.fromisoformat(t["end_date"])) > struck]
    recovery = (min(after) - struck).total_seconds()
    tries = max(t["try_number"] for t in tasks)
    TABLE[fault.what] = f"| {fault.what} | {fault.stage} | {outcome}; every object identical | {tries} | {recovery:.0f} s |"
    print(TABLE[fault.what])


@pytest.mark.skipif(not ALL, reason="part of `make test-faults`")
def test_a_backfill_and_a_run_of_the_same_batch_at_once(apart: Distributed, undisturbed: dict[str, str]) -> None:
    with contextlib.suppress(Exception):
        apart.client.set_paused(DAG, False)
    (batch,) = Registry(apart.root).get(NEWER).batches()
    run_id = apart.client.trigger(DAG, partition_key=batch.partition_key)
    day = batch.partition_date.date().isoformat()
    apart.client.backfill(DAG, day, day)
    wait_for(lambda: len(apart.client.runs(DAG, run_type=["backfill"])) == 1)
    (other,) = apart.client.runs(DAG, run_type=["backfill"])
    assert apart.finish(run_id) == "success", apart.explain(run_id)
    assert apart.finish(other["dag_run_id"]) == "success", apart.explain(other["dag_run_id"])
    assert apart.published_bytes("demo", WAT_FILE) == undisturbed

"""CeleryExecutor on PostgreSQL and Redis, store on S3: the work is shared, and the published bytes are those of one machine."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from tests.dags.distributed import SECRET, Distributed, files_that_hold
from tests.dags.live import DAG, REFRESH_DAG, Live
from wat2mds.snapshots import Registry
from wat2mds.store import Store
from wat2mds.world.demo_world import NEWER
from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, write_collinfo, write_wat_listing
from wat2mds_dashboard import PREFIX

pytestmark = [pytest.mark.live, pytest.mark.services, pytest.mark.timeout(900)]


def test_two_workers_without_a_common_disk_publish_what_one_machine_does(live: Live, apart: Distributed) -> None:
    before = apart.tasks_done()
    run_id = apart.build(dataset="apart", wat_files="0-2")
    tasks = apart.client.tasks(DAG, run_id)
    assert {t["task_id"].rpartition(".")[2]: t["queue"] for t in tasks} == {
        **dict.fromkeys(("plan", "extract", "dedup", "validate", "convert", "upload", "publish", "report"), "default"),
        "download": "download",
        "filter": "gpu",
    }
    fetched = sum(t["queue"] != "default" for t in tasks)
    done = {name: count - before[name] for name, count in apart.tasks_done().items()}
    assert done["fetcher"] == fetched
    assert done["builder"] >= len(tasks) - fetched, "deadlines' messages are sent there too"
    assert "published" in apart.client.log(DAG, run_id, "publish"), "read from the store: no worker serves logs"
    assert any(line.startswith("airflow.wat2mds.download.pairs") for line in apart.metrics)
    assert apart.message("build_dataset takes longer than 0.001 hours", run_id)["type"] == "warning"

    live.build(dataset="apart", wat_files="0-2")  # one machine, the LocalExecutor, a store on disk
    for number in ("00000", "00001", "00002"):
        assert apart.published_bytes("apart", number) == live.published_bytes("apart", number)

    # The api-server, and who looks for the next run, read the store themselves, by the same connection.
    (batch,) = Registry(apart.root).get(NEWER).batches()
    days = [(batch.partition_date + timedelta(days=n)).date().isoformat() for n in (0, 1)]
    assert [b["partition_key"] for b in apart.client.backfill(DAG, *days, dry_run=True)["backfills"]] == [batch.partition_key]
    assert "The registry of s3://apart/root holds 1 snapshots." in (apart.base / "home/logs/dag-processor.log").read_text("utf-8")
    assert "apart" in apart.client._request("GET", f"{PREFIX}/dashboard/apart").text

    # The store's secret is nowhere but in the file that is made for an operator's shell, and is readable by nobody else.
    dump = apart.postgres.dump()
    assert run_id.encode() in dump
    assert SECRET.encode() not in dump
    assert files_that_hold(apart.base, SECRET.encode()) == ["home/environment"]
    store = Store(apart.root)
    assert [item.path for item in store.walk() if SECRET.encode() in store.read(item.path)] == []


def test_a_listing_that_comes_late_on_s3_is_waited_for_in_the_triggerer(apart: Distributed, tmp_path: Path) -> None:
    start = datetime(2009, 11, 1, tzinfo=UTC)  # before all others: the newest registered snapshot stays what it is
    segments = [CrawlSegment(f"12570000000{number:02d}.{number}", start, [[]]) for number in range(100)]
    late = CrawlSnapshot("CC-MAIN-2009-47", start, start + timedelta(days=9), segments)
    write_collinfo(tmp_path, [late])
    write_wat_listing(tmp_path, late.name, segments)
    s3 = boto3.client("s3")

    def put(path: str) -> None:
        s3.upload_file(str(tmp_path / path), "apart", f"crawl/{path}")

    put("collinfo.json")
    client = apart.client
    client.wait_for_dag(REFRESH_DAG)
    client.set_paused(REFRESH_DAG, False)  # and today's run begins
    deadline = time.monotonic() + 300
    states: dict[str, str | None] = {}
    while states.get("wait_for_listing") != "deferred":
        apart.airflow.check()
        assert time.monotonic() < deadline, f"nothing waits: {states}"
        time.sleep(0.5)
        states = {
            t["task_id"]: t["state"] for run in client.runs(REFRESH_DAG) for t in client.tasks(REFRESH_DAG, run["dag_run_id"])
        }
    assert states["refresh"] == "success"
    put(f"crawl-data/{late.name}/wat.paths.gz")

    (run,) = client.runs(REFRESH_DAG)
    ended = client.wait(REFRESH_DAG, run["dag_run_id"], check=apart.airflow.check, timeout=300)
    assert ended["state"] == "success", apart.explain(run["dag_run_id"], REFRESH_DAG)
    assert client.xcom(REFRESH_DAG, run["dag_run_id"], "refresh")["registered"] == []
    assert client.xcom(REFRESH_DAG, run["dag_run_id"], "register")["registered"] == [late.name]
    client.set_paused(REFRESH_DAG, True)

"""CeleryExecutor on PostgreSQL and Redis, store on S3: the work is shared, and the published bytes are those of one machine."""

from __future__ import annotations

import pytest

from tests.dags.distributed import SECRET, Distributed, files_that_hold
from tests.dags.live import DAG, Live
from wat2mds.store import Store

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

    # The store's secret is nowhere but in the file that is made for an operator's shell, and is readable by nobody else.
    dump = apart.postgres.dump()
    assert run_id.encode() in dump
    assert SECRET.encode() not in dump
    assert files_that_hold(apart.base, SECRET.encode()) == ["home/environment"]
    store = Store(apart.root)
    assert [item.path for item in store.walk() if SECRET.encode() in store.read(item.path)] == []

"""Waiting for a listing on a real S3 protocol: the sensor, the provider's trigger as the triggerer runs it, and what is registered then."""

from __future__ import annotations

import asyncio
import json
import pkgutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException, TaskDeferred
from airflow.triggers.base import TriggerEvent

from tests.airflow_env import DAGS
from wat2mds.refresh import refresh
from wat2mds.snapshots import Registry
from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, write_collinfo, write_wat_listing
from wat2mds_listing import AWAITED, ListingSensor
from wat2mds_operator import stage_environment

NAME = "CC-MAIN-2025-47"
START = datetime(2025, 11, 10, tzinfo=UTC)
SNAPSHOT = CrawlSnapshot(NAME, START, START + timedelta(days=14), [CrawlSegment("1762000000000.0", START, [[]])])


class Bucket:
    """Common Crawl's lists in a bucket of this test's own."""

    def __init__(self, root: str, folder: Path) -> None:
        self.url, self.folder = f"{root}/crawl", folder
        write_collinfo(folder, [SNAPSHOT])
        write_wat_listing(folder, NAME, SNAPSHOT.segments)
        self.listing = f"{self.url}/crawl-data/{NAME}/wat.paths.gz"
        self.put("collinfo.json")

    def put(self, path: str) -> None:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=(self.folder / path).read_bytes())

    def refresh(self, registry: Registry) -> Any:
        return refresh(registry, collinfo=f"{self.url}/collinfo.json", source=self.url, whole=1)


@pytest.fixture
def bucket(s3_root: str, tmp_path: Path) -> Bucket:
    return Bucket(s3_root, tmp_path)


def forget_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)


def sensor(listing: str) -> ListingSensor:
    wait, often = timedelta(hours=6), timedelta(seconds=0.05)
    return ListingSensor(task_id="wait_for_listing", listing=listing, wait=wait, poke_interval=often)


async def first_event(classpath: str, arguments: dict[str, Any], then: Any = None) -> TriggerEvent:
    """A trigger made from what is stored of it, run as the triggerer runs it; ``then`` is called once it has begun to look."""
    event = asyncio.ensure_future(anext(pkgutil.resolve_name(classpath)(**arguments).run()))
    if then is not None:
        await asyncio.sleep(0.5)
        assert not event.done(), "nothing is there yet"
        await asyncio.to_thread(then)
    return await asyncio.wait_for(event, 60)


def test_a_listing_that_comes_is_waited_for_and_registered(
    bucket: Bucket, connection: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry((tmp_path / "store").as_uri())
    awaited = bucket.refresh(registry).awaited
    assert awaited == bucket.listing

    with monkeypatch.context() as airflow:
        forget_aws(airflow)
        waiting = sensor(awaited)
        with pytest.raises(TaskDeferred) as deferred:
            waiting.execute({})
        assert deferred.value.timeout == timedelta(hours=6)
    classpath, arguments = deferred.value.trigger.serialize()
    json.dumps(arguments)
    assert "test-secret" not in str(arguments)
    event = asyncio.run(first_event(classpath, arguments, lambda: bucket.put(f"crawl-data/{NAME}/wat.paths.gz")))
    assert event.payload["status"] == "success"
    getattr(waiting, deferred.value.method_name)({}, event.payload)

    done = bucket.refresh(registry)
    assert list(done.registered) == [NAME]
    assert done.awaited == ""
    forget_aws(monkeypatch)
    assert sensor(awaited).execute({}) is None, "what is there is not waited for"


def test_one_that_does_not_come_in_time_is_left_for_the_next_day() -> None:
    """As the scheduler resumes a task whose trigger ran out of time."""
    with pytest.raises(AirflowSkipException, match="s3://b/k did not come within 6:00:00: it is looked for again"):
        sensor("s3://b/k").resume_execution("__fail__", {"error": "Trigger timeout"}, {})


@pytest.mark.parametrize(
    ("listing", "why"), [("", "nothing is awaited"), ("https://data.commoncrawl.org/x/wat.paths.gz", "not on S3")]
)
def test_elsewhere_nothing_is_waited_for(listing: str, why: str) -> None:
    with pytest.raises(AirflowSkipException, match=why):
        sensor(listing).execute({})


def test_a_store_that_refuses_is_an_error(bucket: Bucket, connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_aws(monkeypatch)
    waiting = sensor(bucket.listing)
    with pytest.raises(TaskDeferred) as deferred:
        waiting.execute({})
    classpath, arguments = deferred.value.trigger.serialize()
    event = asyncio.run(first_event(classpath, {**arguments, "bucket_name": "no such bucket"}))
    assert event.payload["status"] == "error"
    with pytest.raises(AirflowException, match="could not be looked for"):
        waiting.execute_complete({}, event.payload)


def test_the_program_is_given_the_connection_where_only_the_source_is_on_s3(
    connection: None, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WAT2MDS_ROOT", tmp_path.as_uri())
    assert "AWS_ENDPOINT_URL" not in stage_environment()
    monkeypatch.setenv("WAT2MDS_SOURCE", "s3://commoncrawl/")
    assert stage_environment()["AWS_ENDPOINT_URL"] == s3_server


def test_the_dag_registers_after_the_wait() -> None:
    dag = DagBag(dag_folder=str(DAGS / "refresh_snapshots.py")).dags["refresh_snapshots"]
    waiting: BaseOperator = dag.get_task("wait_for_listing")
    assert waiting.listing == AWAITED
    assert waiting.upstream_task_ids == {"refresh"}
    assert dag.get_task("register").upstream_task_ids == {"wait_for_listing"}

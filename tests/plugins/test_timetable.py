"""The order in which batches run, backfills, partition keys, and a store that fails."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.timetables.base import TimeRestriction
from airflow.utils.types import DagRunType
from pendulum import instance
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import wat2mds_timetable
from wat2mds.errors import DataError
from wat2mds.snapshots import Registry, Snapshot
from wat2mds_timetable import BatchTimetable, RegistryView

SNAPSHOTS = {
    "CC-MAIN-2023-40": "2023-10-05T08:21:40",
    "CC-MAIN-2023-50": "2023-12-12T01:18:32",
    "CC-MAIN-2024-10": "2024-03-05T11:26:01",
}
SEGMENTS = ("1700679099281.0", "1700679099942.1")
ANY_TIME = TimeRestriction(earliest=None, latest=None, catchup=True)


def register(root: Path, name: str, *, wat_files: int = 5, batch_size: int = 3) -> Snapshot:
    """A snapshot of two segments, laid out as Common Crawl's."""
    source = root.parent / "source"
    listing = source / "crawl-data" / name / "wat.paths.gz"
    listing.parent.mkdir(parents=True, exist_ok=True)
    paths = [
        f"crawl-data/{name}/segments/{segment}/wat/CC-MAIN-20231128083443-20231128113443-{number:05d}.warc.wat.gz"
        for segment in SEGMENTS
        for number in range(wat_files)
    ]
    listing.write_bytes(gzip.compress("\n".join(paths).encode()))
    entries = [{"id": snapshot, "from": "2023-01-01T00:00:00", "to": end} for snapshot, end in SNAPSHOTS.items()]
    (source / "collinfo.json").write_text(json.dumps(entries))
    return Registry(str(root)).register(name, collinfo=str(source / "collinfo.json"), source=str(source), batch_size=batch_size)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store's root, named in this deployment's settings; nothing is registered."""
    monkeypatch.setenv("WAT2MDS_ROOT", (tmp_path / "root").as_uri())
    monkeypatch.setenv("WAT2MDS_REGISTRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WAT2MDS_SCHEDULE_FROM", "2023-01-01")
    monkeypatch.setattr(wat2mds_timetable, "_views", {})
    monkeypatch.setattr(wat2mds_timetable, "FRESH_SECONDS", 0)
    return tmp_path / "root"


def keys(snapshot: Snapshot) -> list[str]:
    return [batch.partition_key for batch in snapshot.batches()]


def schedule(limit: int = 50) -> list[str]:
    """The partition keys that run by themselves, as the scheduler steps through them."""
    found, last = [], None
    while (last := BatchTimetable().next_dagrun_info_v2(last_dagrun_info=last, restriction=ANY_TIME)) and len(found) < limit:
        found.append(last.partition_key)
    return found


def test_every_batch_runs_once_earliest_first(root):
    snapshot = register(root, "CC-MAIN-2023-50")
    assert schedule() == keys(snapshot)
    assert sorted(schedule()) == [f"CC-MAIN-2023-50.{segment}.b{index:02d}" for segment in SEGMENTS for index in range(2)]


def test_batches_with_the_same_time_all_run(root, monkeypatch):
    turn = wat2mds_timetable.Turn
    moment = instance(datetime(2023, 12, 12, tzinfo=UTC))
    ties = [turn(moment, moment.add(minutes=number), f"CC-MAIN-2023-50.1.0.b{number:02d}") for number in range(3)]
    monkeypatch.setattr(wat2mds_timetable, "scheduled_batches", lambda: ties)
    assert schedule() == [tie.key for tie in ties]


def test_a_snapshot_is_noticed_when_it_is_registered(root):
    first = register(root, "CC-MAIN-2023-50")
    assert schedule() == keys(first)
    # An older one registered later comes after: its time to run is when it became known.
    late = register(root, "CC-MAIN-2023-40")
    assert schedule() == keys(first) + keys(late)


def test_nothing_before_schedule_from_runs_by_itself(root, monkeypatch):
    newer = register(root, "CC-MAIN-2023-50")
    older = register(root, "CC-MAIN-2023-40")
    monkeypatch.setenv("WAT2MDS_SCHEDULE_FROM", "2023-12-01")
    assert schedule() == keys(newer)
    monkeypatch.delenv("WAT2MDS_SCHEDULE_FROM")
    assert schedule() == []
    found = BatchTimetable().iter_partition_dagrun_infos(
        earliest=datetime(2023, 10, 1, tzinfo=UTC), latest=datetime(2024, 1, 1, tzinfo=UTC)
    )
    assert [info.partition_key for info in found] == keys(older) + keys(newer), "a backfill does not ask when the schedule begins"


def test_a_backfill_covers_its_range_with_both_ends(root):
    batches = list(register(root, "CC-MAIN-2023-50").batches())
    ends = sorted(batch.partition_date for batch in batches)[1:3]
    found = list(BatchTimetable().iter_partition_dagrun_infos(earliest=ends[0], latest=ends[1]))
    assert [info.partition_key for info in found] == [b.partition_key for b in batches if ends[0] <= b.partition_date <= ends[1]]
    assert all(info.data_interval is None for info in found)
    assert len({info.partition_date for info in found}) == 2, "Airflow tells batches apart by their partition date"


@pytest.fixture
def database():
    """Airflow's tables, empty."""
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session


def ran(session: Session, key: str, run_type: DagRunType = DagRunType.SCHEDULED, conf: dict | None = None) -> DagRun:
    run = DagRun(
        dag_id="build_dataset", run_id=f"{run_type}-{key}-{len(conf or {})}", run_type=run_type, partition_key=key, conf=conf
    )
    run.run_after = run.queued_at = datetime(2026, 1, 1, tzinfo=UTC)
    session.add(run)
    session.flush()
    return run


def after(run: DagRun) -> str | None:
    """The key that Airflow schedules when it takes this run for the last one."""
    timetable = BatchTimetable()
    last = timetable.run_info_from_dag_run(dag_run=run)
    found = timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=ANY_TIME)
    return found and found.partition_key


def test_a_backfill_ahead_of_the_schedule_skips_nothing_and_repeats_nothing(root, database):
    all_keys = keys(register(root, "CC-MAIN-2023-50"))
    ahead = ran(database, all_keys[2], DagRunType.BACKFILL_JOB)
    assert after(ahead) == all_keys[0]
    ran(database, all_keys[0])
    assert after(ahead) == all_keys[1]
    ran(database, all_keys[1])
    assert after(ahead) == all_keys[3], "the batch that was backfilled does not run again"
    assert after(ran(database, all_keys[3])) is None


def test_a_late_older_snapshot_runs_each_batch_once(root, database):
    newer = keys(register(root, "CC-MAIN-2023-50"))
    last = [ran(database, key) for key in newer][-1]
    older = keys(register(root, "CC-MAIN-2023-40"))
    assert after(last) == older[0]
    ran(database, older[0])
    # Airflow still takes the newer snapshot's run for the last one: its partition date is later.
    assert after(last) == older[1]


def test_a_backfill_into_another_dataset_does_not_count(root, database):
    first, second, *_ = keys(register(root, "CC-MAIN-2023-50"))
    elsewhere = ran(database, first, DagRunType.BACKFILL_JOB, {"dataset": "elsewhere", "profile": "laion5b"})
    assert after(elsewhere) == first
    assert after(ran(database, first, DagRunType.BACKFILL_JOB, {"profile": "laion5b"})) == second


def test_partition_keys_are_checked(root):
    snapshot = register(root, "CC-MAIN-2023-50")
    timetable = BatchTimetable()
    batch = list(snapshot.batches())[1]
    assert timetable.resolve_partition_date(batch.partition_key) == batch.partition_date
    for key, hint in {
        "CC-MAIN-2023-50": "names no batch",
        "CC-MAIN-2023-50.1700679099281.0.b09": "Did you mean 'CC-MAIN-2023-50.1700679099281.0.b0",
        "CC-MAIN-2023-23.1700679099281.0.b00": "wat2mds snapshots register CC-MAIN-2023-23",
    }.items():
        with pytest.raises(InvalidPartitionKeyError, match=hint):
            timetable.resolve_partition_date(key)


def test_run_ids_name_the_batch_and_never_repeat(root):
    made = {
        BatchTimetable().generate_run_id(
            run_type=DagRunType.BACKFILL_JOB,
            run_after=instance(datetime.now(UTC)),
            data_interval=None,
            partition_key="CC.1.0.b00",
        )
        for _ in range(3)
    }
    assert len(made) == 3
    assert all(run_id.startswith("backfill__CC.1.0.b00__") for run_id in made)


def test_it_survives_serialisation(root):
    assert BatchTimetable.deserialize(json.loads(json.dumps(BatchTimetable().serialize()))).summary == "one run per batch"


def test_a_store_that_is_down_delays_nothing_and_loses_nothing(root, tmp_path, monkeypatch, caplog):
    expected = keys(register(root, "CC-MAIN-2023-50"))
    view = RegistryView(str(root), tmp_path / "cache", patience=0.2)
    assert [key for one in view.snapshots() for key in keys(one)] == expected

    hang = threading.Event()
    monkeypatch.setattr(Registry, "snapshots", lambda self: hang.wait(30))
    began = time.monotonic()
    for _ in range(20):
        assert [key for one in view.snapshots() for key in keys(one)] == expected
    assert time.monotonic() - began < 2, "a hanging store is waited for once, and briefly"
    assert "does not answer" in caplog.text

    restarted = RegistryView(str(root), tmp_path / "cache", patience=0.2)
    assert [key for one in restarted.snapshots() for key in keys(one)] == expected, (
        "a restarted scheduler goes by its copy on disk"
    )
    hang.set()


def test_a_malformed_or_vanished_registry_is_reported_and_changes_nothing(root, tmp_path, caplog):
    expected = keys(register(root, "CC-MAIN-2023-50"))
    view = RegistryView(str(root), tmp_path / "cache")
    assert [key for one in view.snapshots() for key in keys(one)] == expected
    entry = root / "registry" / "CC-MAIN-2023-50" / "snapshot.json"
    entry.write_text("{")
    with pytest.raises(DataError):
        Registry(str(root)).snapshots()
    with caplog.at_level(logging.ERROR):
        assert [key for one in view.snapshots() for key in keys(one)] == expected
    assert "snapshot.json" in caplog.text
    shutil.rmtree(root)
    while "suddenly empty" not in caplog.text:  # in the background: while the registry is bad nobody waits for it
        assert [key for one in view.snapshots() for key in keys(one)] == expected
        time.sleep(0.01)


def test_a_store_that_comes_back_is_noticed(root, tmp_path, monkeypatch):
    first = register(root, "CC-MAIN-2023-50")
    view = RegistryView(str(root), tmp_path / "cache", patience=0.2)
    assert view.snapshots() == [first]
    away = root.rename(tmp_path / "away")
    while view._answers:
        assert view.snapshots() == [first]
    away.rename(root)
    second = register(root, "CC-MAIN-2024-10")
    while view.snapshots() != [first, second]:
        time.sleep(0.01)


def test_a_share_of_each_snapshot_runs_by_itself(root, monkeypatch):
    both = [register(root, "CC-MAIN-2023-50", wat_files=30), register(root, "CC-MAIN-2024-10", wat_files=30)]
    assert len(schedule()) == 40
    monkeypatch.setenv("WAT2MDS_SCHEDULE_COVERS", "30%")
    part = schedule()
    assert part == [key for one in both for key in keys(one)[:6]]
    monkeypatch.setenv("WAT2MDS_SCHEDULE_COVERS", "segments:1")
    assert schedule() == [key for one in both for key in keys(one) if f".{SEGMENTS[1]}." in key]


def test_without_a_store_nothing_runs(monkeypatch):
    monkeypatch.delenv("WAT2MDS_ROOT", raising=False)
    assert schedule() == []

"""One DAG run for each batch of a registered snapshot.

In: the store's registry of snapshots. Out: what Airflow asks a timetable: which batch runs next, which ones a backfill covers,
whether a partition key names one. Guaranteed: a batch runs by itself once, in its turn, however many were backfilled out of turn;
nothing with a partition date before the deployment's ``schedule_from``, or beyond what ``schedule_covers``, runs by itself; a snapshot is
noticed when it is registered, without a restart; a store that is down or a registry that cannot be read delays new snapshots and nothing
else: Airflow waits for it once, for five seconds at most, and then goes by what is known. What does not belong here: what a batch is and
how keys are spelled (``wat2mds.snapshots``), how much is covered (``wat2mds.coverage``).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, Timetable
from pendulum import DateTime, instance

from wat2mds.coverage import Coverage
from wat2mds.errors import DataError, Wat2MdsError, nearest
from wat2mds.settings import deployment, digest
from wat2mds.snapshots import Registry, Snapshot, parse_partition_key

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.timetables.base import DataInterval, TimeRestriction
    from airflow.utils.types import DagRunType

log = logging.getLogger(__name__)
# How old what the scheduler goes by may be, and how long it waits for the store when it is older.
FRESH_SECONDS, PATIENCE_SECONDS = 5.0, 5.0


class Turn(NamedTuple):
    """When a registered batch runs. Turns compare in the order in which they come."""

    run_after: DateTime
    partition_date: DateTime
    key: str

    def info(self) -> DagRunInfo:
        return DagRunInfo(
            run_after=self.run_after, data_interval=None, partition_date=self.partition_date, partition_key=self.key
        )


class RegistryView:
    """The registered snapshots, as fresh as the store allows, without ever waiting for it for long.

    The store is read in the background. Its last good state is kept in memory and in ``cache``, a folder on the local disk, which a
    restarted scheduler falls back on. While the store fails, nobody waits for it.
    """

    def __init__(self, root: str, cache: Path, *, patience: float = PATIENCE_SECONDS) -> None:
        self.root = root
        self._registry: Registry | None = None
        self._cache = cache / f"registry-{digest(root)}.json"
        self._patience = patience
        self._snapshots: list[Snapshot] | None = None
        self._read_at = float("-inf")
        self._answers = True
        self._reader: threading.Thread | None = None

    def snapshots(self) -> list[Snapshot]:
        """Oldest first; empty when nothing is registered, or nothing could be read yet."""
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._refresh()
        if self._snapshots is None:
            self._snapshots = self._from_cache()
        return self._snapshots or []

    def _refresh(self) -> None:
        if self._reader is None or not self._reader.is_alive():
            self._reader = threading.Thread(target=self._read, name="wat2mds-registry", daemon=True)
            self._reader.start()
            if self._answers:
                self._reader.join(self._patience)
        if self._answers and self._reader.is_alive():
            self._answers = False
            log.error("The store %s does not answer; going on with the snapshots known so far.", self.root)

    def _read(self) -> None:
        try:
            self._registry = self._registry or Registry(self.root)
            snapshots = self._registry.snapshots()
            if not snapshots and self._snapshots:
                raise DataError("it is suddenly empty, as if the store were not there")
            if snapshots != self._snapshots:
                log.info("The registry of %s holds %d snapshots.", self.root, len(snapshots))
                self._snapshots = snapshots
                self._keep(snapshots)
            self._answers = True
        except Exception as error:  # whatever it is, the scheduler must go on
            self._answers = False
            said = error if isinstance(error, Wat2MdsError) else repr(error)
            log.error("The registry of %s cannot be read; going on with the snapshots known so far: %s", self.root, said)
        self._read_at = time.monotonic()

    def _keep(self, snapshots: list[Snapshot]) -> None:
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._cache.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps([snapshot.to_json().decode() for snapshot in snapshots]), "utf-8")
        fresh.replace(self._cache)

    def _from_cache(self) -> list[Snapshot] | None:
        try:
            kept = json.loads(self._cache.read_text("utf-8"))
            return [Snapshot.from_json(text.encode(), str(self._cache)) for text in kept]
        except (OSError, ValueError, Wat2MdsError):
            return None


_views: dict[str, RegistryView] = {}


def registered_snapshots() -> list[Snapshot]:
    """Those of this deployment's registry."""
    settings = deployment()
    if not settings.root:
        return []
    if settings.root not in _views:
        cache = Path(settings.registry_cache) if settings.registry_cache else Path(tempfile.gettempdir()) / "wat2mds"
        _views[settings.root] = RegistryView(settings.root, cache)
    return _views[settings.root].snapshots()


# A snapshot has some thousand batches and there are more than a hundred snapshots: turns are made when they are asked for, and kept.
@lru_cache(maxsize=512)
def turns(snapshot: Snapshot, covers: str = "all", since: datetime | None = None) -> tuple[Turn, ...]:
    """A snapshot's batches as the schedule covers them, in running order."""
    batches = Coverage.parse(covers).batches(snapshot, since)
    return tuple(sorted(Turn(instance(b.run_after), instance(b.partition_date), b.partition_key) for b in batches))


def scheduled_batches() -> list[Turn]:
    """Those that run by themselves."""
    place = deployment()
    if (since := place.schedule_from) is None:
        return []
    recent = [snapshot for snapshot in registered_snapshots() if snapshot.last_date >= since]
    return sorted(turn for snapshot in recent for turn in turns(snapshot, place.schedule_covers, since))


class BatchTimetable(Timetable):
    """Schedules a partitioned DAG: one run a batch, its partition key the batch's."""

    description = "One run for each batch of a registered Common Crawl snapshot, in a shuffled order that spreads load"
    partitioned = True
    periodic = True
    # Batches are backfilled out of turn; people look for the newest run.
    run_ordering = ("queued_at",)

    @property
    def summary(self) -> str:
        return "one run per batch"

    def next_dagrun_info_v2(self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction) -> DagRunInfo | None:
        for batch in scheduled_batches():
            if last_dagrun_info is not None and batch <= _position(last_dagrun_info):
                continue
            if restriction.earliest is not None and batch.partition_date < restriction.earliest:
                continue
            if restriction.latest is not None and batch.partition_date > restriction.latest:
                continue
            return batch.info()
        return None

    def run_info_from_dag_run(self, *, dag_run: DagRun) -> DagRunInfo:
        """Where the schedule stands, seen from the run that Airflow takes for the last one.

        Airflow takes the run with the latest partition date, backfills included (3.3.2, ``_get_latest_runs_stmt_partitioned``).
        Taken at its word, a backfill ahead of the schedule would make it skip all between, and a snapshot registered late would
        run its first batch again and again. So the schedule stands just before the first batch that has not run.
        """
        from airflow.models.dagrun import DagRun as Run
        from airflow.utils.types import DagRunType
        from sqlalchemy import select
        from sqlalchemy.orm import object_session

        session = object_session(dag_run)
        if session is None:
            return super().run_info_from_dag_run(dag_run=dag_run)
        of_this_dag = select(Run.partition_key, Run.conf).where(Run.dag_id == dag_run.dag_id, Run.partition_key.is_not(None))
        ran = set(session.scalars(of_this_dag.where(Run.run_type == DagRunType.SCHEDULED)))
        for key, conf in session.execute(of_this_dag.where(Run.run_type == DagRunType.BACKFILL_JOB)):
            # A backfill into another dataset does not spare this one its run.
            if (conf or {}).get("dataset") in (None, "", deployment().dataset):
                ran.add(key)
        before: Turn | None = None
        for batch in scheduled_batches():
            if batch.key not in ran:
                break
            before = batch
        return before.info() if before else DagRunInfo(run_after=_EPOCH, data_interval=None, partition_date=_EPOCH)

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """A backfill's runs: every registered batch in the range, whether or not it would run by itself; snapshots oldest first, each
        in its running order."""
        for snapshot in registered_snapshots():
            if earliest <= snapshot.last_date and snapshot.end <= latest:
                yield from (turn.info() for turn in turns(snapshot) if earliest <= turn.partition_date <= latest)

    def _decode_partition_date(self, partition_key: str) -> datetime:
        try:
            name = parse_partition_key(partition_key)[0]
        except Wat2MdsError as error:
            raise InvalidPartitionKeyError(str(error)) from error
        snapshot = next((snapshot for snapshot in registered_snapshots() if snapshot.id == name), None)
        if snapshot is None:
            raise InvalidPartitionKeyError(
                f"{partition_key!r}: {name} is not registered. Register it: wat2mds snapshots register {name}"
            )
        known = {turn.key: turn.partition_date for turn in turns(snapshot)}
        if partition_key not in known:
            raise InvalidPartitionKeyError(f"{name} has no batch {partition_key!r}.{nearest(partition_key, known)}")
        return known[partition_key]

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        return None  # type: ignore[return-value]  # runs of a partitioned DAG have none; Airflow asks all the same

    def generate_run_id(
        self, *, run_type: DagRunType, run_after: DateTime, data_interval: DataInterval | None, **extra: Any
    ) -> str:
        # The time of creation, because a backfill that reprocesses makes a second run of a batch beside the first.
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        return run_type.generate_run_id(suffix="__".join(filter(None, [extra.get("partition_key"), now])))


_EPOCH = instance(datetime.min.replace(tzinfo=UTC) + timedelta(days=1))


def _position(info: DagRunInfo) -> Turn:
    return Turn(info.run_after, info.partition_date or info.run_after, info.partition_key or "")

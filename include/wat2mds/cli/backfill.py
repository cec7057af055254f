"""backfill: Airflow's own backfill over registered snapshots, looked at before it is made.

What a run would redo is read from the manifests that lie in the store, what it costs from their records. Airflow's limits (one active
backfill a DAG; runs of a paused DAG do not start; one range of dates) are met before anything is made.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

import typer

from wat2mds.cli.options import Dataset, Overrides, Profile, emit, resolve_settings, store_root
from wat2mds.costs import in_words, past_costs
from wat2mds.deploy.follow import airflow_client
from wat2mds.deploy.rest import AirflowClient
from wat2mds.errors import ConfigError, nearest
from wat2mds.plan import expected_digests, parse_ranges
from wat2mds.reprocess import Outlook, outlook
from wat2mds.settings import STAGES, Settings, deployment
from wat2mds.snapshots import Registry, Snapshot
from wat2mds.store import Layout, Store, join

log = logging.getLogger(__name__)
DAG = "build_dataset"
_REPROCESS = ("none", "failed", "completed")


def register(app: typer.Typer) -> None:
    app.command()(backfill)


def backfill(
    first: Annotated[str, typer.Option("--from", help="First snapshot of the range.", metavar="SNAPSHOT")],
    last: Annotated[
        str | None, typer.Option("--to", help="Last snapshot of the range. Default: the same.", metavar="SNAPSHOT")
    ] = None,
    segments: Annotated[
        str | None,
        typer.Option(
            help="Of one snapshot: a range of segments by Common Crawl's own numbers, 0-9. Default: all.", metavar="RANGE"
        ),
    ] = None,
    from_stage: Annotated[
        str | None,
        typer.Option(
            help="Nothing before this stage may be redone because of settings: extract, dedup, download, filter, validate, convert "
            "or upload. Implies --reprocess completed.",
            metavar="STAGE",
        ),
    ] = None,
    profile: Profile = None,
    overrides: Overrides = None,
    dataset: Dataset = None,
    reprocess: Annotated[
        str | None, typer.Option(help="Batches that ran before: none, failed or completed are run again. Default: none.")
    ] = None,
    max_active_runs: Annotated[int, typer.Option(help="Runs at a time.", min=1, max=100)] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show run by run what would be redone, and its cost.")] = False,
) -> None:
    """Have Airflow's own backfill build every batch of a range of registered snapshots, from the stage whose settings changed."""
    if reprocess is not None and reprocess not in _REPROCESS:
        raise ConfigError(f"--reprocess is none, failed or completed, not {reprocess!r}")
    given = resolve_settings(None, profile, overrides)
    _require_later(from_stage, overrides or [])
    registry = Registry(store_root(None))
    chosen = registry.get(first), registry.get(last or first)
    begin, end = _range(chosen, segments)
    layout = Layout(store_root(None), dataset or deployment().dataset)
    named = {"profile": profile, "dataset": dataset, "settings": "\n".join(overrides or []) or None}
    request: dict[str, Any] = {
        "reprocess": reprocess or ("completed" if from_stage else "none"),
        "max_active_runs": max_active_runs,
        "conf": {name: value for name, value in named.items() if value is not None},
    }
    with airflow_client() as airflow:
        listed = airflow.backfill(DAG, begin.isoformat(), end.isoformat(), dry_run=True, **request)["backfills"]
        looked = _Looked(registry, layout, given)
        runs = [looked.at(entry["partition_key"]) for entry in listed]
        for run in runs:
            log.info("%s %s: %s", "would run" if dry_run else "runs", run.key, run.told())
        _require_from(from_stage, runs)
        estimate = looked.estimate(runs)
        log.info("%d runs: %s", len(runs), estimate)
        if dry_run:
            found = {run.key: {"wat_files": run.wat_files, "done": run.done, "from": dict(run.first)} for run in runs}
            emit({"dry_run": True, "runs": len(runs), "batches": found, "estimate": estimate})
            return
        _require_free(airflow, listed, request["reprocess"])
        made = airflow.backfill(DAG, begin.isoformat(), end.isoformat(), **request)
        log.info(
            "follow it with `wat2mds status`; pause or cancel it on the DAG's page, %s/dags/%s/backfills", airflow.base_url, DAG
        )
        emit({"backfill": made["id"], "from": made["from_date"], "to": made["to_date"], "runs": len(runs), "estimate": estimate})


@dataclass
class _Run:
    """One batch. ``first``: WAT files by the first stage that is made anew; ``made``: by every such stage; ``lost``: by stages whose
    files are gone; ``new``: WAT files of which nothing was ever built."""

    key: str
    wat_files: int = 0
    done: int = 0
    new: int = 0
    first: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    redone: set[str] = field(default_factory=set)  # first stages of WAT files that were complete under other settings

    def add(self, seen: Outlook) -> None:
        self.wat_files += 1
        self.made.update(seen.made)
        self.lost.update(seen.lost)
        if seen.first is None:
            self.done += 1
            return
        self.first[seen.first] += 1
        self.new += not seen.begun
        # A stage that was complete before, under other settings: it is redone because of them, not for want of its files.
        changed = [stage for stage in seen.made if stage in seen.begun and stage not in seen.lost]
        if changed and changed[0] == seen.first:
            self.redone.add(seen.first)

    def told(self) -> str:
        parts = [f"{count} from {stage}" for stage, count in self.first.items()]
        parts += [f"{self.done} done already"] if self.done else []
        parts += [f"{self.new} never built"] if self.new else []
        parts += [f"files of {stage} of {count} are gone: made again" for stage, count in self.lost.items()]
        return f"{self.wat_files} WAT files: {', '.join(parts)}"


class _Looked:
    """What lies in a dataset's work folders, a segment a look."""

    def __init__(self, registry: Registry, layout: Layout, given: Settings) -> None:
        self._registry, self._layout = registry, layout
        self._digests = expected_digests(given)
        self._lying = lru_cache(maxsize=4)(self._segment)

    def at(self, key: str) -> _Run:
        snapshot, segment, files = self._registry.batch(key)
        lying = self._lying(snapshot.id, segment.name)
        run = _Run(key)
        for file in files:
            run.add(outlook(lying.get(file.number, ()), self._digests))
        return run

    def _segment(self, snapshot: str, segment: str) -> dict[str, list[str]]:
        """Paths below each WAT file's folder."""
        found: dict[str, list[str]] = {}
        store = Store(join(self._layout.dataset, "work", snapshot, segment))
        for entry in store.walk():
            number, _, path = entry.path.partition("/")
            found.setdefault(number, []).append(path)
        return found

    def estimate(self, runs: Iterable[_Run]) -> str:
        runs = list(runs)
        made: Counter[str] = Counter()
        lost: Counter[str] = Counter()
        for run in runs:
            made += run.made
            lost += run.lost
        costs, cores = past_costs(self._layout.dataset), os.cpu_count() or 1
        if lost:
            log.warning(
                "Intermediate files are gone (retention) and are made again: %s. That alone: %s",
                *(", ".join(f"{stage} of {count} WAT files" for stage, count in lost.items()), in_words(lost, costs, cores)),
            )
        return in_words(made, costs, cores)


def _range(chosen: tuple[Snapshot, Snapshot], segments: str | None) -> tuple[datetime, datetime]:
    """First and last partition date. Raises ConfigError where no range of dates holds exactly what is asked for."""
    oldest, newest = chosen
    if newest.end < oldest.end:
        raise ConfigError(f"{newest.id} is older than {oldest.id}: --from names the older one")
    if segments is None:
        return oldest.end, newest.last_date
    if oldest != newest:
        raise ConfigError("--segments is for one snapshot: give the same for --from and --to")
    names = {oldest.segment(str(number)).name for number in parse_ranges(segments, "segments")}
    dates = [batch.partition_date for batch in oldest.batches() if batch.segment in names]
    between = {batch.segment for batch in oldest.batches() if min(dates) <= batch.partition_date <= max(dates)}
    if between != names:
        raise ConfigError(
            f"--segments {segments}: Airflow's backfill takes one range of dates, and this one holds {len(between) - len(names)} other "
            f"segments of {oldest.id}: make a backfill of each range of numbers that follow each other, or of each segment"
        )
    return min(dates), max(dates)


def _position(stage: str) -> int:
    return STAGES.index({"scores": "filter"}.get(stage, stage))


def _require_later(from_stage: str | None, overrides: list[str]) -> None:
    if from_stage is None:
        return
    if from_stage not in STAGES:
        raise ConfigError(
            f"--from-stage: there is no stage {from_stage!r}.{nearest(from_stage, STAGES)} It is one of {', '.join(STAGES)}"
        )
    for override in overrides:
        stage = override.partition(".")[0].strip()
        if stage in STAGES and _position(stage) < _position(from_stage):
            raise ConfigError(f"--set {override} changes {stage}, which comes before {from_stage}: give --from-stage {stage}")


def _require_from(from_stage: str | None, runs: Iterable[_Run]) -> None:
    """Raises ConfigError where settings would redo a stage before that from which is asked for."""
    if from_stage is None:
        return
    earlier = {stage: run.key for run in runs for stage in run.redone if _position(stage) < _position(from_stage)}
    if earlier:
        stage, key = min(earlier.items(), key=lambda item: _position(item[0]))
        raise ConfigError(
            f"{key} would be redone from {stage}, before {from_stage}: it was built under other settings of {stage} (another profile, "
            f"another environment, or by another version of wat2mds). Give these, or --from-stage {stage}"
        )


def _require_free(airflow: AirflowClient, listed: list[Any], reprocess: str) -> None:
    """Airflow's limits, before it meets them. Raises ConfigError."""
    if not listed:
        raise ConfigError(
            f"no run to make: every batch of the range ran before and --reprocess is {reprocess}. To run them again: --reprocess completed"
        )
    active = [entry for entry in airflow.backfills(DAG) if entry["completed_at"] is None]
    if active:
        one = active[0]
        raise ConfigError(
            f"backfill {one['id']} of {DAG} is still active ({one['from_date']} to {one['to_date']}), and Airflow runs one a DAG. Wait for "
            f"it (`wat2mds status`; it ends up to half a minute after its last run), or cancel it: {airflow.base_url}/dags/{DAG}/backfills"
        )
    if airflow.wait_for_dag(DAG, timeout=0)["is_paused"]:
        raise ConfigError(
            f"{DAG} is paused, and runs of a paused DAG do not start. Unpause it first, by its switch in the web UI or `airflow dags "
            f"unpause {DAG}`; what the schedule covers then runs as well, which `wat2mds schedule` shows"
        )
    if reprocess != "none":
        log.info("A batch that ran before gets a new run beside the old one: Airflow keeps both, and the newest counts.")

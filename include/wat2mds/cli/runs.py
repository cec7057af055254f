"""Commands about whole runs: plan and report, which the DAG calls, and run and status, which ask Airflow."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from datetime import datetime
from typing import Annotated, Any

import typer

from wat2mds import plan as plans
from wat2mds.cli.failures import list_failures
from wat2mds.cli.options import Dataset, Overrides, Profile, Root, SettingsFile, emit, resolve_settings, store_root
from wat2mds.deploy.follow import airflow_client, trigger_and_follow
from wat2mds.deploy.rest import AirflowClient
from wat2mds.errors import ConfigError, DataError, Wat2MdsError
from wat2mds.figures import Figures
from wat2mds.imports import find_files, number_files
from wat2mds.layout import join, progress_path
from wat2mds.plan import choose_wat_files, estimate, parse_ranges, plan_run, require_import_name
from wat2mds.report import make_report, require_green
from wat2mds.reprocess import forget_lost
from wat2mds.retention import mark_planned
from wat2mds.settings import FIRST_STAGES, Settings, deployment
from wat2mds.snapshots import Registry
from wat2mds.store import Store

log = logging.getLogger(__name__)
DAG = "build_dataset"
WatFiles = Annotated[str, typer.Option(help="WAT files by number in the segment, as ranges: 0-9,17.", metavar="RANGES")]
Segment = Annotated[str, typer.Option(help="Segment by Common Crawl's own number (0 to 99) or name.")]
SnapshotName = Annotated[str | None, typer.Option(help="Registered snapshot, CC-MAIN-YYYY-WW. Default: the newest.")]


def register(app: typer.Typer) -> None:
    for command in (plan, plan_import, report, run, status):
        app.command(command.__name__.replace("_", "-"))(command)


def plan(
    snapshot: SnapshotName = None,
    segment: Segment = "0",
    wat_files: WatFiles = "0",
    partition_key: Annotated[str | None, typer.Option(help="A whole batch, e.g. CC-MAIN-2023-50.1700679099281.67.b03.")] = None,
    root: Root = None,
    dataset: Dataset = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Say what a run covers: one unit a WAT file, with where each lies."""
    place = deployment()
    given = resolve_settings(settings, profile, overrides)
    chosen = choose_wat_files(
        Registry(store_root(root)), partition_key=partition_key, snapshot=snapshot, segment=segment, wat_files=wat_files
    )
    units = plan_run(store_root(root), dataset or place.dataset, given, chosen)
    log.info(
        "%s: %d WAT files of segment %s, %s to %s", chosen[2], len(units), chosen[1], units[0]["wat_file"], units[-1]["wat_file"]
    )
    log.info("%s", estimate(len(units), os.cpu_count() or 1))
    _hand_on(units, given)


def plan_import(
    files: Annotated[
        list[str], typer.Argument(help="Parquet files, folders, or patterns such as DIR/part-*.parquet.", metavar="FILE")
    ],
    name: Annotated[str, typer.Option(help="The import's name, such as laion400m; stands where a snapshot's does.")],
    numbers: Annotated[
        str | None,
        typer.Option(help="Files by number in the import, as ranges: 0-9,17. Default: all that are named.", metavar="RANGES"),
    ] = None,
    root: Root = None,
    dataset: Dataset = None,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Say what an import of lists of pairs covers: one unit a parquet file."""
    given = resolve_settings(settings, profile, overrides)
    place, chosen = store_root(root), dataset or deployment().dataset
    found = number_files(place, chosen, require_import_name(name), find_files(files, given.import_.hub))
    if numbers is not None:
        wanted = set(parse_ranges(numbers))
        found = [file for file in found if int(file[0]) in wanted]
    units = plans.plan_import(place, chosen, given, name, found)
    log.info("%s: %d files of %s, %s to %s", units[0]["batch"], len(units), name, units[0]["source"], units[-1]["source"])
    _hand_on(units, given)


def _hand_on(units: list[plans.WatUnit], settings: Settings) -> None:
    """The end of either plan: where it leads, and the units for the tasks that follow."""
    log.info("dataset %s, profile %s, settings %s", units[0]["dataset"], settings.profile, units[0]["settings"])
    for unit in units:
        mark_planned(unit)
        if lost := forget_lost(unit):
            log.warning(
                "WAT file %s: intermediate files of %s are gone (retention) and are needed: made again",
                *(unit["wat_file"], ", ".join(lost)),
            )
    emit({"stage": "plan", "batch": units[0]["batch"], "counts": {"wat_files": len(units)}, "units": units})


def report(
    works: Annotated[list[str], typer.Argument(help="Work folders of the WAT files.", metavar="WORK")],
    dataset: Annotated[str, typer.Option(help="The dataset's folder: <root>/datasets/<name>.", metavar="URL")],
    batch: Annotated[str, typer.Option(help="Name of the batch.")],
    first_stage: Annotated[str, typer.Option(help="What the WAT files began with: extract, import or retry.")] = "extract",
    allowed_failed_share: Annotated[float, typer.Option(help="Share of WAT files that may fail, 0 to 1.", min=0, max=1)] = 0.01,
    settings: SettingsFile = None,
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Print a run's funnel; exit 65 if it does not reconcile or too much failed."""
    if first_stage not in FIRST_STAGES:
        raise ConfigError(f"--first-stage is one of {', '.join(FIRST_STAGES)}, not {first_stage!r}")
    made = make_report(works, dataset, batch, resolve_settings(settings, profile, overrides), first_stage)
    for line in made.text().splitlines():
        log.info("%s", line)
    require_green(made, allowed_failed_share)
    emit(
        {
            "stage": "report",
            "report": made.url,
            "version": made.version,
            "counts": {"wat_files": made.wat_files, "failed": len(made.failed), "published": made.published},
        }
    )


def run(
    snapshot: SnapshotName = None,
    segment: Segment = "0",
    wat_files: WatFiles = "0",
    dataset: Dataset = None,
    profile: Profile = None,
    image_size: Annotated[int | None, typer.Option(help="Side of stored images, pixels. Default: the profile's.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for the run and show each task as it ends.")] = True,
) -> None:
    """Trigger the DAG build_dataset in Airflow and follow it."""
    place = deployment()
    if snapshot is not None and place.root:
        # A snapshot that is not registered yet is fetched from Common Crawl's listing: no step is left to forget.
        Registry(place.root).register(snapshot, collinfo=place.collinfo, source=place.source)
    conf: dict[str, Any] = {"segment": segment, "wat_files": wat_files}
    conf |= {
        k: v
        for k, v in {"snapshot": snapshot, "dataset": dataset, "profile": profile, "image_size": image_size}.items()
        if v is not None
    }
    done = trigger_and_follow(DAG, conf, follow, sys.stderr)
    emit(done)
    if done["state"] == "failed":
        raise DataError(f"the run is red: open {done['url']}, or read the log of its failed task")


def status(
    failures: Annotated[
        bool, typer.Option("--failures", help="What failed to download of the published WAT files, instead of runs.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="With --failures: write each to a .parquet or .csv file.", metavar="FILE")
    ] = None,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """The newest runs of build_dataset: downloads with rate, failures and time left, backfills; with --failures, what failed."""
    if failures or out:
        list_failures(store_root(root), dataset, out)
        return
    with airflow_client() as airflow:
        everything = airflow.runs(DAG)
        runs = everything[-10:]
        downloads: dict[str, dict[str, Any]] = {}
        for entry in runs:
            run_id = entry["dag_run_id"]
            log.info("%-8s %s", entry["state"], airflow.link(DAG, run_id))
            if entry["state"] == "running":
                downloads[run_id] = _downloads(airflow, run_id)
        found = _backfills(airflow, everything)
        emit({"runs": {entry["dag_run_id"]: entry["state"] for entry in runs}, "downloads": downloads, "backfills": found})


def _backfills(airflow: AirflowClient, runs: list[dict[str, Any]]) -> dict[int, dict[str, int]]:
    """Runs by state of the backfills that are not complete, each said too."""
    found = {}
    for entry in airflow.backfills(DAG):
        if entry["completed_at"] is not None:
            continue
        since = datetime.fromisoformat(entry["created_at"])
        members = [r for r in runs if r["run_type"] == "backfill" and datetime.fromisoformat(r["queued_at"]) >= since]
        states = dict(sorted(Counter(run["state"] for run in members).items()))
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        log.info("backfill %d%s: %s", entry["id"], ", paused" if entry["is_paused"] else "", told)
        found[entry["id"]] = states
    return found


def _downloads(airflow: AirflowClient, run_id: str) -> dict[str, Any]:
    """Figures of a run's downloads by WAT file, each said too."""
    numbers = [
        task["map_index"]
        for task in airflow.tasks(DAG, run_id)
        if task["task_id"].rpartition(".")[2] == "download" and task["state"] == "running"
    ]
    units = airflow.xcom(DAG, run_id, "plan") if numbers else []
    found = {}
    for unit in (units[number] for number in numbers):
        path = progress_path(unit["digests"]["download"])
        try:
            content = Store(join(unit["work"], "download")).read_json(path)
            figures, at = Figures.of(content)
        except FileNotFoundError:
            log.info("    WAT file %s: no figures yet", unit["wat_file"])
            continue
        except (Wat2MdsError, ValueError, TypeError, KeyError) as error:
            log.warning("    WAT file %s: its figures cannot be read: %s", unit["wat_file"], error)
            continue
        log.info("    WAT file %s, %.0f s ago: %s", unit["wat_file"], time.time() - at, figures.told())
        found[unit["wat_file"]] = content
    return found

"""Commands about what runs by itself: refresh-snapshots, which the DAG of that name calls daily, and schedule."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from wat2mds.cli.options import Dataset, Root, emit, store_root
from wat2mds.costs import in_words, past_costs
from wat2mds.coverage import Coverage
from wat2mds.errors import ConfigError
from wat2mds.refresh import refresh
from wat2mds.settings import deployment
from wat2mds.snapshots import Registry
from wat2mds.store import Layout

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    for command in (refresh_snapshots, schedule):
        app.command(command.__name__.replace("_", "-"))(command)


def refresh_snapshots(
    root: Root = None,
    source: Annotated[
        str | None, typer.Option(help="Where crawl-data/ lies: URL or folder. Default: WAT2MDS_SOURCE.", metavar="URL")
    ] = None,
    collinfo: Annotated[str | None, typer.Option(help="List of snapshots. Default: WAT2MDS_COLLINFO.", metavar="URL")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be registered.")] = False,
) -> None:
    """Register every snapshot of Common Crawl's list that is whole and not registered yet; say of the others why not."""
    place = deployment()
    done = refresh(
        Registry(store_root(root)),
        collinfo=collinfo or place.collinfo,
        source=source or place.source,
        whole=place.snapshot_segments,
        dry_run=dry_run,
    )
    for name, reason in done.left.items():
        log.info("left for the next refresh: %s: %s", name, reason)
    for name, segments in done.registered.items():
        files = sum(segment.wat_file_count for segment in segments)
        log.info(
            "%s: %s, %d segments, %s WAT files",
            "would be registered" if dry_run else "registered",
            name,
            len(segments),
            f"{files:,}",
        )
    emit(
        {
            "listed": done.listed,
            "known": done.known,
            "registered": list(done.registered),
            "left": done.left,
            "awaited": "" if dry_run else done.awaited,
            "dry_run": dry_run,
        }
    )


def schedule(
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="First partition date, UTC: batches of snapshots that ended earlier do not run. Default: WAT2MDS_SCHEDULE_FROM.",
            metavar="DATE",
        ),
    ] = None,
    covers: Annotated[
        str | None,
        typer.Option(
            help="How much of each snapshot: all, a share such as 10%, or segments:0-9,17. Default: WAT2MDS_SCHEDULE_COVERS.",
            metavar="PART",
        ),
    ] = None,
    root: Root = None,
    dataset: Dataset = None,
) -> None:
    """Show what runs by itself, with hours and terabytes; with --from or --covers, what would: look before you switch it on."""
    place = deployment()
    start = _moment(since) if since is not None else place.schedule_from
    part = covers or place.schedule_covers
    coverage = Coverage.parse(part)
    found: dict[str, dict[str, int]] = {}
    for snapshot in Registry(store_root(root)).snapshots():
        if start is None or snapshot.last_date < start:
            continue
        batches = coverage.batches(snapshot, start)
        files = sum(len(snapshot.members(snapshot.segment(batch.segment), batch.index)) for batch in batches)
        if batches:
            found[snapshot.id] = {"batches": len(batches), "of_batches": snapshot.batch_count, "wat_files": files}
            log.info("%s: %d of %d batches, %s WAT files", snapshot.id, len(batches), snapshot.batch_count, f"{files:,}")
    total = sum(entry["wat_files"] for entry in found.values())
    costs = past_costs(Layout(store_root(root), dataset or place.dataset).dataset)
    cores = os.cpu_count() or 1
    words = in_words(dict.fromkeys([*costs, "download"], total), costs, cores)
    if start is None:
        log.info(
            "Nothing runs by itself: WAT2MDS_SCHEDULE_FROM is not set. `wat2mds schedule --from 2025-01-01` shows what it would start."
        )
    else:
        log.info("%s WAT files: %s.", f"{total:,}", words)
    differs = start != place.schedule_from or part != place.schedule_covers
    if differs and start is not None:
        log.info(
            "This is not what is set. To switch it on, give every component of Airflow WAT2MDS_SCHEDULE_FROM=%s "
            "WAT2MDS_SCHEDULE_COVERS=%s and restart it.",
            *(start.isoformat(), part),
        )
    emit(
        {
            "from": start.isoformat() if start else None,
            "covers": part,
            "set": not differs,
            "snapshots": found,
            "wat_files": total,
            "estimate": words if start else None,
        }
    )


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--from {text!r} is no date: write 2025-01-01 or 2025-01-01T12:00:00+00:00") from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found

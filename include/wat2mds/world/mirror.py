"""Lays out a local mirror of Common Crawl: ``collinfo.json``, ``crawl-data/<snapshot>/wat.paths.gz`` and the WAT files that it lists.

In: snapshots with the pages of each WAT file. Out: a folder that stands for https://data.commoncrawl.org/ and, by its
``collinfo.json``, for https://index.commoncrawl.org/. Guaranteed: names as Common Crawl's; the same arguments give the same bytes.
What does not belong here: the records themselves (``wat_writer.py``); reading such a mirror (``snapshots.py``).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wat2mds.world.page import Page
from wat2mds.world.wat_writer import write_wat

# A segment's files carry its first and last fetch in their names; Common Crawl's span three hours.
_SEGMENT_HOURS = timedelta(hours=3)


@dataclass(frozen=True)
class CrawlSegment:
    """A segment by Common Crawl's name, such as ``1707947473347.0``, and the pages of each of its WAT files in order."""

    name: str
    start: datetime
    wat_files: Sequence[Sequence[Page]]


@dataclass(frozen=True)
class CrawlSnapshot:
    """A snapshot with the times that ``collinfo.json`` gives."""

    name: str
    start: datetime
    end: datetime
    segments: Sequence[CrawlSegment]


def wat_path(snapshot: str, segment: str, start: datetime, number: int) -> str:
    """One line of ``wat.paths.gz``."""
    begin, end = (moment.astimezone(UTC).strftime("%Y%m%d%H%M%S") for moment in (start, start + _SEGMENT_HOURS))
    return f"crawl-data/{snapshot}/segments/{segment}/wat/CC-MAIN-{begin}-{end}-{number:05d}.warc.wat.gz"


def write_mirror(folder: Path, snapshots: Iterable[CrawlSnapshot]) -> list[Path]:
    """Write everything; returns the WAT files in listed order, the newest snapshot's first."""
    newest_first = sorted(snapshots, key=lambda s: s.end, reverse=True)
    write_collinfo(folder, newest_first)
    written = []
    for snapshot in newest_first:
        write_wat_listing(folder, snapshot.name, snapshot.segments)
        for segment in snapshot.segments:
            for number, pages in enumerate(segment.wat_files):
                path = folder / wat_path(snapshot.name, segment.name, segment.start, number)
                write_wat(path, pages, snapshot=snapshot.name)
                written.append(path)
    return written


def write_wat_listing(folder: Path, snapshot: str, segments: Iterable[CrawlSegment]) -> list[str]:
    """Write ``wat.paths.gz`` of one snapshot; returns its lines."""
    lines = [
        wat_path(snapshot, segment.name, segment.start, number)
        for segment in segments
        for number in range(len(segment.wat_files))
    ]
    listing = folder / "crawl-data" / snapshot / "wat.paths.gz"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    return lines


def write_collinfo(folder: Path, snapshots: Iterable[CrawlSnapshot]) -> None:
    entries = [
        {
            "id": snapshot.name,
            "name": f"{snapshot.end:%B %Y} Index",
            "timegate": f"https://index.commoncrawl.org/{snapshot.name}/",
            "cdx-api": f"https://index.commoncrawl.org/{snapshot.name}-index",
            "from": snapshot.start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "to": snapshot.end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        }
        for snapshot in snapshots
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "collinfo.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")

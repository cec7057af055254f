"""Intermediate files and reports without what is taken down.

In: a dataset's newest version, which is without it. Out: the paths that went. Guaranteed: manifests stay, and upload's says what there is
of the WAT file now, so that what is done stays done and a run that asks for it again makes nothing; what other settings need is made
again (``reprocess.forget_lost``), without what is listed. WAT files that are not published and that somebody worked on within a day are
left and named. What does not belong here: published objects (``removing.py``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import unescape

import pyarrow as pa

from wat2mds.errors import DataError
from wat2mds.manifest import read_manifest
from wat2mds.quality import wat_file_page
from wat2mds.store import Object, Store, join
from wat2mds.takedown.entries import Entries
from wat2mds.takedown.finding import tables
from wat2mds.takedown.guard import rewrite
from wat2mds.takedown.removing import AT_WORK
from wat2mds.units import PublishedUnit, Units, segment_of, unit_key

log = logging.getLogger(__name__)
_MANIFEST = re.compile(r"(scores/|blocked/)?[0-9a-f]{12}\.json")
_UID = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_COMMAND = re.compile(r"<pre>(.*?)</pre>", re.DOTALL)


@dataclass
class Cleaned:
    """Paths from the dataset's folder; ``waiting``: WAT files that may be at work."""

    removed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def clean_work(dataset: Store, units: Units, entries: Entries, *, alone: bool, whole: bool) -> Cleaned:
    """``alone``: no run is at work. ``whole``: also WAT files that lost samples and whose tables name none of them any more: what a killed
    attempt left of images has no table."""
    done = Cleaned()
    work = Store(join(dataset.url, "work"))
    for key, place, objects in _wat_files(work):
        unit = units.segment(segment_of(key)).get(key)
        if unit is not None and unit.built:
            _follow(work, place, objects, unit)
        named = any(entry.path.endswith(".parquet") and _holds(work, entry.path, entries) for entry in objects)
        if not named and not (whole and unit is not None and unit.built):
            continue
        if unit is None and not alone and max(entry.modified for entry in objects) > datetime.now(UTC) - AT_WORK:
            done.waiting.append(key)
            continue
        for entry in sorted(objects, key=lambda entry: entry.path.endswith(".parquet")):
            if unit is None or not _stays(work, entry.path.removeprefix(f"{place}/"), entry.path, unit):
                work.delete(entry.path)
                done.removed.append(f"work/{entry.path}")
        units.forget(segment_of(key))
    return done


def concerned(work: Store, entries: Entries) -> dict[str, int]:
    """How many tables of each WAT file's intermediate files name what is listed, by key; none are left out."""
    found = {}
    for key, _, objects in _wat_files(work):
        if count := sum(_holds(work, entry.path, entries) for entry in objects if entry.path.endswith(".parquet")):
            found[key] = count
    return found


def clean_reports(dataset: Store, entries: Entries) -> list[str]:
    """Reports of the search page on what is gone, and examples in quality reports; the paths that were removed or changed."""
    changed = []
    for entry in dataset.walk("reports/takedown"):
        if entries.holds("uid", entry.path.rpartition("/")[2].partition("-")[0]):
            dataset.delete(entry.path)
            changed.append(entry.path)
    for entry in dataset.walk("reports/quality"):
        if not entry.path.endswith(".json"):
            continue
        report = dataset.read_json(entry.path)
        concerned = [
            e for e in report.get("expectations", ()) if e["examples"] and _names(json.dumps(e["examples"]).encode(), entries)
        ]
        if not concerned:
            continue
        for expectation in concerned:
            expectation["examples"] = []
        page = f"{entry.path.removesuffix('.json')}.html"
        command = _COMMAND.findall(dataset.read(page).decode()) if dataset.exists(page) else []
        dataset.write(page, wat_file_page(report, unescape(command[-1]) if command else ""))
        dataset.write(entry.path, json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False).encode())
        changed += [entry.path, page]
    return changed


def _wat_files(work: Store) -> Iterator[tuple[str, str, list[Object]]]:
    """(key, folder below work/, objects) of each WAT file; a segment at a time."""
    for snapshot in work.names()[1]:
        for segment in work.names(snapshot)[1]:
            found: dict[str, list[Object]] = {}
            for entry in work.walk(f"{snapshot}/{segment}"):
                found.setdefault("/".join(entry.path.split("/")[:3]), []).append(entry)
            for place, objects in found.items():
                yield unit_key(snapshot, segment, place.rpartition("/")[2]), place, objects


def _follow(work: Store, place: str, objects: list[Object], unit: PublishedUnit) -> None:
    """Let upload's manifests say what there is of a WAT file that lost samples; those of what is in no version go."""
    for entry in objects:
        if not re.fullmatch(rf"{re.escape(place)}/upload/[0-9a-f]{{12}}\.json", entry.path):
            continue
        upload = read_manifest(join(work.url, entry.path))
        if upload.extra.get("built") or upload.extra["unit_name"] != unit.unit_name:
            built = upload.extra.get("built") or upload.extra["unit_name"]
            if built != unit.built:
                work.delete(entry.path)
                continue
        if [vars(stored) for stored in unit.objects] != upload.extra["objects"]:
            rewrite(upload, unit)


def _stays(work: Store, rest: str, path: str, unit: PublishedUnit) -> bool:
    _, _, below = rest.partition("/")
    return not below or (_MANIFEST.fullmatch(below) is not None and work.exists(path))


def _holds(work: Store, path: str, entries: Entries) -> bool:
    try:
        return any(bool(entries.any_of(table).any()) for table in tables(work, path, entries))
    except FileNotFoundError:
        return False
    except (pa.ArrowInvalid, DataError) as error:  # what a killed attempt left, which nobody reads
        log.warning("%s cannot be read: %s", join(work.url, path), error)
        return True


def _names(content: bytes, entries: Entries) -> bool:
    return any(entries.holds("uid", uid.decode()) for uid in _UID.findall(content))

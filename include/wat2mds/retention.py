"""Room made below a dataset's ``work/``: files of published WAT files that nobody has worked on for a while.

In: a dataset, two ages. Out: the objects that went. Guaranteed: only files of WAT files that the newest version holds go, and only where
nothing below their folder was written for as long; manifests and what block lists hit stay, so that what is done stays done, and a run
that needs the files makes them again (``reprocess.forget_lost``); a run that was just planned has marked its WAT files (``mark_planned``)
and keeps them. The images of one WAT file go earlier where its upload is told so (``remove_images``). What does not belong here:
published objects (``stages/publish/vacuum.py``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from wat2mds.errors import ConfigError, DataError
from wat2mds.lineage import parent
from wat2mds.manifest import Manifest
from wat2mds.plan import WatUnit
from wat2mds.store import Object, Store, join, split
from wat2mds.units import Units, segment_of, unit_key
from wat2mds.versions import newest_version

log = logging.getLogger(__name__)
# Images, once as samples and once as shards that were uploaded: nearly all of a work folder's bytes.
IMAGE_STAGES = ("download", "convert")
PLANNED = "planned.json"
# A download takes half a day before it leaves anything on a remote store: what is younger may be at work.
_LEAST = timedelta(days=1)
# Manifests and figures, named by a unit's digest; what block lists hit, which each new decision reads.
_KEPT = re.compile(r"(^|/)[0-9a-f]{12}\.json$|^blocked/")


@dataclass
class Cleaned:
    """``removed``: objects by path below ``work/``; ``kept``: bytes of files that stay."""

    removed: list[Object] = field(default_factory=list)
    kept: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.removed)


def clean_work(dataset_url: str, images_after: timedelta, rest_after: timedelta, *, dry_run: bool = False) -> Cleaned:
    """Remove files of images that nothing touched for ``images_after``, other files for ``rest_after``.

    Raises ConfigError for an age under a day, or for images that are to outlive the rest.
    """
    if not _LEAST <= images_after <= rest_after:
        raise ConfigError(
            f"images after {images_after}, the rest after {rest_after}: give at least a day, and no more for images than for the rest"
        )
    done = Cleaned()
    version = newest_version(dataset_url)
    if version is None:
        log.info("%s holds no version: all of its intermediate files may still be needed", dataset_url)
        return done
    now = datetime.now(UTC)
    store = Store(join(dataset_url, "work"))
    for place, objects in _wat_files(store, version.units):
        idle = now - max(entry.modified for entry in objects)
        for entry in objects:
            stage, _, rest = entry.path.removeprefix(f"{place}/").partition("/")
            if not rest or _KEPT.search(rest):  # of no stage: the mark
                continue
            if idle < (images_after if stage in IMAGE_STAGES else rest_after):
                done.kept += entry.size
                continue
            done.removed.append(entry)
            if not dry_run:
                store.delete(entry.path)
    log.info(
        "%s: %d intermediate files, %.1f MB, %s; %.1f MB stay",
        *(dataset_url, len(done.removed), done.size / 1e6, "would go" if dry_run else "removed", done.kept / 1e6),
    )
    return done


def remove_images(converted: Manifest) -> None:
    """Remove the images of a WAT file whose upload is complete: its shards, and the samples that they were made from. Manifests stay, so
    that it stays done; may be repeated, after a kill for instance."""
    size = 0
    for manifest in (converted, parent(converted, "download")):
        store = Store(split(manifest.url)[0])
        size += sum(entry.size for entry in store.walk(manifest.folder))
        store.delete_tree(manifest.folder)
    if size:
        log.info(
            "%s is uploaded: its images, %.1f MB, are removed from the work folder", converted.extra["unit_name"], size / 1e6
        )


def mark_planned(unit: WatUnit) -> None:
    """Say that a run is about to work on a WAT file."""
    content = {"batch": unit["batch"], "settings": unit["settings"]}
    Store(unit["work"]).write(PLANNED, json.dumps(content).encode())


def _wat_files(store: Store, units: Units) -> Iterator[tuple[str, list[Object]]]:
    """Work folders of WAT files that are published, each with all its objects; a segment at a time."""
    for snapshot in store.names()[1]:
        for segment in store.names(snapshot)[1]:
            try:
                published = units.segment(segment_of(unit_key(snapshot, segment, "")))
            except DataError as error:  # a damaged list: nothing of that segment is known to be published
                log.warning("%s", error)
                continue
            found: dict[str, list[Object]] = {}
            for entry in store.walk(f"{snapshot}/{segment}"):
                found.setdefault("/".join(entry.path.split("/")[:3]), []).append(entry)
            for place, objects in found.items():
                if unit_key(snapshot, segment, place.rpartition("/")[2]) in published:
                    yield place, objects
            units.forget(segment_of(unit_key(snapshot, segment, "")))

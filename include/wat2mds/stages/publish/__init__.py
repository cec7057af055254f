"""publish: the whole WAT files of a batch become a new version of the dataset, in one atomic commit.

In: the manifests of upload. Out: the Delta table's rows of exactly these WAT files replaced, ``versions/units/`` (the lists of the
segments that change), ``versions/N/index.<attempt>.json`` (the merged MDS index), then ``versions/N/version.json``, whose conditional
create is the commit; last the derived ``index.json`` of the dataset's folder. Guaranteed: a version is the newest one before it with
these WAT files' units in place of their old ones and of the retries of these, and its
Delta version holds exactly its rows, as read back after the commit;
of two publishers at once the later number holds both; a publish
that was killed anywhere is completed by the next one; publishing what the newest version holds already makes no version.
What does not belong here: uploading objects (upload), removing unreferenced ones, the funnel's verdict (report).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wat2mds import __version__
from wat2mds.derived import derive_quietly
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.lineage import ancestry
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages.publish.groups import with_groups
from wat2mds.stages.publish.index import merge_index
from wat2mds.stages.publish.rounds import drop_later_rounds, fitting
from wat2mds.stages.publish.table import MetadataTable, Moved, read_columns
from wat2mds.stages.publish.vacuum import REFRESH_AFTER, refuse_during_vacuum
from wat2mds.store import Layout, Store, file_hash, join
from wat2mds.takedown.records import doomed, tombstones
from wat2mds.units import PublishedUnit, StoredObject, Units, files_digest, segment_of, unit_folders
from wat2mds.versions import Version, newest_number, newest_version, published_flow, read_index, read_record, read_version

log = logging.getLogger(__name__)
STAGE = "publish"
# Each try that fails means that another publisher succeeded meanwhile; with this many at once something else is wrong.
_TRIES = 60


@dataclass(frozen=True)
class Published:
    """What a publish did. ``units`` are the WAT files it was asked to publish, by key."""

    version: Version
    dataset: str
    units: list[str]
    done_before: bool

    @property
    def uri(self) -> str:
        return join(self.dataset, Layout.version_path(self.version.number))

    def summary(self) -> dict[str, Any]:
        """The last line of the stage's output."""
        flows = {key: asdict(published_flow(self.version, key)) for key in self.units}
        return {
            "stage": STAGE,
            "version": self.version.number,
            "uri": self.uri,
            "dataset": self.dataset,
            "samples": self.version.samples,
            "counts": {
                "uploaded": sum(flow["entered"] for flow in flows.values()),
                "published": sum(flow["left"] for flow in flows.values()),
            },
            "drops": {},
            "flows": flows,
            "missing": self.version.missing,
            "done_before": self.done_before,
        }


def run(
    uploads: Sequence[Manifest],
    dataset_url: str,
    settings: Settings,
    *,
    batch: str = "",
    missing: Sequence[str] = (),
) -> Published:
    """Publish whole WAT files; ``missing`` are the keys (``versions.unit_key``) of those of the batch that are not whole."""
    if not uploads:
        raise DataError(
            f"no WAT file of {batch or 'this batch'} is uploaded ({len(missing)} missing): nothing to publish. "
            f"The tasks before publish say why; clear the failed ones"
        )
    dataset = Store(dataset_url)
    asked = {unit.key: unit for unit in (_unit(upload, dataset, settings) for upload in uploads)}
    if len(asked) != len(uploads):
        raise ConfigError("a WAT file is given twice: name one upload manifest for each")
    with tempfile.TemporaryDirectory() as temporary:
        table = MetadataTable(dataset.url, Path(temporary))
        for attempt in range(_TRIES):
            newest = newest_version(dataset.url)
            # After the newest version was looked up: a takedown that came since publishes another before it removes anything.
            if entries := tombstones(dataset.url):
                from wat2mds.takedown.guard import cleaned  # which knows of this stage

                uploads = [cleaned(upload, dataset, entries) for upload in uploads]
                asked = {unit.key: unit for unit in (_unit(upload, dataset, settings) for upload in uploads)}
            ours = fitting(newest, asked)
            if newest is not None and _holds(newest, ours, grouped=settings.publish.groups):
                refresh_derived(dataset.url)
                _remove_doomed(dataset)
                return Published(newest, dataset.url, sorted(ours), done_before=attempt == 0)
            _require_objects(dataset, ours, newest, Path(temporary))
            if attempt == 0:
                _require_distinct_uids([table.rows(unit) for unit in ours.values()])
            try:
                version = _try_publish(dataset, table, newest, ours, settings, (batch, missing))
            except Moved as moved:
                log.info("another publisher was at work (%s): again, on the newest version", moved)
                version = None
            if version is not None:
                refresh_derived(dataset.url)
                _remove_doomed(dataset)
                log.info("published version %d: %d samples in %d WAT files", version.number, version.samples, len(version.units))
                return Published(version, dataset.url, sorted(ours), done_before=False)
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))
    raise TransientError(f"{dataset.url}: {_TRIES} other publishers were faster; try again when fewer publish at once")


def _remove_doomed(dataset: Store) -> None:
    """Objects of which this publish, or a takedown before it, made others."""
    if doomed(dataset):
        from wat2mds.takedown.removing import remove_doomed

        remove_doomed(dataset)


def replace_units(dataset_url: str, change: Callable[[Version], dict[str, PublishedUnit]]) -> Version:
    """A version in which some units of the newest are replaced, and which brings none; the newest itself where ``change`` names none.

    ``change`` gives successors by key, with their objects in the store and their groups; it is asked anew where another publisher was
    faster. Raises DataError where nothing is published.
    """
    dataset = Store(dataset_url)
    with tempfile.TemporaryDirectory() as temporary:
        table = MetadataTable(dataset.url, Path(temporary))
        for attempt in range(_TRIES):
            newest = read_version(dataset.url)
            ours = change(newest)
            if not ours:
                return newest
            changed = {segment: dict(newest.units.segment(segment)) for segment in sorted(set(map(segment_of, ours)))}
            for key, unit in ours.items():
                changed[segment_of(key)][key] = unit
            try:
                version = _commit(dataset, table, newest, changed, [], _said_by(newest))
            except Moved as moved:
                log.info("another publisher was at work (%s): again, on the newest version", moved)
                version = None
            if version is not None:
                log.info("published version %d: %d samples in %d WAT files", version.number, version.samples, len(version.units))
                return version
            time.sleep(random.uniform(0, min(2.0, 0.05 * 2**attempt)))
    raise TransientError(f"{dataset.url}: {_TRIES} other publishers were faster; try again when fewer publish at once")


def refresh_derived(dataset_url: str, derive: Callable[[str, Version], None] = derive_quietly) -> None:
    """Write what is derived from the newest version: the dataset folder's own index.json, then the release view and the card.

    Never ahead of the record. ``derive`` makes the latter two.
    """
    dataset = Store(dataset_url)
    number = newest_number(dataset_url)
    while number is not None:
        version = read_record(dataset_url, number)
        dataset.write("index.json", read_index(dataset_url, version))
        derive(dataset_url, version)
        # Looked at again after the write: whoever writes last also sees the newest version, and puts it right.
        now = newest_number(dataset_url)
        if now == number:
            return
        number = now


def _try_publish(
    dataset: Store,
    table: MetadataTable,
    newest: Version | None,
    ours: dict[str, PublishedUnit],
    settings: Settings,
    asked: tuple[str, Sequence[str]],
) -> Version | None:
    """One attempt on top of ``newest``; None if another publisher took the number. Raises Moved if the table moved on."""
    before = newest.units if newest is not None else Units(dataset.url, {})
    number = newest.number + 1 if newest is not None else 1
    ours = {key: replace(unit, since=before[key].since if key in before else number) for key, unit in ours.items()}
    if settings.publish.groups:
        ours = with_groups(dataset, before, ours, table.rows)
    changed = {segment: dict(before.segment(segment)) for segment in sorted(set(map(segment_of, ours)))}
    for key, unit in ours.items():
        drop_later_rounds(changed[segment_of(key)], unit)
        changed[segment_of(key)][key] = unit
    batch, missing = asked
    said = {
        "missing": sorted({*(newest.missing if newest is not None else ()), *missing}),
        "batch": batch,
        "profile": settings.profile,
        "settings": json.loads(settings.to_json()),
        "settings_digest": settings.digest,
        "models": _models(settings),
    }
    return _commit(dataset, table, newest, changed, sorted(ours), said)


def _said_by(version: Version) -> dict[str, Any]:
    """What a record says beside its units."""
    same = {name: getattr(version, name) for name in ("missing", "profile", "settings", "settings_digest", "models")}
    return same | {"batch": ""}  # of no run


def _commit(
    dataset: Store,
    table: MetadataTable,
    newest: Version | None,
    changed: dict[str, dict[str, PublishedUnit]],
    published: list[str],
    said: dict[str, Any],
) -> Version | None:
    """``newest`` with these segments in place of its own, as the next version; ``said`` is what its record says beside. None if another
    publisher took the number."""
    before = newest.units if newest is not None else Units(dataset.url, {})
    number = newest.number + 1 if newest is not None else 1
    delta_version, files = table.bring_to(before, changed)
    for segment, entry in before.lists.items():
        if (
            segment not in changed and files_digest(files.get(segment, {})) != entry.files
        ):  # the same rows, put right in other files
            changed[segment] = before.segment(segment)

    content, lengths = merge_index(dataset, read_index(dataset.url, newest) if newest is not None else None, before, changed)
    units = Units.stored(
        dataset,
        {
            key: replace(unit, table_files=files.get(segment, {}).get(key, []), index_bytes=lengths[key])
            for segment, members in changed.items()
            for key, unit in members.items()
        },
        {segment: entry for segment, entry in before.lists.items() if segment not in changed},
    )
    # Named for the attempt: two publishers that try for the same number do not share an object, which a vacuum might be about to remove.
    path = f"versions/{number:06d}/index.{secrets.token_hex(6)}.json"
    dataset.write(path, content)

    record = Version(
        number=number,
        delta_version=delta_version,
        index=StoredObject(path, len(content), hashlib.sha256(content).hexdigest()),
        units=units,
        published_units=published,
        **said | {"missing": [key for key in said["missing"] if key not in units]},
        code=f"wat2mds {__version__}",
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return record if dataset.create(Layout.version_path(number), record.to_json()) else None


def _unit(upload: Manifest, dataset: Store, settings: Settings) -> PublishedUnit:
    if upload.extra.get("dataset") != dataset.url:
        raise ConfigError(
            f"{upload.url} went to {upload.extra.get('dataset')}, not to {dataset.url}: run upload to this dataset first"
        )
    line = ancestry(upload)
    return PublishedUnit(
        unit_name=upload.extra["unit_name"],
        snapshot=upload.unit["snapshot"],
        segment=upload.unit["segment"],
        wat_file=upload.unit["wat_file"],
        samples=upload.extra["samples"],
        shards=upload.extra["shards"],
        digests={manifest.stage: manifest.digest for manifest in line},
        flows=[{"stage": manifest.stage, **asdict(flow)} for manifest in line for flow in manifest.flows],
        objects=[StoredObject(**entry) for entry in upload.extra["objects"]],
        profile=settings.profile,
        settings=settings.digest,
        **{name: upload.extra[name] for name in ("retriable", "retriable_uids", "retriable_until")},
        retry_of=upload.unit.get("retry_of", ""),
        built=upload.extra.get("built", ""),
    )


def _holds(version: Version, ours: dict[str, PublishedUnit], *, grouped: bool) -> bool:
    """Whether a version holds these units, made by the same code from the same settings, with groups of near-duplicates if asked for."""
    kept = {key: version.units.get(key) for key in ours}
    return all(
        found is not None and found.same_as(ours[key]) and (found.groups is not None or not grouped)
        for key, found in kept.items()
    )


def _require_objects(dataset: Store, ours: dict[str, PublishedUnit], newest: Version | None, folder: Path) -> None:
    """Upload verified every object; that they are still there costs two listings a unit. Old ones that the newest version does not
    name are given a new time, for vacuum."""
    now, refreshed = datetime.now(UTC), 0
    for key, unit in ours.items():
        held = newest.units.get(key) if newest is not None else None
        named = held is not None and held.unit_name == unit.unit_name
        there = {entry.path: entry for place in unit_folders(unit.objects) for entry in dataset.walk(place)}
        for entry in unit.objects:
            found = there.get(entry.path)
            if found is None or found.size != entry.size:
                raise TransientError(
                    f"{join(dataset.url, entry.path)} is gone or has another size since its upload: clear the upload task of {unit.key}"
                )
            if not named and now - found.modified > REFRESH_AFTER:
                _renew(dataset, entry, folder)
                refreshed += 1
    if refreshed:
        log.info("%d objects were uploaded more than %d days ago: written again", refreshed, REFRESH_AFTER.days)
        refuse_during_vacuum(dataset)


def _renew(dataset: Store, entry: StoredObject, folder: Path) -> None:
    """Give an object a new time: on S3 only a write of it does."""
    if dataset.local is not None:
        os.utime(dataset.local / entry.path)
        return
    copy = dataset.get_file(entry.path, folder / "copy")
    if file_hash(copy) != entry.sha256:
        raise TransientError(f"{join(dataset.url, entry.path)} is not what was uploaded: clear its upload task")
    dataset.put_file(copy, entry.path)
    copy.unlink()


def _models(settings: Settings) -> dict[str, str]:
    """The models that filter was set to use, by their part."""
    heads = {part: getattr(settings.filter, f"{part}_head") for part in ("safety", "watermark", "toxicity", "aesthetic")}
    named = {part: str(head) for part, head in heads.items() if head is not None}
    given = settings.filter
    if given.clip_model_other:
        named["clip_other"] = f"{given.clip_model_other}/{given.clip_pretrained_other}"
    return {"clip": f"{given.clip_model}/{given.clip_pretrained}"} | named


def _require_distinct_uids(paths: Sequence[Path]) -> None:
    """The ledger gives a uid to one WAT file only; a batch that breaks this must not be published."""
    uids = pa.chunked_array([c for path in paths for c in read_columns(path, ["uid"])["uid"].chunks], pa.string())
    counts = pc.value_counts(uids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(
            f"{len(twice)} uids stand in the batch more than once, e.g. {', '.join(twice[:5].to_pylist())}: nothing was published. "
            f"The ledger was bypassed or lost; run dedup of this batch again"
        )

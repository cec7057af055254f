"""Remove what no version that stands names.

In: a dataset. Out: the objects that went. Guaranteed: whatever a standing version's record names stays, and so does what is younger than
the grace, since a publish at work may be about to name it; publish gives old objects that it takes up again a new time, and does not
while a vacuum is under way (``refuse_during_vacuum``). Records themselves stay, so that a number is never given twice. Intermediate
files below ``work/`` are not touched: an upload whose objects went looks into the store before it calls itself done, and brings
them again. kNN indices of standing versions stay, those of withdrawn ones go with their records. What does not belong here:
withdrawing versions (``versions.py``), retention of intermediate files.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.groups import FOLDER as GROUPS
from wat2mds.search.records import FOLDER as SEARCH
from wat2mds.search.records import list_indices
from wat2mds.store import Object, Store, join
from wat2mds.units import FOLDER as UNIT_LISTS
from wat2mds.units import UNIT_FOLDERS
from wat2mds.versions import newest_number, read_record, standing_numbers, table_location

log = logging.getLogger(__name__)
# Objects older than this are given a new time before a record names them: half of the default grace.
REFRESH_AFTER = timedelta(days=3)
GRACE = timedelta(days=7)
_LEAST_GRACE = REFRESH_AFTER + timedelta(days=1)
_MARKS = "vacuum"
# A vacuum of 10 million objects takes hours; what is older was left by one that died.
_DEAD_AFTER = timedelta(days=2)


@dataclass(frozen=True)
class Vacuumed:
    """What went, or would go with ``dry_run``; ``young``: unreferenced objects that are still within the grace."""

    removed: list[Object]
    young: int
    standing: list[int]
    dry_run: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.removed)


def vacuum(dataset_url: str, older_than: timedelta = GRACE, *, dry_run: bool = False, alone: bool = False) -> Vacuumed:
    """``alone`` says that no upload or publish is at work, which allows any grace. Raises ConfigError for a grace under four days without
    it, DataError where nothing is published."""
    if older_than < _LEAST_GRACE and not alone:
        raise ConfigError(
            f"a grace of {older_than} is less than {_LEAST_GRACE.days} days: uploads that wait for their publish would be lost. "
            f"Give a longer one, or say that no run is at work (--alone)"
        )
    dataset = Store(dataset_url)
    if newest_number(dataset_url) is None:
        raise DataError(f"{dataset.url} holds no version: nothing has been published there, so all of it may still be needed")
    with _marked(dataset, dry_run):
        # Listed before the records are read: what is published in between is then among what they name.
        found = _listed(dataset)
        tables = _table_files(dataset_url, older_than)
        standing = standing_numbers(dataset_url)
        named = named_objects(dataset_url, standing)
        before = datetime.now(UTC) - older_than
        loose = [entry for entry in found if entry.path not in named and _removable(entry.path, standing, tables, named)]
        removed = [entry for entry in loose if entry.modified <= before]
        for entry in [] if dry_run else removed:
            dataset.delete(entry.path)
    log.info(
        "vacuum: %d objects, %.1f MB, %s; %d within the grace stay",
        len(removed), sum(entry.size for entry in removed) / 1e6, "would go" if dry_run else "removed", len(loose) - len(removed),
    )  # fmt: skip
    return Vacuumed(removed, len(loose) - len(removed), standing, dry_run)


def refuse_during_vacuum(dataset: Store) -> None:
    """To be called after old objects were given a new time and before a record names them. A vacuum that begins after this call sees
    the new time; one that began before it may still remove them. Raises TransientError then."""
    if marks := [entry for entry in dataset.walk(_MARKS) if entry.modified > datetime.now(UTC) - _DEAD_AFTER]:
        raise TransientError(
            f"a vacuum of {dataset.url} began at {marks[0].modified:%Y-%m-%d %H:%M} UTC and may be removing objects that this "
            f"publish takes up again: try again when it has ended (if it died, delete {join(dataset.url, marks[0].path)})"
        )


@contextmanager
def _marked(dataset: Store, dry_run: bool) -> Iterator[None]:
    if dry_run:
        yield
        return
    for entry in dataset.walk(_MARKS):
        if entry.modified <= datetime.now(UTC) - _DEAD_AFTER:
            dataset.delete(entry.path)
    mark = f"{_MARKS}/{secrets.token_hex(4)}.json"
    dataset.write(mark, json.dumps({"began": datetime.now(UTC).isoformat(timespec="seconds")}).encode())
    try:
        yield
    finally:
        dataset.delete(mark)


def _listed(dataset: Store) -> list[Object]:
    return [entry for folder in (*UNIT_FOLDERS, "release", "versions", "metadata", SEARCH) for entry in dataset.walk(folder)]


def _removable(path: str, standing: list[int], tables: set[str], named: set[str]) -> bool:
    """Whether an object that no standing record names is of a kind that records name, or derived from one."""
    folder, *rest = path.split("/")
    if folder == "metadata":
        return path in tables
    if folder == "release":  # a WAT file's part of the release view goes with its shards
        return f"{folder}/{rest[0]}" not in named
    if folder in UNIT_FOLDERS or path.startswith((f"{UNIT_LISTS}/", f"{GROUPS}/")):
        return True
    if folder == SEARCH:
        return rest[0] == "objects" or (rest[0].isdigit() and int(rest[0]) not in standing)
    if len(rest) < 2 or not rest[0].isdigit() or rest[-1] in ("version.json", "withdrawn.json"):
        return False
    # Beside a standing record lies what is derived from it; what an attempt left that lost the number is an index.
    return int(rest[0]) not in standing or (len(rest) == 2 and rest[1].startswith("index."))


def named_objects(dataset_url: str, standing: list[int]) -> set[str]:
    """Paths of all objects that standing records name, and ``release/<unit>`` of each unit. Versions share most of their
    lists, each of which is read once."""
    named = {stored.path for record in list_indices(dataset_url) for stored in record.objects.values()}
    read: set[str] = set()
    for number in standing:
        version = read_record(dataset_url, number)
        named.add(version.index.path)
        for segment, entry in version.units.lists.items():
            if entry.stored.path in read:
                continue
            read.add(entry.stored.path)
            named.add(entry.stored.path)
            for unit in version.units.segment(segment).values():
                named.add(f"release/{unit.unit_name}")
                named.update(stored.path for stored in unit.objects)
                named.update(f"metadata/{file.path}" for file in unit.table_files)
                named.update([unit.groups.path] if unit.groups is not None else [])
            version.units.forget(segment)
    return named


def _table_files(dataset_url: str, older_than: timedelta) -> set[str]:
    """Files that the table's newest state does without, by Delta's own rule: replaced longer ago than the grace, or never committed."""
    uri, options = table_location(dataset_url)
    hours = math.ceil(older_than / timedelta(hours=1))
    try:
        table = DeltaTable(uri, storage_options=options)
        found = table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False, full=True)
    except TableNotFoundError:
        return set()
    except DeltaError as error:
        raise TransientError(f"metadata table {uri}: {str(error).splitlines()[0]}") from error
    return {f"metadata/{path}" for path in found}

"""What a version holds of each WAT file, in one list a segment.

In: published units. Out: ``Units``, a mapping from a WAT file's key to its unit. Guaranteed: a list is an immutable object, so
that a new version writes the lists of the segments that changed and names the others again, and a reader of one WAT file loads one
list; what is read is checked by its hash. What does not belong here: version records (``versions.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wat2mds.errors import DataError
from wat2mds.settings import digest
from wat2mds.store import Store, join

FOLDER = "versions/units"
# Where objects of a unit lie, in a folder of its name.
UNIT_FOLDERS = ("shards", "embeddings", "outcomes")
_ROUND = re.compile(r"-r(\d+)$")
_NOTHING = {"entered": 0, "left": 0}


@dataclass(frozen=True)
class StoredObject:
    """One object: path from the dataset's folder, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TableFile:
    """One file of the Delta table that holds rows of a unit: path from the table's folder, rows."""

    path: str
    rows: int


@dataclass(frozen=True)
class PublishedUnit:
    """One WAT file's part of a version. ``digests`` and ``flows`` are by stage: what made it, and its funnel.

    ``index_bytes``: length of its shards' text in the merged index; ``groups``: its rows' groups of near-duplicates (``groups.py``);
    ``since``: the first version that held the WAT file, whatever was in it then. ``retriable``: pairs that failed transiently,
    ``retriable_uids`` the digest of their uids, ``retriable_until`` when the last of them was asked for (ISO 8601, UTC). A retry of such
    failures is a unit beside its WAT file's, named ``00017-r1``; ``retry_of`` is the digest of the uids that it asked for.
    ``built``: of a unit that lost samples to a takedown, the name that it was built under.
    """

    unit_name: str
    snapshot: str
    segment: str
    wat_file: str
    samples: int
    shards: int
    digests: dict[str, str]
    flows: list[dict[str, Any]]
    objects: list[StoredObject]
    table_files: list[TableFile] = field(default_factory=list)
    profile: str = ""
    settings: str = ""
    index_bytes: int = 0
    groups: StoredObject | None = None
    since: int = 0
    retriable: int = 0
    retriable_uids: str = ""
    retriable_until: str = ""
    retry_of: str = ""
    built: str = ""

    @property
    def key(self) -> str:
        return unit_key(self.snapshot, self.segment, self.wat_file)

    def same_as(self, other: PublishedUnit) -> bool:
        """Whether both hold the same samples, made by the same code from the same settings for the same pairs."""
        ours, theirs = ((unit.unit_name, unit.digests.get("upload"), unit.retry_of) for unit in (self, other))
        return ours == theirs

    def object_ending(self, suffix: str) -> StoredObject:
        """Raises DataError where the unit has none."""
        for entry in self.objects:
            if entry.path.endswith(suffix):
                return entry
        raise DataError(f"{self.unit_name} has no object {suffix}: it holds {', '.join(o.path for o in self.objects)}")


@dataclass(frozen=True)
class SegmentList:
    """One segment's units, summed up. ``stored`` is the list itself; ``files`` a digest of its table files; ``index_bytes`` the
    length of its shards' text in the merged index; ``flows`` its funnel."""

    stored: StoredObject
    units: int
    samples: int
    shards: int
    files: str
    index_bytes: int
    flows: list[dict[str, Any]]

    @classmethod
    def of(cls, stored: StoredObject, members: Mapping[str, PublishedUnit]) -> SegmentList:
        texts = [unit.index_bytes for unit in members.values() if unit.index_bytes]
        return cls(
            stored,
            units=len(members),
            samples=sum(unit.samples for unit in members.values()),
            shards=sum(unit.shards for unit in members.values()),
            files=files_digest({key: unit.table_files for key, unit in members.items()}),
            index_bytes=sum(texts) + 2 * max(0, len(texts) - 1),
            flows=sum_flows(flow for unit in members.values() for flow in unit.flows),
        )


class Units(Mapping[str, PublishedUnit]):
    """Units by key, in the order of segments and WAT files. Lists are loaded when they are looked into."""

    def __init__(self, dataset_url: str, lists: Mapping[str, SegmentList]) -> None:
        self.dataset_url = dataset_url
        self.lists = dict(sorted(lists.items()))
        self._loaded: dict[str, dict[str, PublishedUnit]] = {}

    @classmethod
    def stored(cls, dataset: Store, units: Mapping[str, PublishedUnit], kept: Mapping[str, SegmentList] | None = None) -> Units:
        """Write the lists of these units, which are whole segments; ``kept`` are lists of other segments that are there already."""
        lists = dict(kept or {})
        loaded: dict[str, dict[str, PublishedUnit]] = {}
        for key, unit in sorted(units.items()):
            loaded.setdefault(segment_of(key), {})[key] = unit
        for segment, members in loaded.items():
            content = json.dumps(list(members.values()), default=vars, sort_keys=True).encode()
            sha256 = hashlib.sha256(content).hexdigest()
            # Not named by content: an attempt must not rely on a list that another left and that a vacuum may be about to remove.
            path = f"{FOLDER}/{segment}.{secrets.token_hex(6)}.json"
            dataset.write(path, content)
            lists[segment] = SegmentList.of(StoredObject(path, len(content), sha256), members)
        made = cls(dataset.url, lists)
        made._loaded = loaded
        return made

    def segment(self, name: str) -> dict[str, PublishedUnit]:
        """The units of one segment by key; empty where there is none. Raises DataError for a list that is not what was written."""
        if name not in self._loaded:
            self._loaded[name] = self._load(self.lists[name].stored) if name in self.lists else {}
        return self._loaded[name]

    def forget(self, segment: str) -> None:
        """Let go of a list that was loaded: what goes through all of them need not hold them all."""
        self._loaded.pop(segment, None)

    @property
    def samples(self) -> int:
        return sum(entry.samples for entry in self.lists.values())

    @property
    def shards(self) -> int:
        return sum(entry.shards for entry in self.lists.values())

    def __getitem__(self, key: str) -> PublishedUnit:
        return self.segment(segment_of(key))[key]

    def __iter__(self) -> Iterator[str]:
        for name in self.lists:
            yield from self.segment(name)

    def __len__(self) -> int:
        return sum(entry.units for entry in self.lists.values())

    def __repr__(self) -> str:
        return f"Units({len(self)} WAT files of {len(self.lists)} segments of {self.dataset_url})"

    def _load(self, stored: StoredObject) -> dict[str, PublishedUnit]:
        where = join(self.dataset_url, stored.path)
        try:
            content = Store(self.dataset_url).read(stored.path)
        except FileNotFoundError as error:
            raise DataError(f"{error}: the version that names it was withdrawn or damaged") from error
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise DataError(f"{where} is not what the version records: it was damaged")
        return {unit.key: unit for unit in map(_unit, json.loads(content))}


def unit_folders(objects: Iterable[StoredObject]) -> list[str]:
    """Folders that hold these objects: mostly of one unit's name; one that lost samples shares shards with what it was before."""
    return sorted({"/".join(entry.path.split("/")[:2]) for entry in objects})


def unit_key(snapshot: str, segment: str, wat_file: str) -> str:
    """Names a WAT file within a dataset."""
    return f"{snapshot}.{segment}.{wat_file}"


def segment_of(key: str) -> str:
    """The segment's part of a WAT file's key, ``<snapshot>.<segment>``."""
    return key.rpartition(".")[0]


def round_of(key: str) -> int:
    """0 for a WAT file's own unit, n for its nth retry; of a key or of a WAT file's name."""
    found = _ROUND.search(key)
    return int(found[1]) if found else 0


def round_key(key: str, number: int) -> str:
    """The key or name of a WAT file's nth retry, 0 for its own unit; ``key``: of any of them."""
    base = _ROUND.sub("", key)
    return f"{base}-r{number}" if number else base


def files_digest(files: Mapping[str, list[TableFile]]) -> str:
    """Changes with the table files of any of these WAT files; those without files count as if they were not there."""
    return digest(sorted((key, sorted((file.path, file.rows) for file in held)) for key, held in files.items() if held))


def sum_flows(flows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Flows of the same stage, source and target as one, in the order of their first appearance."""
    totals: dict[tuple[str, str, str], dict[str, Any]] = {}
    for flow in flows:
        name = (flow["stage"], flow["source"], flow["target"])
        total = totals.setdefault(name, {**dict(zip(("stage", "source", "target"), name, strict=True)), **_NOTHING, "drops": {}})
        total["entered"] += flow["entered"]
        total["left"] += flow["left"]
        for reason, count in flow["drops"].items():
            total["drops"][reason] = total["drops"].get(reason, 0) + count
    return list(totals.values())


def _unit(found: dict[str, Any]) -> PublishedUnit:
    objects = [StoredObject(**entry) for entry in found["objects"]]
    files = [TableFile(**entry) for entry in found["table_files"]]
    groups = StoredObject(**found["groups"]) if found.get("groups") else None
    return PublishedUnit(**(found | {"objects": objects, "table_files": files, "groups": groups}))

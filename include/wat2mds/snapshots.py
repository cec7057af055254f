"""Common Crawl's snapshots: their listing, their segments and WAT files, and the batches they are cut into.

In: ``collinfo.json`` and ``wat.paths.gz``, by URL or path. Out: the registry, one immutable entry a snapshot, made by a conditional
create; the batch size is fixed there, so that a partition key never changes its meaning. Guaranteed: a malformed or unreadable
listing changes nothing. What does not belong here: when batches run (the timetable in ``plugins/``).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from wat2mds.errors import ConfigError, DataError, TransientError, nearest
from wat2mds.store import Store, join

BATCH_SIZE = 60  # WAT files; bounds the members of a mapped task group, whose cost grows with their number
_NUMBER = re.compile(r"-(\d{5})(?:[-.][^/]*)?\.wat(?:\.gz)?$")
_PATH = re.compile(r"^crawl-data/(?P<snapshot>[^/]+)/segments/(?P<segment>[^/]+)/wat/[^/]+$")
_KEY = re.compile(r"^(?P<snapshot>[A-Za-z0-9-]+)\.(?P<segment>\d+\.\d+)\.b(?P<index>\d{2,})$")


@dataclass(frozen=True)
class WatFile:
    """``number`` names it in its segment (``00017``); ``url`` is where it is read from."""

    number: str
    url: str


@dataclass(frozen=True)
class Segment:
    """Common Crawl's name (``1700679099281.67``) and how many WAT files it has."""

    name: str
    wat_file_count: int

    @property
    def number(self) -> int:
        """Common Crawl's own number: what follows the dot."""
        return int(self.name.rpartition(".")[2])


@dataclass(frozen=True)
class Batch:
    """Up to ``batch_size`` WAT files of one segment; ``number`` runs over the whole snapshot, ``index`` over the segment."""

    snapshot: str
    segment: str
    index: int
    number: int
    partition_date: datetime
    run_after: datetime

    @property
    def partition_key(self) -> str:
        return f"{self.snapshot}.{self.segment}.b{self.index:02d}"


@dataclass(frozen=True)
class Snapshot:
    """One registered Common Crawl release. Times are UTC."""

    id: str
    start: datetime
    end: datetime
    registered_at: datetime
    batch_size: int
    source: str
    segments: tuple[Segment, ...]

    def batches(self) -> Iterator[Batch]:
        """In running order. The partition date is the snapshot's end plus the running number in minutes."""
        number = 0
        for segment in self.segments:
            for index in range(-(-segment.wat_file_count // self.batch_size)):
                date = self.end + timedelta(minutes=number)
                after = max(date, self.registered_at + timedelta(milliseconds=number))
                yield Batch(self.id, segment.name, index, number, date, after)
                number += 1

    def segment(self, name_or_number: str) -> Segment:
        """By Common Crawl's name or its own number. Raises ConfigError naming what there is."""
        for segment in self.segments:
            if name_or_number in (segment.name, str(segment.number)):
                return segment
        names = [segment.name for segment in self.segments]
        numbers = sorted(segment.number for segment in self.segments)
        raise ConfigError(
            f"snapshot {self.id} has no segment {name_or_number!r}: its {len(numbers)} segments have the numbers "
            f"{numbers[0]} to {numbers[-1]}.{nearest(name_or_number, names)}"
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, default=lambda value: value.isoformat()).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Snapshot:
        try:
            found = json.loads(data)
            for key in ("start", "end", "registered_at"):
                found[key] = datetime.fromisoformat(found[key])
            found["segments"] = tuple(Segment(**segment) for segment in found["segments"])
            return cls(**found)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{where} is not a registered snapshot: {error}. Restore it, or delete it and register again"
            ) from error


def parse_partition_key(key: str) -> tuple[str, str, int]:
    """``CC-MAIN-2023-50.1700679099281.67.b03`` as (snapshot, segment, batch index). Raises ConfigError."""
    match = _KEY.match(key)
    if not match:
        raise ConfigError(f"{key!r} names no batch: expected SNAPSHOT.SEGMENT.bNN, e.g. CC-MAIN-2023-50.1700679099281.67.b03")
    return match["snapshot"], match["segment"], int(match["index"])


def wat_file_number(name: str) -> str | None:
    """``00017`` from a WAT file's name, None where it has no such number."""
    match = _NUMBER.search(name)
    return match[1] if match else None


def wat_location(url: str) -> tuple[str, str, str] | None:
    """(snapshot, segment, WAT file number) of a URL or path laid out as Common Crawl's, else None."""
    match = re.search(r"crawl-data/([^/]+)/segments/([^/]+)/wat/([^/]+)$", url)
    number = wat_file_number(url)
    return (match[1], match[2], number) if match and number else None


def parse_wat_paths(data: bytes, where: str) -> dict[str, dict[str, list[str]]]:
    """``wat.paths.gz`` as {snapshot: {segment: [path, …]}}, in the listing's order. Raises DataError."""
    try:
        lines = gzip.decompress(data).decode("ascii").split()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not a gzipped list of paths: {error}") from error
    found: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        match = _PATH.match(line)
        if not match or wat_file_number(line) is None:
            raise DataError(f"{where}: {line!r} is not the path of a WAT file")
        found.setdefault(match["snapshot"], {}).setdefault(match["segment"], []).append(line)
    if not found:
        raise DataError(f"{where} lists no WAT file")
    return found


class Registry:
    """The snapshots known to one store: ``<root>/registry/<snapshot>/{wat.paths.gz,snapshot.json}``, the latter written last."""

    def __init__(self, root: str) -> None:
        self.store = Store(join(root, "registry"))

    def snapshots(self) -> list[Snapshot]:
        """All registered ones, oldest first. Raises DataError for a malformed entry, TransientError when the store is down."""
        found = [self._read(name) for name in self.store.names()[1] if self.store.exists(f"{name}/snapshot.json")]
        return sorted(found, key=lambda snapshot: (snapshot.end, snapshot.id))

    def get(self, name: str | None) -> Snapshot:
        """One by its id, or the newest for None. Raises ConfigError naming the nearest registered one."""
        known = self.snapshots()
        if not known:
            raise ConfigError(f"no snapshot is registered in {self.store.url}: run `wat2mds snapshots register CC-MAIN-…` first")
        if name is None:
            return known[-1]
        for snapshot in known:
            if snapshot.id == name:
                return snapshot
        raise ConfigError(
            f"snapshot {name!r} is not registered.{nearest(name, [s.id for s in known])} "
            f"Register another with `wat2mds snapshots register`"
        )

    def wat_files(self, snapshot: Snapshot, segment: Segment) -> list[WatFile]:
        """A segment's WAT files in order."""
        return [
            WatFile(wat_file_number(path) or "", join(snapshot.source, path)) for path in self._paths(snapshot.id)[segment.name]
        ]

    def batch(self, partition_key: str) -> tuple[Snapshot, Segment, list[WatFile]]:
        """What a partition key stands for. Raises ConfigError for a key that names nothing registered."""
        name, segment_name, index = parse_partition_key(partition_key)
        snapshot = self.get(name)
        segment = snapshot.segment(segment_name)
        files = self.wat_files(snapshot, segment)[index * snapshot.batch_size : (index + 1) * snapshot.batch_size]
        if not files:
            last = -(-segment.wat_file_count // snapshot.batch_size) - 1
            raise ConfigError(f"{partition_key}: the segment's last batch is b{last:02d}")
        return snapshot, segment, files

    def register(self, name: str, *, collinfo: str, source: str, batch_size: int = BATCH_SIZE) -> Snapshot:
        """Make a snapshot known, with its segments; one registered already is returned unchanged.

        Raises ConfigError for a snapshot that Common Crawl does not list, DataError for a malformed listing.
        """
        if self.store.exists(f"{name}/snapshot.json"):
            return self._read(name)
        listed = read_collinfo(collinfo)
        if name not in listed:
            raise ConfigError(f"{collinfo} lists no snapshot {name!r}.{nearest(name, listed)}")
        where = join(source, "crawl-data", name, "wat.paths.gz")
        data = _read_url(where)
        segments = parse_wat_paths(data, where).get(name)
        if segments is None:
            raise DataError(f"{where} lists no WAT file of {name}")
        known = self.snapshots()
        # Distinct times keep every run_after distinct: the scheduler moves on by it.
        now = max([datetime.now(UTC), *(s.registered_at + timedelta(minutes=1) for s in known)])
        snapshot = Snapshot(
            id=name,
            start=listed[name][0],
            end=listed[name][1],
            registered_at=now,
            batch_size=batch_size,
            source=source,
            segments=tuple(Segment(segment, len(paths)) for segment, paths in segments.items()),
        )
        _require_own_dates(snapshot, known)
        self.store.write(f"{name}/wat.paths.gz", data)
        self.store.create(f"{name}/snapshot.json", snapshot.to_json())
        return self._read(name)

    def _read(self, name: str) -> Snapshot:
        path = f"{name}/snapshot.json"
        return Snapshot.from_json(self.store.read(path), join(self.store.url, path))

    @cached_property
    def _cache(self) -> dict[str, dict[str, list[str]]]:
        return {}

    def _paths(self, name: str) -> dict[str, list[str]]:
        if name not in self._cache:
            path = f"{name}/wat.paths.gz"
            self._cache[name] = parse_wat_paths(self.store.read(path), join(self.store.url, path))[name]
        return self._cache[name]


def read_collinfo(url: str) -> dict[str, tuple[datetime, datetime]]:
    """Common Crawl's list of snapshots: {id: (from, to)}, UTC. Raises DataError for anything else."""
    try:
        entries: list[dict[str, Any]] = json.loads(_read_url(url))
        return {entry["id"]: (_utc(entry["from"]), _utc(entry["to"])) for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{url} is not Common Crawl's list of snapshots: {error!r}") from error


def _require_own_dates(snapshot: Snapshot, known: Iterable[Snapshot]) -> None:
    """Airflow knows a batch by its partition date: two batches must not share one."""
    dates = [batch.partition_date for batch in snapshot.batches()]
    for other in known:
        theirs = [batch.partition_date for batch in other.batches()]
        if dates[0] <= theirs[-1] and theirs[0] <= dates[-1]:
            raise ConfigError(
                f"with batches of {snapshot.batch_size} WAT files {snapshot.id} would have {len(dates):,} batches, a minute apart, "
                f"whose dates run into those of {other.id}: choose a larger batch size"
            )


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _read_url(url: str) -> bytes:
    from wat2mds.source import look_up, read  # a web client, which Airflow need not load

    try:
        return read(look_up(url))
    except DataError as error:
        raise TransientError(f"{url} does not exist (yet?): check the snapshot's name and the source. {error}") from error

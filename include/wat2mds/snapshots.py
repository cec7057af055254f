"""Common Crawl's snapshots: their listing, their segments and WAT files, and the batches they are cut into.

In: ``collinfo.json`` and ``wat.paths.gz``, by URL or path. Out: the registry, one immutable entry a snapshot, made by a conditional
create; batch size and seed are fixed there, so that a partition key never changes its meaning. Guaranteed: a malformed or unreadable
listing changes nothing. What does not belong here: when batches run (the timetable in ``plugins/``), which snapshots are new
(``refresh.py``).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from wat2mds.errors import ConfigError, DataError, TransientError, nearest
from wat2mds.store import Object, Store, join

BATCH_SIZE = 60  # WAT files; bounds the members of a mapped task group, whose cost grows with their number
# Of the shuffles of new entries. Neighbouring WAT files repeat hosts: LAION had fewer complaints when it took them in random order.
SEED = 0
_NUMBER = re.compile(r"-(\d{5})(?:[-.][^/]*)?\.wat(?:\.gz)?$")
_PATH = re.compile(r"^crawl-data/(?P<snapshot>[^/]+)/segments/(?P<segment>[^/]+)/wat/[^/]+$")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_KEY = re.compile(r"^(?P<snapshot>[A-Za-z0-9-]+)\.(?P<segment>\d+(?:\.\d+)?)\.b(?P<index>\d{2,})$")


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
    """Up to ``batch_size`` WAT files of one segment; ``index`` runs over the segment, ``number`` over the snapshot, and dates it.

    ``run_after`` orders the batches of all snapshots as they run.
    """

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
    """One registered Common Crawl release. Times are UTC.

    ``seed`` decides which WAT files make a batch and in which order batches run; None, as in entries made before there was a seed, is
    the listing's order for both.
    """

    id: str
    start: datetime
    end: datetime
    registered_at: datetime
    batch_size: int
    source: str
    segments: tuple[Segment, ...]
    seed: int | None = None

    @property
    def wat_file_count(self) -> int:
        return sum(segment.wat_file_count for segment in self.segments)

    @property
    def batch_count(self) -> int:
        return sum(self._batches_of(segment) for segment in self.segments)

    @property
    def last_date(self) -> datetime:
        """The last partition date; the first is ``end``."""
        return self.end + timedelta(minutes=self.batch_count - 1)

    @property
    def last_turn(self) -> datetime:
        """No batch has a later ``run_after``."""
        if self.seed is None:
            return max(self.last_date, self.registered_at + timedelta(milliseconds=self.batch_count))
        return max(self.end, self.registered_at) + timedelta(microseconds=self.batch_count)

    def batches(self) -> Iterator[Batch]:
        """In running order: shuffled by the seed. The partition date is the snapshot's end plus the batch's number in minutes; with a
        seed batches are numbered by Common Crawl's own segment numbers, so that a range of segments is a range of dates."""
        made = list(self._numbered())
        if self.seed is None:
            yield from made
            return
        first = max(self.end, self.registered_at)
        for turn, batch in enumerate(sorted(made, key=lambda batch: self._lot(batch.partition_key))):
            yield replace(batch, run_after=first + timedelta(microseconds=turn))

    def _numbered(self) -> Iterator[Batch]:
        segments = self.segments if self.seed is None else sorted(self.segments, key=lambda one: (one.number, one.name))
        number = 0
        for segment in segments:
            for index in range(self._batches_of(segment)):
                date = self.end + timedelta(minutes=number)
                after = max(date, self.registered_at + timedelta(milliseconds=number))
                yield Batch(self.id, segment.name, index, number, date, after)
                number += 1

    def members(self, segment: Segment, index: int) -> list[int]:
        """A batch's WAT files by their place in the segment's listing, ascending; empty for a batch that the segment does not have."""
        places = list(range(segment.wat_file_count))
        if self.seed is not None:
            places.sort(key=lambda place: self._lot(f"{self.id}.{segment.name}", place))
        return sorted(places[index * self.batch_size : (index + 1) * self.batch_size])

    def _batches_of(self, segment: Segment) -> int:
        return -(-segment.wat_file_count // self.batch_size)

    def _lot(self, name: str, place: int = 0) -> bytes:
        """What a shuffle sorts by: the same on every machine, for ever."""
        return hashlib.blake2b(f"{self.seed} {name} {place}".encode(), digest_size=16).digest()

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
        self._entries: dict[Object, Snapshot] = {}

    def snapshots(self) -> list[Snapshot]:
        """All registered ones, oldest first; an entry is read once. Raises DataError for a malformed one, TransientError when the store
        is down."""
        entries = [entry for entry in self.store.walk() if entry.path.endswith("/snapshot.json")]
        self._entries = {
            entry: self._entries.get(entry) or self._read(entry.path.removesuffix("/snapshot.json")) for entry in entries
        }
        return sorted(self._entries.values(), key=lambda snapshot: (snapshot.end, snapshot.id))

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
        places = snapshot.members(segment, index)
        if not places:
            last = -(-segment.wat_file_count // snapshot.batch_size) - 1
            raise ConfigError(f"{partition_key}: the segment's last batch is b{last:02d}")
        files = self.wat_files(snapshot, segment)
        return snapshot, segment, [files[place] for place in places]

    def register(
        self, name: str, *, collinfo: str, source: str, batch_size: int = BATCH_SIZE, seed: int | None = SEED
    ) -> Snapshot:
        """Make a snapshot known, with its segments; one registered already is returned unchanged.

        Raises ConfigError for a snapshot that Common Crawl does not list, DataError for a malformed listing, TransientError where there
        is none.
        """
        if self.store.exists(f"{name}/snapshot.json"):
            return self._read(name)
        listed = read_collinfo(collinfo)
        if name not in listed:
            raise ConfigError(f"{collinfo} lists no snapshot {name!r}.{nearest(name, listed)}")
        data = read_wat_paths(source, name)
        if data is None:
            raise TransientError(f"{wat_paths_url(source, name)} does not exist (yet?): check the snapshot's name and the source")
        segments = segments_of(data, name, wat_paths_url(source, name))
        return self.add(data, name, listed[name], source=source, segments=segments, batch_size=batch_size, seed=seed)

    def add(
        self,
        listing: bytes,
        name: str,
        times: tuple[datetime, datetime],
        *,
        source: str,
        segments: tuple[Segment, ...],
        batch_size: int,
        seed: int | None,
    ) -> Snapshot:
        """Write an entry; of two at once the first stands. ``times``: of its first and last fetch; ``listing``: its wat.paths.gz.

        Raises ConfigError where its batches' dates would run into another snapshot's.
        """
        known = self.snapshots()
        # Turns of snapshots do not mix: what is registered later runs later.
        now = max([datetime.now(UTC), *(other.last_turn for other in known)])
        snapshot = Snapshot(name, *times, now, batch_size, source, segments, seed)
        if problem := date_problem(snapshot, known):
            raise ConfigError(problem)
        self.store.write(f"{name}/wat.paths.gz", listing)
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
    """Common Crawl's list of snapshots: {id: (from, to)}, UTC. Raises DataError for anything else, TransientError where it is not."""
    content = _read_url(url)
    if content is None:
        raise TransientError(f"{url} does not exist (yet?): check the address of Common Crawl's list of snapshots")
    try:
        entries: list[dict[str, Any]] = json.loads(content)
        found = {entry["id"]: (_utc(entry["from"]), _utc(entry["to"])) for entry in entries}
        if not found or not all(_NAME.fullmatch(name) and start <= end for name, (start, end) in found.items()):
            raise ValueError("it is empty, or an entry's name or times are not such")
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{url} is not Common Crawl's list of snapshots: {error!r}") from error
    return found


def wat_paths_url(source: str, name: str) -> str:
    """Where Common Crawl lists a snapshot's WAT files."""
    return join(source, "crawl-data", name, "wat.paths.gz")


def read_wat_paths(source: str, name: str) -> bytes | None:
    """``wat.paths.gz`` of a snapshot as it lies there; None where there is none. Raises TransientError."""
    return _read_url(wat_paths_url(source, name))


def segments_of(listing: bytes, name: str, where: str) -> tuple[Segment, ...]:
    """A snapshot's segments by its ``wat.paths.gz``. Raises DataError."""
    segments = parse_wat_paths(listing, where).get(name)
    if segments is None:
        raise DataError(f"{where} lists no WAT file of {name}")
    return tuple(Segment(segment, len(paths)) for segment, paths in segments.items())


def date_problem(snapshot: Snapshot, known: Iterable[Snapshot]) -> str:
    """Airflow knows a batch by its partition date: two must not share one. What is wrong, or nothing."""
    for other in known:
        if snapshot.end <= other.last_date and other.end <= snapshot.last_date:
            return (
                f"with batches of {snapshot.batch_size} WAT files {snapshot.id} would have {snapshot.batch_count:,} batches, a minute "
                f"apart, whose dates run into those of {other.id}: choose a larger batch size"
            )
    return ""


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _read_url(url: str) -> bytes | None:
    from wat2mds.source import look_up, read  # a web client, which Airflow need not load

    try:
        source = look_up(url)
    except DataError:  # there is no such file
        return None
    return read(source)

"""Summaries: what the dashboard says of a version without reading its data, in one small object made at publish.

In: a version's record, the one before it, and the summary before it. Out: ``versions/N/summary.json``. Guaranteed: a summary carries
forward what the ones before it count, so that one object answers for all versions: it is made from its own WAT files and its
predecessor alone, and its size is bounded (``HISTORY`` rows, ``UNITS`` WAT files, some hundred hosts, a row a segment); it holds
counts, names of hosts and of WAT files, and nothing of a sample. What does not belong here: distributions (``statistics.py``), how it
looks (``dashboard``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from wat2mds.derived.statistics import Statistics
from wat2mds.derived.work import Work, quality_of, work_of
from wat2mds.drops import DropReason
from wat2mds.errors import DataError
from wat2mds.failures import chains_of, due_at
from wat2mds.store import Store
from wat2mds.units import PublishedUnit, segment_of, sum_flows
from wat2mds.versions import Version, read_record

FORMAT = 1
# Rows of history in a summary; the older half is halved when there are more. WAT files and missing ones that are named.
HISTORY, UNITS = 1_000, 200
_PAGES = {"records", "pages"}
STAGES = ("extract", "dedup", "download", "filter")
_KINDS = ("shards", "embeddings", "outcomes")


@dataclass(frozen=True)
class Row:
    """A version among the others, or several that follow each other (``first`` to ``number``), of which what each brought is summed.

    ``samples``, ``wat_files``, ``size`` (bytes) and ``missing`` are the whole dataset's then; ``entered`` links (or rows of a list, or
    failures asked for again) of the WAT files it brought are ``published`` or dropped by ``extract``, ``dedup``, ``download`` or
    ``filter`` (what was taken down after it was built too); ``seconds``, ``cpu_seconds`` and ``bytes`` are those of the work done for
    it."""

    first: int
    number: int
    published_at: str
    batch: str
    samples: int
    wat_files: int
    size: int
    missing: int
    entered: int
    published: int
    extract: int
    dedup: int
    download: int
    filter: int
    seconds: float
    cpu_seconds: float
    bytes: int

    def merged(self, later: Row) -> Row:
        summed = ("entered", "published", *STAGES, "seconds", "cpu_seconds", "bytes")
        return Row(
            **(asdict(later) | {"first": self.first} | {name: getattr(self, name) + getattr(later, name) for name in summed})
        )


@dataclass(frozen=True)
class Summary:
    """One version. ``flows`` is the funnel of all its WAT files, ``brought_flows`` of those it brought; ``units`` of these (the first
    ``UNITS`` of ``brought``): ``key``, ``samples``, ``entered``, and ``quality`` as in a run's report. ``segments``: by segment
    ``wat_files``, ``samples``, bytes by kind of object, and ``due``, by day the WAT files and pairs that a retry may ask for again.
    ``work`` was done for this version, ``total`` for all so far; both are empty in what is made of a record alone (``of_record``)."""

    number: int
    published_at: str
    batch: str
    profile: str
    samples: int
    wat_files: int
    shards: int
    index_bytes: int
    missing: list[str]
    missing_count: int
    flows: list[dict[str, Any]]
    brought: int
    brought_flows: list[dict[str, Any]]
    units: list[dict[str, Any]]
    work: Work
    total: Work
    segments: dict[str, dict[str, Any]]
    history: list[Row]
    of_record: bool = False
    format: int = FORMAT

    def size(self) -> dict[str, int]:
        """Bytes of the version's objects by kind."""
        found = {kind: sum(entry.get(kind, 0) for entry in self.segments.values()) for kind in _KINDS}
        return found | {"index": self.index_bytes}

    def due(self) -> dict[str, tuple[int, int]]:
        """By day (UTC) the WAT files and pairs whose failures may be asked for again from then on."""
        days: dict[str, tuple[int, int]] = {}
        for entry in self.segments.values():
            for day, (files, pairs) in entry.get("due", {}).items():
                before = days.get(day, (0, 0))
                days[day] = (before[0] + files, before[1] + pairs)
        return dict(sorted(days.items()))

    def to_bytes(self) -> bytes:
        content = {f.name: getattr(self, f.name) for f in fields(self)} | {
            "work": vars(self.work),
            "total": vars(self.total),
            "history": [list(vars(row).values()) for row in self.history],
        }
        return json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")


def summary_path(number: int) -> str:
    """From the dataset's folder."""
    return f"versions/{number:06d}/summary.json"


def read_summary(dataset: Store, number: int) -> Summary | None:
    """None where the version has none of this format: it was published before there were summaries, or is withdrawn and vacuumed."""
    try:
        found = dataset.read_json(summary_path(number))
        if found["format"] != FORMAT:
            return None
        rows = [Row(*row) for row in found["history"]]
        return Summary(**(found | {"work": Work(**found["work"]), "total": Work(**found["total"]), "history": rows}))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def summary_of_record(version: Version) -> Summary:
    """What the record alone says: no work, and no history but the version itself."""
    segments = {name: {"wat_files": e.units, "samples": e.samples} for name, e in version.units.lists.items()}
    row = _row(version, 0, [], Work(), size=0)
    return _summary(version, segments, [], [], Work(), Work(), [row], of_record=True)


def make_summary(
    dataset: Store, version: Version, statistics_of: Callable[[PublishedUnit], Statistics], *, at_most: int | None = None
) -> Summary:
    """Write a version's summary, and those of the versions before it that have none; what is there is not made again.

    Raises DataError where more than ``at_most`` versions lack theirs.
    """
    if (found := read_summary(dataset, version.number)) is not None:
        return found
    first = 1 if at_most is None else max(1, version.number - at_most + 1)
    last = next((s for n in range(version.number - 1, first - 1, -1) if (s := read_summary(dataset, n)) is not None), None)
    if last is None and first > 1 and (last := read_summary(dataset, first - 1)) is None:
        raise DataError(f"more than {at_most} versions before {version.number} have no summary")
    before = read_record(dataset.url, last.number) if last is not None else None
    for number in range(last.number + 1 if last is not None else 1, version.number + 1):
        record = version if number == version.number else read_record(dataset.url, number)
        last = _next(dataset, record, before, last, statistics_of)
        dataset.write(summary_path(number), last.to_bytes())
        before = record
    assert last is not None
    return last


def _next(
    dataset: Store,
    version: Version,
    before: Version | None,
    last: Summary | None,
    statistics_of: Callable[[PublishedUnit], Statistics],
) -> Summary:
    try:
        segments = _segments(version, before, last)
        brought = [version.units[key] for key in version.published_units]
    except (DataError, KeyError):  # withdrawn since, and vacuumed: what stood in its lists is not known any more
        segments, brought = {}, []
    work = work_of(dataset, brought, _held(before, version.published_units), statistics_of)
    total = Work()
    for part in [work] if last is None else [last.total, work]:
        total.add(part)
    size = sum(entry[kind] for entry in segments.values() for kind in _KINDS)
    row = _row(version, sum(unit.samples for unit in brought), [f for unit in brought for f in unit.flows], work, size)
    return _summary(
        version,
        segments,
        sum_flows(flow for unit in brought for flow in unit.flows),
        [_unit_row(dataset, unit) for unit in brought[:UNITS]],
        work.bounded(),
        total.bounded(),
        _bounded([*(last.history if last is not None else []), row]),
    )


def _summary(
    version: Version,
    segments: dict[str, dict[str, Any]],
    flows: list[dict[str, Any]],
    units: list[dict[str, Any]],
    work: Work,
    total: Work,
    history: list[Row],
    *,
    of_record: bool = False,
) -> Summary:
    return Summary(
        number=version.number,
        published_at=version.published_at,
        batch=version.batch,
        profile=version.profile,
        samples=version.samples,
        wat_files=len(version.units),
        shards=version.units.shards,
        index_bytes=version.index.size,
        missing=version.missing[:UNITS],
        missing_count=len(version.missing),
        flows=version.funnel,
        brought=len(version.published_units),
        brought_flows=flows,
        units=units,
        work=work,
        total=total,
        segments=segments,
        history=history,
        of_record=of_record,
    )


def _row(version: Version, published: int, flows: Iterable[Mapping[str, Any]], work: Work, size: int) -> Row:
    drops = dict.fromkeys(STAGES, 0)
    stage_of = {str(reason): "extract" if reason.stage == "import" else reason.stage for reason in DropReason}
    for flow in flows:
        if flow["source"] not in _PAGES:
            for reason, count in flow["drops"].items():
                stage = stage_of.get(reason, "filter")
                drops[stage if stage in drops else "filter"] += count
    spent = {what: sum(stage.get(what, 0) for stage in work.stages.values()) for what in ("seconds", "cpu_seconds", "bytes")}
    return Row(
        first=version.number,
        number=version.number,
        published_at=version.published_at,
        batch=version.batch,
        samples=version.samples,
        wat_files=len(version.units),
        size=size,
        missing=len(version.missing),
        entered=published + sum(drops.values()),
        published=published,
        **drops,
        seconds=round(spent["seconds"], 3),
        cpu_seconds=round(spent["cpu_seconds"], 3),
        bytes=int(spent["bytes"]),
    )


def _bounded(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= HISTORY:
        return list(rows)
    half = HISTORY // 4 * 2
    return [*(one.merged(other) for one, other in zip(rows[:half:2], rows[1:half:2], strict=True)), *rows[half:]]


def _segments(version: Version, before: Version | None, last: Summary | None) -> dict[str, dict[str, Any]]:
    found = {}
    for name, entry in version.units.lists.items():
        unchanged = before is not None and name in before.units.lists and before.units.lists[name].stored == entry.stored
        if unchanged and last is not None and name in last.segments:
            found[name] = last.segments[name]
            continue
        units = version.units.segment(name)
        sizes = Counter(dict.fromkeys(_KINDS, 0))
        for unit in units.values():
            for stored in unit.objects:
                sizes[stored.path.partition("/")[0]] += stored.size
        due: dict[str, list[int]] = {}
        for chain in chains_of(units):
            at = due_at(chain, version.settings["download"]["retry_days"])
            if at is not None:
                day = due.setdefault(at.date().isoformat(), [0, 0])
                day[0], day[1] = day[0] + 1, day[1] + chain[-1].retriable
        found[name] = {"wat_files": entry.units, "samples": entry.samples, **sizes, "due": due}
    return found


def _held(before: Version | None, keys: Iterable[str]) -> dict[str, PublishedUnit]:
    """What the version before held under these keys; nothing of one that is withdrawn and vacuumed."""
    if before is None:
        return {}
    try:
        return {key: unit for key in keys if segment_of(key) in before.units.lists and (unit := before.units.get(key))}
    except DataError:
        return {}


def _unit_row(dataset: Store, unit: PublishedUnit) -> dict[str, Any]:
    pairs = [flow for flow in unit.flows if flow["target"] in ("pairs", "unique")]
    return {
        "key": unit.key,
        "samples": unit.samples,
        "entered": pairs[0]["entered"] if pairs else 0,
        "digests": unit.digests,
        "quality": quality_of(dataset, unit),
    }

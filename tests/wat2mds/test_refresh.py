"""New snapshots over real HTTP: Common Crawl's own list of 118, its own listings, and what is wrong with a list or the registry."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from wat2mds.coverage import Coverage
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.refresh import Refreshed, refresh
from wat2mds.snapshots import Registry, Segment, Snapshot

# Crawls in the ARC format: Common Crawl lists them, and made no WAT files of them.
WITHOUT = {"CC-MAIN-2012", "CC-MAIN-2009-2010", "CC-MAIN-2008-2009"}
NEWEST, WHOLE_LISTING = "CC-MAIN-2025-47", "CC-MAIN-2023-50"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Mirror:
    """A copy of Common Crawl's lists, served over HTTP, and an empty store."""

    folder: Path
    url: str
    registry: Registry
    paths: list[str] = field(default_factory=list)

    def list_wat_files(self, name: str, *, segments: int = 100, files: int = 2) -> None:
        """wat.paths.gz of a snapshot: the real one's lines, cut."""
        numbers: dict[str, int] = {}
        lines = []
        for line in self.paths:
            segment = line.split("/")[3]
            seen = numbers[segment] = numbers.get(segment, 0) + 1
            if len(numbers) <= segments and seen <= files:
                lines.append(line.replace(WHOLE_LISTING, name))
        self.write(name, gzip.compress("\n".join(lines).encode()))

    def write(self, name: str, listing: bytes) -> None:
        place = self.folder / "crawl-data" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "wat.paths.gz").write_bytes(listing)

    def refresh(self, *, whole: int = 100, dry_run: bool = False) -> Refreshed:
        return refresh(self.registry, collinfo=f"{self.url}/collinfo.json", source=self.url, whole=whole, dry_run=dry_run)


@pytest.fixture
def mirror(tmp_path: Path, shared: Path) -> Iterator[Mirror]:
    folder = tmp_path / "mirror"
    folder.mkdir()
    lists = shared / "crawl_listings"
    (folder / "collinfo.json").write_bytes((lists / "collinfo.json").read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    registry = Registry((tmp_path / "store").as_uri())
    paths = gzip.decompress((lists / WHOLE_LISTING / "wat.paths.gz").read_bytes()).decode().split()
    yield Mirror(folder, f"http://127.0.0.1:{server.server_address[1]}", registry, paths)
    server.shutdown()
    server.server_close()


def names(mirror: Mirror) -> set[str]:
    return {snapshot.id for snapshot in mirror.registry.snapshots()}


@pytest.mark.shared
def test_an_empty_registry_takes_every_snapshot_of_the_real_list_that_has_wat_files(mirror: Mirror, shared: Path) -> None:
    listed = {entry["id"] for entry in json.loads((mirror.folder / "collinfo.json").read_text())}
    assert len(listed) == 118
    for name in listed - WITHOUT:
        mirror.list_wat_files(name)
    for name in (WHOLE_LISTING, "CC-MAIN-2016-07"):  # as they are: 90,000 and 34,900 lines
        mirror.write(name, (shared / "crawl_listings" / name / "wat.paths.gz").read_bytes())
    mirror.list_wat_files(NEWEST, segments=57)

    done = mirror.refresh()
    assert (done.listed, done.known, len(done.registered)) == (118, 0, 114)
    assert done.left.keys() == WITHOUT | {NEWEST}
    assert all("there is no http://" in done.left[name] for name in WITHOUT)
    assert "lists 57 segments, a whole snapshot has 100" in done.left[NEWEST]
    assert names(mirror) == done.registered.keys() == listed - done.left.keys()
    found = mirror.registry.snapshots()
    assert [s.id for s in found] == [s.id for s in sorted(found, key=lambda s: s.registered_at)], "older ones come first"
    assert all(earlier.last_turn <= later.registered_at for earlier, later in pairwise(found))
    assert {s.id: s.batch_count for s in found if s.batch_count > 100} == {WHOLE_LISTING: 1500, "CC-MAIN-2016-07": 600}

    # The next day it is whole; nothing else is touched.
    mirror.list_wat_files(NEWEST)
    again = mirror.refresh()
    assert (again.known, list(again.registered), again.left.keys()) == (114, [NEWEST], WITHOUT)
    assert mirror.registry.snapshots()[:-1] == found


@pytest.mark.shared
def test_a_dry_run_registers_nothing(mirror: Mirror) -> None:
    mirror.list_wat_files(NEWEST)
    assert list(mirror.refresh(dry_run=True).registered) == [NEWEST]
    assert names(mirror) == set()


@pytest.mark.shared
@pytest.mark.parametrize(
    "content", [b"<html>busy</html>", b"[]", b"{}", b'[{"id": "../x", "from": "2024-01-01", "to": "2024-01-02"}]']
)
def test_a_malformed_list_changes_nothing(mirror: Mirror, content: bytes) -> None:
    mirror.list_wat_files(NEWEST)
    (mirror.folder / "collinfo.json").write_bytes(content)
    with pytest.raises(DataError, match="is not Common Crawl's list of snapshots"):
        mirror.refresh()
    assert names(mirror) == set()


@pytest.mark.shared
def test_one_malformed_listing_changes_nothing(mirror: Mirror) -> None:
    mirror.list_wat_files("CC-MAIN-2025-43")
    mirror.write(NEWEST, gzip.compress(b"crawl-data/\n"))
    with pytest.raises(DataError, match=f"{NEWEST}/wat.paths.gz: 'crawl-data/' is not the path of a WAT file"):
        mirror.refresh()
    assert names(mirror) == set()


@pytest.mark.shared
def test_a_list_or_a_registry_that_cannot_be_read_changes_nothing(mirror: Mirror) -> None:
    mirror.list_wat_files("CC-MAIN-2025-43")
    mirror.refresh()
    mirror.list_wat_files(NEWEST)
    entry = Path(mirror.registry.store.local or "") / "CC-MAIN-2025-43" / "snapshot.json"
    sound = entry.read_bytes()
    entry.write_bytes(b"{")
    with pytest.raises(DataError, match="is not a registered snapshot"):
        mirror.refresh()
    entry.write_bytes(sound)
    (mirror.folder / "collinfo.json").unlink()
    with pytest.raises(TransientError, match=r"collinfo\.json does not exist"):
        mirror.refresh()
    assert names(mirror) == {"CC-MAIN-2025-43"}


def snapshot(seed: int | None, *, files: int = 900, segments: int = 10) -> Snapshot:
    from datetime import UTC, datetime

    end = datetime(2023, 12, 12, tzinfo=UTC)
    listed = tuple(Segment(f"17006790{99281 + 7 * n}.{(37 * n) % segments}", files) for n in range(segments))
    return Snapshot("CC-MAIN-2023-50", end, end, end, 60, "", listed, seed)


def test_wat_files_are_dealt_by_a_seeded_shuffle() -> None:
    one = snapshot(0)
    segment = one.segments[0]
    dealt = [one.members(segment, index) for index in range(15)]
    assert sorted(place for members in dealt for place in members) == list(range(900)), "each WAT file is in one batch"
    assert [len(members) for members in dealt] == [60] * 15
    # Drawn without order, about four of a batch's 59 steps lead to the neighbour; in listing order all do.
    neighbours = [b - a == 1 for members in dealt for a, b in pairwise(members)]
    assert sum(neighbours) < len(neighbours) / 5
    assert dealt == [snapshot(0).members(segment, index) for index in range(15)]
    assert dealt != [snapshot(1).members(segment, index) for index in range(15)]
    assert one.members(segment, 0) != one.members(one.segments[1], 0)
    # What a key stands for must never change: the first WAT files of the first batch under seed 0.
    assert dealt[0][:5] == [3, 16, 26, 37, 39]


def test_batches_run_in_a_shuffled_order_and_are_dated_by_segment() -> None:
    one = snapshot(0)
    batches = list(one.batches())
    assert len({b.run_after for b in batches}) == len({b.partition_date for b in batches}) == len(batches) == one.batch_count
    assert [b.run_after for b in batches] == sorted(b.run_after for b in batches)
    same = [a.segment == b.segment for a, b in pairwise(batches)]
    assert sum(same) < len(same) / 3
    by_date = [one.segment(b.segment).number for b in sorted(batches, key=lambda b: b.partition_date)]
    assert by_date == sorted(by_date), "a range of segments is a range of dates, which a backfill takes"
    assert {b.partition_key for b in batches} == {b.partition_key for b in snapshot(None).batches()}


def test_an_entry_made_before_there_was_a_seed_means_what_it_meant() -> None:
    old = snapshot(None, segments=2)
    entry = json.loads(old.to_json())
    del entry["seed"]
    read = Snapshot.from_json(json.dumps(entry).encode(), "here")
    assert read == old
    assert read.members(read.segments[0], 3) == list(range(180, 240))
    assert [b.index for b in read.batches()] == [*range(15), *range(15)]
    assert [b.number for b in read.batches()] == list(range(30))


def test_how_much_the_schedule_covers() -> None:
    one = snapshot(0)
    everything = list(one.batches())
    assert Coverage.parse("all").batches(one) == Coverage.parse("100%").batches(one) == everything
    assert Coverage.parse("10%").batches(one) == everything[:15]
    assert Coverage.parse("0.1%").batches(one) == everything[:1], "a small share is a batch at least"
    chosen = Coverage.parse("segments:0-1,7").batches(one)
    assert {one.segment(b.segment).number for b in chosen} == {0, 1, 7}
    assert len(chosen) == 45
    since = sorted(b.partition_date for b in everything)[100]
    assert Coverage.parse("all").batches(one, since) == [b for b in everything if b.partition_date >= since]
    for wrong in ("10", "0%", "101%", "half", "segments:a"):
        with pytest.raises(ConfigError):
            Coverage.parse(wrong)

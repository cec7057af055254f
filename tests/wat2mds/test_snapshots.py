"""Snapshots: real listings, batches and their keys, registering once."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.wat2mds.file_server import FakeClock, FileServer
from wat2mds import resume
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.snapshots import Registry, parse_partition_key, parse_wat_paths, read_collinfo, wat_file_number, wat_location

NAME, SEGMENT = "CC-MAIN-2023-50", "1700679099281.67"
SEGMENTS = ("1700679099514.0", SEGMENT)


def mirror(folder: Path, name: str = NAME, files: int = 130) -> dict[str, str]:
    """A local copy of Common Crawl's layout: listing and collinfo only."""
    place = folder / "crawl-data" / name
    place.mkdir(parents=True)
    lines = [
        f"crawl-data/{name}/segments/{segment}/wat/CC-MAIN-20231128083443-20231128113443-{i:05d}.warc.wat.gz\n"
        for segment in (SEGMENT, "1700679099514.0")
        for i in range(files)
    ]
    (place / "wat.paths.gz").write_bytes(gzip.compress("".join(lines).encode()))
    entry = {"id": name, "from": "2023-11-28T00:00:00", "to": "2023-12-12T00:04:08"}
    (folder / "collinfo.json").write_text(json.dumps([entry]))
    return {"collinfo": str(folder / "collinfo.json"), "source": str(folder)}


def test_register_makes_a_snapshot_known_once(store_url: str, tmp_path: Path) -> None:
    where = mirror(tmp_path)
    registry = Registry(store_url)
    first = registry.register(NAME, **where)
    assert registry.register(NAME, **where, batch_size=7) == first, "the batch size is fixed at the first registration"
    assert registry.snapshots() == [first]
    assert registry.get(None) == registry.get(NAME) == first
    batches = list(first.batches())
    by_date = sorted(batches, key=lambda batch: batch.partition_date)
    # Common Crawl's segment 0 before its segment 67, whatever the order of the listing.
    assert [b.partition_key for b in by_date] == [f"{NAME}.{segment}.b0{i}" for segment in SEGMENTS for i in range(3)]
    assert by_date[4].partition_date == datetime(2023, 12, 12, 0, 8, 8, tzinfo=UTC)
    assert all(b.run_after >= first.registered_at for b in batches)
    assert len({b.run_after for b in batches}) == len(batches) == 6


def test_a_batch_is_its_wat_files(tmp_path: Path) -> None:
    where = mirror(tmp_path)
    registry = Registry(str(tmp_path / "store"))
    registry.register(NAME, **where)
    sizes = [len(registry.batch(f"{NAME}.{SEGMENT}.b{i:02d}")[2]) for i in range(3)]
    assert sizes == [60, 60, 10]
    numbers = [file.number for i in range(3) for file in registry.batch(f"{NAME}.{SEGMENT}.b{i:02d}")[2]]
    assert sorted(numbers) == [f"{i:05d}" for i in range(130)] != numbers
    with pytest.raises(ConfigError, match="the segment's last batch is b02"):
        registry.batch(f"{NAME}.{SEGMENT}.b03")
    with pytest.raises(ConfigError, match=r"SNAPSHOT\.SEGMENT\.bNN"):
        parse_partition_key("yesterday")


def test_later_registrations_come_later(tmp_path: Path) -> None:
    one = mirror(tmp_path / "a")
    two = mirror(tmp_path / "b", "CC-MAIN-2024-10")
    (tmp_path / "b" / "collinfo.json").write_text(
        json.dumps([{"id": "CC-MAIN-2024-10", "from": "2024-02-20T00:00:00", "to": "2024-03-05T00:00:00"}])
    )
    registry = Registry(str(tmp_path / "store"))
    first, second = registry.register(NAME, **one), registry.register("CC-MAIN-2024-10", **two)
    assert second.registered_at >= max(batch.run_after for batch in first.batches())
    assert [s.id for s in registry.snapshots()] == [NAME, "CC-MAIN-2024-10"]


def test_batches_of_two_snapshots_never_share_a_date(tmp_path: Path) -> None:
    one = mirror(tmp_path / "a", files=900)
    two = mirror(tmp_path / "b", "CC-MAIN-2023-51", files=10)
    entry = {"id": "CC-MAIN-2023-51", "from": "2023-12-01T00:00:00", "to": "2023-12-12T10:00:00"}
    (tmp_path / "b" / "collinfo.json").write_text(json.dumps([entry]))
    registry = Registry(str(tmp_path / "store"))
    registry.register(NAME, **one, batch_size=1)
    with pytest.raises(ConfigError, match="choose a larger batch size"):
        registry.register("CC-MAIN-2023-51", **two)
    assert [s.id for s in registry.snapshots()] == [NAME]


# With names: bytes of gzip hold the second they were made in, and a test's name is the same in every process of a run.
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"not gzip", "not a gzipped list", id="plain"),
        pytest.param(gzip.compress(b"<html>busy</html>"), "not the path of a WAT file", id="page"),
        pytest.param(gzip.compress(b""), "lists no WAT file", id="empty"),
    ],
)
def test_a_malformed_listing_changes_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    where = mirror(tmp_path)
    (tmp_path / "crawl-data" / NAME / "wat.paths.gz").write_bytes(content)
    registry = Registry(str(tmp_path / "store"))
    with pytest.raises(DataError, match=message):
        registry.register(NAME, **where)
    assert registry.snapshots() == []
    assert not (tmp_path / "store").exists()


def test_names_that_are_not_known(tmp_path: Path) -> None:
    where = mirror(tmp_path)
    registry = Registry(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="no snapshot is registered"):
        registry.get(None)
    with pytest.raises(ConfigError, match=f"Did you mean '{NAME}'"):
        registry.register("CC-MAIN-2023-51", **where)
    registry.register(NAME, **where)
    with pytest.raises(ConfigError, match=f"Did you mean '{NAME}'"):
        registry.get("CC-MAIN-2023-49")
    with pytest.raises(ConfigError, match="have the numbers 0 to 67"):
        registry.get(NAME).segment("100")
    (tmp_path / "collinfo.json").write_text("[{}]")
    with pytest.raises(DataError, match="not Common Crawl's list"):
        read_collinfo(where["collinfo"])
    with pytest.raises(TransientError, match="does not exist"):
        read_collinfo(str(tmp_path / "none.json"))


def test_listings_of_a_busy_server_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Common Crawl answers 403 to who asks too much: that is no reason to give a snapshot up."""
    mirror(tmp_path)
    clock = FakeClock()
    monkeypatch.setattr(resume, "clock", clock)
    server = FileServer((tmp_path / "collinfo.json").read_bytes(), clock)
    try:
        server.statuses = [(403, {}), (503, {"Retry-After": "20"})]
        assert list(read_collinfo(f"{server.url}/collinfo.json")) == [NAME]
        assert server.pauses()[:2] == [1, 20]
        with pytest.raises(TransientError, match="does not exist"):
            read_collinfo(f"{server.url}/missing.json")
    finally:
        server.close()


def test_a_damaged_registry_says_which_entry(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "store"))
    registry.register(NAME, **mirror(tmp_path))
    (tmp_path / "store" / "registry" / NAME / "snapshot.json").write_text("{")
    with pytest.raises(DataError, match=f"{NAME}/snapshot.json is not a registered snapshot"):
        registry.snapshots()


def test_names_of_wat_files() -> None:
    new = "crawl-data/CC-MAIN-2023-50/segments/1700679099281.67/wat/CC-MAIN-20231128083443-20231128113443-00899.warc.wat.gz"
    old = "CC-MAIN-20160205193905-00001-ip-10-236-182-209.ec2.internal.warc.wat.gz"
    assert wat_location(f"https://data.commoncrawl.org/{new}") == (NAME, SEGMENT, "00899")
    assert wat_file_number(old) == "00001"
    assert wat_location("/tmp/my.wat.gz") is None


@pytest.mark.shared
@pytest.mark.parametrize(("name", "per_segment", "batches"), [(NAME, 900, 1500), ("CC-MAIN-2016-07", 349, 600)])
def test_real_listings(shared: Path, tmp_path: Path, name: str, per_segment: int, batches: int) -> None:
    listing = shared / "crawl_listings" / name / "wat.paths.gz"
    segments = parse_wat_paths(listing.read_bytes(), str(listing))[name]
    assert {len(paths) for paths in segments.values()} == {per_segment}
    place = tmp_path / "crawl-data" / name
    place.mkdir(parents=True)
    shutil.copy(listing, place)
    registry = Registry(str(tmp_path / "store"))
    found = registry.register(name, collinfo=str(shared / "crawl_listings" / "collinfo.json"), source=str(tmp_path))
    assert sorted(segment.number for segment in found.segments) == list(range(100))
    assert len(list(found.batches())) == batches
    assert len(read_collinfo(str(shared / "crawl_listings" / "collinfo.json"))) == 118

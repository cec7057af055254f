"""Summaries of small published datasets: what they count is what records, manifests and outcomes hold, and they stay small."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.conftest import build_wat_file
from wat2mds import derived
from wat2mds.derived import summaries
from wat2mds.derived.summaries import Row, Summary, read_summary, summary_of_record, summary_path
from wat2mds.derived.work import HOSTS, Work
from wat2mds.errors import DataError
from wat2mds.failures import outcomes_of
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.settings import Settings, load_settings
from wat2mds.stages import convert, publish, upload, validate
from wat2mds.store import Layout, Store, join
from wat2mds.versions import read_record, read_version, withdraw

SETTINGS = load_settings("demo", ["filter.min_similarity=0.3", "upload.keep_images=true"], environment={})
OTHER = load_settings("demo", ["filter.min_similarity=0.3", "convert.shard_bytes=100000"], environment={})
PASSING = Settings.model_validate({"filter": {"max_punsafe": None}})
TRANSIENT = {"flow": lambda flow: replace(flow, drops={"timeout": flow.entered - flow.left})}


def made(dataset: str, wat_file: str, settings: Settings = SETTINGS, *, validated: bool = False, **options: Any) -> Manifest:
    file = build_wat_file(dataset, wat_file, first=int(wat_file) * 1000, settings=settings, **options)
    passed = validate.run(file.samples, file.decisions, file.out("validate"), settings, dataset) if validated else None
    converted = convert.run(file.samples, file.decisions, file.out("convert"), settings, passed)
    return upload.run(converted, dataset, file.out("upload"), settings)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return Layout((tmp_path / "store").as_uri(), "small").dataset


def summary(dataset: str, number: int) -> Summary:
    found = read_summary(Store(dataset), number)
    assert found is not None
    return found


def manifests(dataset: str, number: int) -> list[Manifest]:
    found = []
    for unit in read_record(dataset, number).units.values():
        for stage, digest in unit.digests.items():
            folder = Layout.of(dataset).stage(unit.snapshot, unit.segment, unit.wat_file, stage)
            found.append(read_manifest(join(folder, f"{digest}.json")))
            found += [read_manifest(i.url) for i in found[-1].inputs if "/filter/scores/" in i.url and stage == "filter"]
    return found


def test_what_is_counted_is_what_records_manifests_and_outcomes_hold(dataset: str) -> None:
    publish.run([made(dataset, "00000", count=20)], dataset, SETTINGS, batch="first")
    publish.run([made(dataset, "00001", count=12), made(dataset, "00002")], dataset, SETTINGS, batch="second", missing=["a.b.c"])
    one, two, record = summary(dataset, 1), summary(dataset, 2), read_version(dataset)
    assert (two.samples, two.wat_files, two.shards) == (record.samples, 3, record.units.shards)
    assert (two.batch, two.missing, two.missing_count, two.brought) == ("second", ["a.b.c"], 1, 2)
    assert [unit["key"] for unit in two.units] == record.published_units
    assert two.flows == record.funnel
    for stage in ("download", "filter", "convert", "upload"):
        of_stage = [m for m in manifests(dataset, 2) if m.stage == stage]
        counted = two.total.stages[stage]
        assert counted["wat_files"] == 3
        assert counted["seconds"] == pytest.approx(sum(m.seconds for m in of_stage), abs=0.01)
        assert counted["cpu_seconds"] == pytest.approx(sum(m.cpu_seconds for m in of_stage), abs=0.01)
        assert counted["bytes"] == sum(file.size for m in of_stage for file in m.files)
    assert (two.total.stages["download"]["entered"], two.total.stages["download"]["left"]) == (20 + 12 + 12, 17 + 9 + 9)
    assert two.total.reasons == {"http_404": 9}
    assert two.work.reasons == {"http_404": 6}
    hosts: dict[str, Counter[str]] = {"fetched": Counter(), "failed": Counter()}
    for unit in record.units.values():
        stored = outcomes_of(unit)
        assert stored is not None
        for row in pq.read_table(io.BytesIO(Store(dataset).read(stored.path))).to_pylist():
            hosts["failed" if row["drop_reason"] == "http_404" else "fetched"][row["url"].split("/")[2]] += 1
    hosts["fetched"].update(derived.Statistics.from_json(Store(dataset).read_json(derived.statistics_path(2))).count("host"))
    assert two.total.hosts == {h: {"fetched": hosts["fetched"][h], "failed": hosts["failed"][h]} for h in hosts["fetched"]}
    assert sum(sum(counts.values()) for counts in two.total.hosts.values()) == 44
    stored_bytes = dict.fromkeys(("shards", "embeddings", "outcomes"), 0)
    for unit in record.units.values():
        for entry in unit.objects:
            stored_bytes[entry.path.split("/")[0]] += entry.size
    assert two.size() == stored_bytes | {"index": record.index.size}
    assert [row.number for row in two.history] == [1, 2]
    assert two.history[:1] == one.history
    row = two.history[1]
    assert (row.samples, row.published, row.batch, row.missing) == (record.samples, 14, "second", 1)
    assert (row.entered, row.download, row.filter) == (24, 6, 4)
    assert row.entered == row.published + row.extract + row.dedup + row.download + row.filter


def test_quality_is_that_of_the_reports(dataset: str) -> None:
    publish.run([made(dataset, "00000", PASSING, validated=True), made(dataset, "00001", PASSING)], dataset, PASSING)
    found = summary(dataset, 1)
    assert sum(found.total.quality.values()) == 2
    assert found.total.quality["unknown"] == 1
    assert found.units[0]["quality"]["passed"] is True
    assert found.units[0]["quality"]["page"].startswith("quality/")
    assert found.units[1]["quality"] is None
    assert found.total.expectations == dict(Counter(found.units[0]["quality"]["warnings"]))


def test_what_a_wat_file_takes_over_is_not_counted_again(dataset: str) -> None:
    publish.run([made(dataset, "00000")], dataset, SETTINGS)
    publish.run([made(dataset, "00000", OTHER)], dataset, OTHER)
    one, two = summary(dataset, 1), summary(dataset, 2)
    assert two.work.reasons == {}
    assert two.work.hosts == {}
    assert set(two.work.stages) == {"convert", "upload"}
    assert two.total.stages["download"] == one.total.stages["download"]
    assert two.total.stages["convert"]["wat_files"] == 2, "it was done twice"
    assert two.size()["shards"] == sum(
        entry.size for unit in read_version(dataset).units.values() for entry in unit.objects if entry.path.startswith("shards/")
    )


def test_due_retries_are_counted_by_day(dataset: str) -> None:
    publish.run([made(dataset, "00000", changes=TRANSIENT)], dataset, SETTINGS)
    version = read_version(dataset)
    (unit,) = version.units.values()
    until = datetime.now(UTC) - timedelta(days=1)
    segments = {"s": {"due": {"2030-01-02": [1, 3], "2030-01-01": [2, 5]}}, "t": {"due": {"2030-01-02": [4, 1]}}}
    found = replace(summary(dataset, 1), segments=segments)
    assert list(found.due().items()) == [("2030-01-01", (2, 5)), ("2030-01-02", (5, 4))]
    due = replace(unit, retriable=7, retriable_uids="x", retriable_until=until.isoformat())
    version.units._loaded[unit.key.rpartition(".")[0]] = {unit.key: due}
    (entry,) = summaries._segments(version, None, None).values()
    day = until + timedelta(days=version.settings["download"]["retry_days"][0])
    assert entry["due"] == {day.date().isoformat(): [1, 7]}


def test_versions_without_a_summary_get_theirs_with_the_next(dataset: str) -> None:
    for number in range(3):
        publish.run([made(dataset, f"{number:05}")], dataset, SETTINGS)
    store = Store(dataset)
    written = {number: store.read(summary_path(number)) for number in (1, 2, 3)}
    for number in (2, 3):
        store.delete(summary_path(number))
    derived.derive(dataset, read_version(dataset))
    assert {number: store.read(summary_path(number)) for number in (1, 2, 3)} == written
    for number in (1, 2, 3):
        store.delete(summary_path(number))
    with pytest.raises(DataError, match="more than 2 versions"):
        summaries.make_summary(store, read_version(dataset), lambda unit: derived.Statistics(), at_most=2)
    # Withdrawn and vacuumed: what stood in its lists is not known any more, and the others are summed all the same.
    withdraw(dataset, [1], "test")
    publish.vacuum.vacuum(dataset, timedelta(0), alone=True)
    store.delete(summary_path(2))
    derived.derive(dataset, read_version(dataset))
    found = summary(dataset, 3)
    assert [row.published for row in found.history] == [0, 7, 7]
    assert found.samples == found.history[-1].samples == 21


def test_of_a_record_alone(dataset: str) -> None:
    publish.run([made(dataset, "00000")], dataset, SETTINGS)
    found = summary_of_record(read_version(dataset))
    assert found.of_record
    assert (found.samples, found.wat_files, found.flows) == (7, 1, read_version(dataset).funnel)


def test_it_stays_small_however_many_versions_and_hosts(dataset: str) -> None:
    publish.run([made(dataset, "00000")], dataset, SETTINGS)
    row = summary(dataset, 1).history[0]
    rows: list[Row] = []
    for number in range(1, 5_001):
        rows = summaries._bounded([*rows, replace(row, first=number, number=number)])
        assert len(rows) <= summaries.HISTORY
    assert [rows[0].first, rows[-1].number] == [1, 5_000]
    assert all(one.number + 1 == other.first for one, other in pairwise(rows)), "no gap"
    assert sum(r.published for r in rows) == 5_000 * row.published
    hosts = {f"h{number}.example": {"fetched": number, "failed": 1} for number in range(1_000)}
    bounded = Work(hosts=hosts).bounded(lambda host: False).bounded(lambda host: False)
    assert len(bounded.hosts) == HOSTS + 1
    assert bounded.hosts["h999.example"] == {"fetched": 999, "failed": 1}
    assert sum(sum(counts.values()) for counts in bounded.hosts.values()) == sum(range(1_000)) + 1_000
    full = replace(summary(dataset, 1), history=rows, total=bounded)
    assert len(full.to_bytes()) < 250_000


def test_a_damaged_summary_is_as_none(dataset: str) -> None:
    publish.run([made(dataset, "00000")], dataset, SETTINGS)
    for content in (b"", b"{}", b"[]", b'{"format": 99}', b'{"format": 1, "history": [[1]], "work": {}, "total": {}}'):
        Store(dataset).write(summary_path(1), content)
        assert read_summary(Store(dataset), 1) is None


def test_nothing_of_a_sample_is_in_it(dataset: str) -> None:
    publish.run([made(dataset, "00000")], dataset, SETTINGS)
    content = Store(dataset).read(summary_path(1)).decode()
    (unit,) = read_version(dataset).units.values()
    rows = derived.read_rows(Store(dataset), unit, ["uid", "caption", "url", "page_url", "md5"]).to_pylist()
    assert rows
    assert not [value for row in rows for value in row.values() if value and value in content]

"""publish: one atomic version a batch, whoever else publishes, and wherever it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Manifest
from wat2mds.reading import count_samples
from wat2mds.schema import METADATA
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Store
from wat2mds.units import segment_of
from wat2mds.versions import Version, newest_version, open_table, published_flow, read_index, read_version, version_numbers

Make = Callable[..., Any]
SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}})
STRICT = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}, "filter": {"min_similarity": 0.3}})


@pytest.fixture(params=["file", "s3"])
def anywhere(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("dataset" if request.param == "file" else "s3_dataset"))


@pytest.fixture
def made_upload(make_wat_file: Make) -> Callable[..., Manifest]:
    """The upload manifest of one WAT file made from scratch; different WAT files hold different pairs."""

    def make(dataset: str, wat_file: str, settings: Settings = SETTINGS, **options: Any) -> Manifest:
        made = make_wat_file(dataset, wat_file, first=int(wat_file) * 1000, settings=settings, **options)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), settings)
        return upload.run(converted, dataset, made.out("upload"), settings)

    return make


def rows_of(dataset: str, version: Version) -> pa.Table:
    """A version's metadata rows, read through Arrow from the table's files."""
    store = Store(f"{dataset}/metadata")
    tables = []
    actions = pa.table(open_table(dataset, version).get_add_actions(flatten=True))
    for path in actions["path"].to_pylist():
        tables.append(pq.read_table(pa.BufferReader(store.read(path)), columns=["uid", "shard", "shard_row", "fetched_at"]))
    return (
        pa.concat_tables(tables) if tables else METADATA.schema.empty_table().select(["uid", "shard", "shard_row", "fetched_at"])
    )


def check_whole(dataset: str, version: Version, uploads: Sequence[Manifest]) -> None:
    """The version holds exactly these WAT files: in its record, its table, its index, and through StreamingDataset."""
    assert {u.unit_name for u in version.units.values()} == {u.extra["unit_name"] for u in uploads}
    total = sum(u.extra["samples"] for u in uploads)
    rows = rows_of(dataset, version)
    assert version.samples == rows.num_rows == total
    assert pc.count_distinct(rows["uid"]).as_py() == total
    index = json.loads(read_index(dataset, version))
    places = {(s["raw_data"]["basename"], n) for s in index["shards"] for n in range(s["samples"])}
    assert set(zip(rows["shard"].to_pylist(), rows["shard_row"].to_pylist(), strict=True)) == places
    assert [s["raw_data"]["basename"] for s in index["shards"]] == sorted(s["raw_data"]["basename"] for s in index["shards"])
    for unit in version.units.values():
        assert sum(file.rows for file in unit.table_files) == unit.samples


def test_first_version(anywhere: str, made_upload: Make) -> None:
    uploads = [made_upload(anywhere, "00000", count=40), made_upload(anywhere, "00001")]
    key = "CC-MAIN-2023-50.1700679099281.67."
    result = publish.run(uploads, anywhere, SETTINGS, batch="CC-MAIN-2023-50.1700679099281.67.b00", missing=[key + "00002"])
    version = read_version(anywhere)
    assert version.number == 1
    check_whole(anywhere, version, uploads)
    assert count_samples(anywhere) == 42
    assert version.missing == [key + "00002"]
    assert version.batch == "CC-MAIN-2023-50.1700679099281.67.b00"
    assert published_flow(version, key + "00001").left == 7
    unit = version.units[key + "00000"]
    assert set(unit.digests) == {"extract", "dedup", "download", "filter", "convert", "upload"}
    assert [(f["stage"], f["source"], f["target"]) for f in unit.flows] == [
        ("extract", "records", "pages"),
        ("extract", "links", "pairs"),
        ("dedup", "pairs", "unique"),
        ("download", "unique", "samples"),
        ("filter", "samples", "kept"),
        ("convert", "kept", "converted"),
        ("upload", "converted", "uploaded"),
    ]
    summary = result.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["version"], summary["samples"], summary["counts"]) == (1, 42, {"uploaded": 42, "published": 42})
    assert summary["uri"] == f"{anywhere}/versions/000001/version.json"
    assert Store(anywhere).read("index.json") == read_index(anywhere, version)
    fields = {f.name: str(f.type) for f in pa.schema(open_table(anywhere, version).schema().to_arrow())}
    assert list(fields) == METADATA.names()


def test_done_before(anywhere: str, made_upload: Make) -> None:
    uploads = [made_upload(anywhere, "00000")]
    publish.run(uploads, anywhere, SETTINGS)
    Store(anywhere).write("index.json", b"stale")
    again = publish.run(uploads, anywhere, SETTINGS)
    assert again.done_before
    assert again.summary()["counts"] == {"uploaded": 7, "published": 7}
    assert version_numbers(anywhere) == [1]
    assert Store(anywhere).read("index.json") == read_index(anywhere, again.version)


def test_republish_replaces_just_its_wat_file(anywhere: str, made_upload: Make) -> None:
    one, other = made_upload(anywhere, "00000", dropped=0), made_upload(anywhere, "00001")
    publish.run([one, other], anywhere, SETTINGS)
    first = read_version(anywhere)
    stricter = made_upload(anywhere, "00000", settings=STRICT, dropped=5)
    publish.run([stricter], anywhere, STRICT)
    second = read_version(anywhere)
    assert second.number == 2
    check_whole(anywhere, second, [stricter, other])
    untouched = second.units["CC-MAIN-2023-50.1700679099281.67.00001"]
    assert untouched == first.units[untouched.key]
    # the old version stands as it was, in its table and for StreamingDataset
    check_whole(anywhere, read_version(anywhere, 1), [one, other])
    assert (count_samples(anywhere, 1), count_samples(anywhere, 2)) == (16, 11)


def test_a_wat_file_without_samples_replaces_one_with(dataset: str, made_upload: Make) -> None:
    full = made_upload(dataset, "00000")
    publish.run([full], dataset, SETTINGS)
    empty = made_upload(dataset, "00000", settings=STRICT, count=3, dropped=3, failed=0)
    publish.run([empty], dataset, STRICT)
    version = read_version(dataset)
    assert version.number == 2
    check_whole(dataset, version, [empty])
    assert json.loads(Store(dataset).read("index.json")) == {"shards": [], "version": 2}
    assert publish.run([empty], dataset, STRICT).done_before


def test_first_version_without_samples(dataset: str, made_upload: Make) -> None:
    empty = made_upload(dataset, "00000", count=3, dropped=3, failed=0)
    check_whole(dataset, publish.run([empty], dataset, SETTINGS).version, [empty])


def test_missing_wat_file_that_is_published_later(dataset: str, made_upload: Make) -> None:
    late = "CC-MAIN-2023-50.1700679099281.67.00001"
    publish.run([made_upload(dataset, "00000")], dataset, SETTINGS, missing=[late])
    assert read_version(dataset).missing == [late]
    publish.run([made_upload(dataset, "00001")], dataset, SETTINGS)
    assert read_version(dataset).missing == []


def test_rows_that_nobody_recorded_are_repaired(dataset: str, made_upload: Make, tmp_path: Path) -> None:
    """What a dead publisher committed to the table, or someone removed from it, is put right by the next publish."""
    from wat2mds.stages.publish.table import MetadataTable

    one, other, third = (made_upload(dataset, f"0000{n}") for n in range(3))
    first = publish.run([one, other], dataset, SETTINGS).version
    stray = publish._unit(made_upload(dataset, "00007"), Store(dataset), SETTINGS)
    damaged = dict(list(first.units.items())[:1])
    MetadataTable(dataset, tmp_path).bring_to(first.units, {segment_of(stray.key): damaged | {stray.key: stray}})
    second = publish.run([third], dataset, SETTINGS).version
    check_whole(dataset, second, [one, other, third])


def test_what_cannot_be_published(dataset: str, made_upload: Make, tmp_path: Path) -> None:
    one = made_upload(dataset, "00000")
    with pytest.raises(DataError, match="nothing to publish"):
        publish.run([], dataset, SETTINGS, missing=["CC-MAIN-2023-50.1700679099281.67.00000"])
    with pytest.raises(ConfigError, match="not to file:///elsewhere"):
        publish.run([one], "file:///elsewhere/datasets/demo", SETTINGS)
    with pytest.raises(ConfigError, match="given twice"):
        publish.run([one, one], dataset, SETTINGS)
    Store(dataset).delete_tree(f"embeddings/{one.extra['unit_name']}/img_emb")
    with pytest.raises(TransientError, match=r"img_emb_0\.npy is gone"):
        publish.run([one], dataset, SETTINGS)
    assert newest_version(dataset) is None
    assert not Store(dataset).exists("index.json")


def test_a_uid_twice_in_a_batch(dataset: str, make_wat_file: Make) -> None:
    uploads = []
    for wat_file in ("00000", "00001"):
        made = make_wat_file(dataset, wat_file, first=0)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)
        uploads.append(upload.run(converted, dataset, made.out("upload"), SETTINGS))
    with pytest.raises(DataError, match="7 uids stand in the batch more than once"):
        publish.run(uploads, dataset, SETTINGS)
    assert version_numbers(dataset) == []


# Publishes for real, in processes of its own: a line of JSON on stdin names jobs, which run at once, each in a fork, so that the
# imports are paid once. A job's "writes" are how many writes it survives: it kills itself before the next one.
PUBLISHER = """
import json, os, signal, sys
from wat2mds import store

left = -1

def about_to_write():
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

class Dying(store.Store):
    def write(self, path, data):
        about_to_write()
        super().write(path, data)
    def create(self, path, data):
        about_to_write()
        return super().create(path, data)

store.Store = Dying
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings
from wat2mds.stages import publish
from wat2mds.stages.publish import table

def dying(function):
    def wrapped(*given, **named):
        about_to_write()
        return function(*given, **named)
    return wrapped

table.write_deltalake = dying(table.write_deltalake)
table.DeltaTable.create = dying(table.DeltaTable.create)

for line in sys.stdin:
    children = []
    for job in json.loads(line):
        child = os.fork()
        if child == 0:
            left = job["writes"]
            publish.run([read_manifest(url) for url in job["uploads"]], job["dataset"], Settings.from_json(sys.argv[1], "argument"))
            os._exit(0)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""
NEVER, KILLED = -1, -9


@pytest.fixture
def publish_in_processes(request: pytest.FixtureRequest) -> Iterator[Callable[..., list[int]]]:
    """Runs jobs ``(writes it survives, dataset, uploads)`` at once; returns their exit codes."""
    request.getfixturevalue("anywhere")  # its environment is the processes' too
    settings = json.dumps(SETTINGS.model_dump(mode="json", by_alias=True))
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, settings],
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*jobs: tuple[int, str, Sequence[Manifest]]) -> list[int]:
        asked = [{"writes": writes, "dataset": dataset, "uploads": [u.url for u in uploads]} for writes, dataset, uploads in jobs]
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        found: list[int] = json.loads(process.stdout.readline())
        return found

    yield run
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_killed_between_any_two_writes_then_retried(
    anywhere: str, made_upload: Make, publish_in_processes: Callable[..., list[int]]
) -> None:
    """Each death leaves the newest version as it was, or the new one whole; each retry goes on from there."""
    # What is written, in order: the table (the first time only), its rows, the segment's list, the merged index, the record, the root
    # index. Numbers are the writes that an attempt survives; rows and table that are there already are not written again.
    first, second = [made_upload(anywhere, "00000")], [made_upload(anywhere, "00001", count=4, failed=1, dropped=1)]
    for deaths, uploads, before in (((0, 1, 1, 1, 2, 3), first, None), ((0, 1, 1, 2, 3), second, 1)):
        number = (before or 0) + 1
        for attempt, writes in enumerate(deaths):
            assert publish_in_processes((writes, anywhere, uploads)) == [KILLED]
            newest = newest_version(anywhere)
            committed = attempt == len(deaths) - 1  # the last death is between the record and the root index
            assert (newest.number if newest is not None else None) == (number if committed else before)
            if newest is not None:
                check_whole(anywhere, newest, [*first, *second] if newest.number == 2 else first)
        result = publish.run(uploads, anywhere, SETTINGS)
        assert (result.version.number, result.done_before) == (number, True)
        assert Store(anywhere).read("index.json") == read_index(anywhere, result.version)
    assert version_numbers(anywhere) == [1, 2]


def test_two_publishers_at_once(anywhere: str, made_upload: Make, publish_in_processes: Callable[..., list[int]]) -> None:
    """Rounds of two processes that start together; both always end up in the dataset, and no version is lost."""
    rounds = 4 if anywhere.startswith("file:") else 2
    uploads: list[Manifest] = []
    for turn in range(rounds):
        pair = [made_upload(anywhere, f"000{turn}{n}", count=4, failed=1, dropped=1) for n in range(2)]
        assert publish_in_processes(*((NEVER, anywhere, [manifest]) for manifest in pair)) == [0, 0]
        uploads += pair
        version = read_version(anywhere)
        check_whole(anywhere, version, uploads)
        assert Store(anywhere).read("index.json") == read_index(anywhere, version)
    assert version_numbers(anywhere) == list(range(1, 2 * rounds + 1))
    for number in version_numbers(anywhere):
        held = set(read_version(anywhere, number).units)
        check_whole(anywhere, read_version(anywhere, number), [u for u in uploads if _key(u) in held])


def _key(manifest: Manifest) -> str:
    return ".".join(manifest.unit[name] for name in ("snapshot", "segment", "wat_file"))

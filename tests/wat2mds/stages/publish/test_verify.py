"""verify: a published dataset, broken in one way at a time; each break is found, named, and the only thing that is said."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, Make
from wat2mds.cli.main import run as run_command
from wat2mds.settings import Settings
from wat2mds.stages import publish
from wat2mds.stages.publish.shards import shard_uids
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Layout, Store
from wat2mds.units import PublishedUnit, StoredObject, Units
from wat2mds.versions import Version, read_index, read_version

Break = Callable[[Store, Version, PublishedUnit], None]


def shard_of(unit: PublishedUnit) -> str:
    return unit.object_ending("shard.00000.mds").path


def change(store: Store, path: str, changed: Callable[[bytes], bytes]) -> None:
    store.write(path, changed(store.read(path)))


def change_table(store: Store, unit: PublishedUnit, changed: Callable[[pa.Table], pa.Table]) -> None:
    """A data file of the Delta table, under the name that its log knows."""
    path = f"metadata/{unit.table_files[0].path}"
    out = io.BytesIO()
    pq.write_table(changed(pq.read_table(pa.BufferReader(store.read(path)), partitioning=None)), out)
    store.write(path, out.getvalue())


def record_again(store: Store, version: Version, unit: PublishedUnit) -> None:
    """The record as if this unit had been published so: what lies is then the record's, and only the parts disagree."""
    units = Units.stored(store, dict(version.units) | {unit.key: unit})
    store.write(Layout.version_path(version.number), replace(version, units=units).to_json())


def set_object(unit: PublishedUnit, path: str, content: bytes) -> PublishedUnit:
    new = StoredObject(path, len(content), hashlib.sha256(content).hexdigest())
    return replace(unit, objects=[new if entry.path == path else entry for entry in unit.objects])


def flipped_byte(store: Store, version: Version, unit: PublishedUnit) -> None:
    change(store, shard_of(unit), lambda data: data[:-1] + bytes([data[-1] ^ 1]))


def missing_shard(store: Store, version: Version, unit: PublishedUnit) -> None:
    store.delete(shard_of(unit))


def short_shard(store: Store, version: Version, unit: PublishedUnit) -> None:
    change(store, shard_of(unit), lambda data: data[:-1])


def row_without_sample(store: Store, version: Version, unit: PublishedUnit) -> None:
    def one_more(table: pa.Table) -> pa.Table:
        at = table.column_names.index("uid")
        extra = table.slice(0, 1).set_column(at, table.schema.field(at), pa.array(["f" * 32], table["uid"].type))
        return pa.concat_tables([table, extra])

    change_table(store, unit, one_more)


def sample_without_row(store: Store, version: Version, unit: PublishedUnit) -> None:
    change_table(store, unit, lambda table: table.slice(1))


def row_of_another_place(store: Store, version: Version, unit: PublishedUnit) -> None:
    def swapped(table: pa.Table) -> pa.Table:
        rows = table["shard_row"].to_pylist()
        rows[0], rows[1] = rows[1], rows[0]
        return table.set_column(table.column_names.index("shard_row"), "shard_row", pa.array(rows, table["shard_row"].type))

    change_table(store, unit, swapped)


def missing_table_file(store: Store, version: Version, unit: PublishedUnit) -> None:
    store.delete(f"metadata/{unit.table_files[0].path}")


def stale_root_index(store: Store, version: Version, unit: PublishedUnit) -> None:
    store.write("index.json", read_index(store.url, read_version(store.url, 1)))


def replaced_index(store: Store, version: Version, unit: PublishedUnit) -> None:
    store.write(version.index.path, read_index(store.url, read_version(store.url, 1)))


def stale_recorded_index(store: Store, version: Version, unit: PublishedUnit) -> None:
    """The record names an index of the right length in which a shard stands under another unit's name."""
    content = read_index(store.url, version)
    wrong = content.replace(unit.unit_name.encode(), unit.unit_name[::-1].encode(), 1)
    store.write(version.index.path, wrong)
    store.write("index.json", wrong)
    index = StoredObject(version.index.path, len(wrong), hashlib.sha256(wrong).hexdigest())
    store.write(Layout.version_path(version.number), replace(version, index=index).to_json())


def index_that_names_no_shard(store: Store, version: Version, unit: PublishedUnit) -> None:
    path = unit.object_ending("/index.json").path
    content = json.dumps({"version": 2, "shards": []}).encode()
    store.write(path, content)
    record_again(store, version, set_object(unit, path, content))


def wrong_hash_in_index(store: Store, version: Version, unit: PublishedUnit) -> None:
    """The merged index and the unit's own agree with each other and the record, but not with the shard."""
    index = json.loads(store.read(unit.object_ending("/index.json").path))
    sha1 = index["shards"][0]["raw_data"]["hashes"]["sha1"].encode()
    for path in (unit.object_ending("/index.json").path, version.index.path, "index.json"):
        change(store, path, lambda data: data.replace(sha1, b"0" * 40))
    unit = set_object(unit, unit.object_ending("/index.json").path, store.read(unit.object_ending("/index.json").path))
    content = store.read(version.index.path)
    merged = StoredObject(version.index.path, len(content), hashlib.sha256(content).hexdigest())
    record_again(store, replace(version, index=merged), unit)


def embeddings_of_fewer_rows(store: Store, version: Version, unit: PublishedUnit) -> None:
    path = unit.object_ending("img_emb_0.npy").path
    out = io.BytesIO()
    np.save(out, np.load(io.BytesIO(store.read(path)))[1:])
    store.write(path, out.getvalue())
    record_again(store, version, set_object(unit, path, out.getvalue()))


def damaged_embeddings(store: Store, version: Version, unit: PublishedUnit) -> None:
    change(store, unit.object_ending("text_emb_0.npy").path, lambda data: data[:-1] + b"\x7f")


def damaged_list(store: Store, version: Version, unit: PublishedUnit) -> None:
    (entry,) = version.units.lists.values()
    change(store, entry.stored.path, lambda data: data + b" ")


KEY = r"CC-MAIN-2023-50\.1700679099281\.67\.00001"
SHARD = rf"shards/{KEY}\.[0-9a-f]+/shard\.00000\.mds"
BREAKS: list[tuple[Break, list[str]]] = [
    (flipped_byte, [rf"{SHARD}: it has SHA-256 [0-9a-f]+, the record says [0-9a-f]+"]),
    (missing_shard, [rf"{SHARD} is missing"]),
    (short_shard, [rf"{SHARD}: it is \d+ bytes, the record says \d+"]),
    (row_without_sample, [rf"{KEY}: 1 rows of the metadata table stand in no shard, e\.g\. f+ .*"]),
    (sample_without_row, [rf"{KEY}: 1 rows of shards are not in the metadata table, e\.g\. .*"]),
    (
        row_of_another_place,
        [rf"{KEY}: 2 rows of the metadata table stand in no shard.*", rf"{KEY}: 2 rows of shards are not in.*"],
    ),
    (missing_table_file, [rf"metadata/.*wat_file=00001/.* is missing: 7 rows of {KEY}"]),
    (stale_root_index, [r"index\.json is stale: .*`wat2mds derive`.*"]),
    (replaced_index, [r"versions/000002/index\..*\.json: the merged index is \d+ bytes, the record says \d+"]),
    (stale_recorded_index, [rf"versions/000002/index\..*\.json does not name the shards of {KEY}\..* it is stale"]),
    (
        index_that_names_no_shard,
        [
            rf"versions/000002/index\..*\.json does not name the shards of {KEY}\..* it is stale",
            rf"{SHARD}: no index names it",
            rf"shards/{KEY}\..*/index\.json does not count the shards and samples of the record",
        ],
    ),
    (wrong_hash_in_index, [rf"{SHARD} has sha1 [0-9a-f]+, its index says 0+"]),
    (embeddings_of_fewer_rows, [rf"embeddings/{KEY}\..*/img_emb_0\.npy holds 6 rows, {KEY} has 7 samples"]),
    (damaged_embeddings, [rf"embeddings/{KEY}\..*/text_emb_0\.npy: it has SHA-256 .*"]),
    (
        damaged_list,
        [
            r".*versions/units/.* is not what the version records: it was damaged; the 2 WAT files of .* cannot be compared",
            "0 samples were read, the record says 14",
        ],
    ),
]


@pytest.mark.parametrize(("broken", "said"), BREAKS, ids=[broken.__name__ for broken, _ in BREAKS])
def test_each_break_is_found(dataset: str, made_upload: Make, broken: Break, said: list[str]) -> None:
    publish.run([made_upload(dataset, "00000")], dataset, SETTINGS)
    version = publish.run([made_upload(dataset, "00001")], dataset, SETTINGS).version
    sound = verify(dataset)
    assert (sound.problems, sound.samples, sound.shards) == ([], 14, 2)
    broken(Store(dataset), version, version.units["CC-MAIN-2023-50.1700679099281.67.00001"])
    problems = verify(dataset).problems
    assert len(problems) == len(said), problems
    for problem, pattern in zip(problems, said, strict=True):
        assert re.fullmatch(pattern, problem, re.DOTALL), problem


def test_everything_wrong_is_said_at_once_and_by_the_command(
    anywhere: str, made_upload: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    publish.run([made_upload(anywhere, "00000")], anywhere, SETTINGS)
    version = publish.run([made_upload(anywhere, "00001")], anywhere, SETTINGS).version
    assert run_command(["verify", anywhere]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["problems"] == []
    for unit in version.units.values():
        flipped_byte(Store(anywhere), version, unit)
        sample_without_row(Store(anywhere), version, unit)
    row_without_sample(Store(anywhere), version, unit)
    stale_root_index(Store(anywhere), version, unit)
    assert run_command(["verify", anywhere]) == 65
    problems = json.loads(capsys.readouterr().out.splitlines()[-1])["problems"]
    assert len(problems) == 3, problems  # rows of a damaged shard cannot be compared
    # An older version is not touched by what is wrong with the newer one alone.
    assert len(verify(anywhere, 1).problems) == 1


def test_a_uid_in_two_wat_files(dataset: str, made_upload: Make, make_wat_file: Make) -> None:
    from wat2mds.stages import convert, upload

    publish.run([made_upload(dataset, "00000")], dataset, SETTINGS)
    made = make_wat_file(dataset, "00001", first=0)  # the pairs of 00000: publish sees a batch only
    converted = convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)
    publish.run([upload.run(converted, dataset, made.out("upload"), SETTINGS)], dataset, SETTINGS)
    (problem,) = verify(dataset).problems
    assert problem.startswith("7 uids stand in shards more than once, e.g. ")


@pytest.mark.parametrize("compression", ["zstd:3", "gz:6"])
def test_compressed_shards(dataset: str, made_upload: Make, compression: str) -> None:
    settings = Settings.model_validate({"convert": {"shard_bytes": 1 << 16, "compression": compression}})
    unit = made_upload(dataset, "00000", settings=settings)
    version = publish.run([unit], dataset, settings).version
    assert verify(dataset).problems == []
    (published,) = version.units.values()
    (packed,) = [entry.path for entry in published.objects if entry.path.startswith("shards/") and ".mds." in entry.path]
    change(Store(dataset), packed, lambda data: data[:-9] + bytes(9))
    (problem,) = verify(dataset).problems
    assert problem.startswith(f"{packed}: it has SHA-256")


def test_rubbish_for_a_shard() -> None:
    shard = {"zip_data": None, "raw_data": {}, "samples": 2, "column_sizes": [None, 4], "column_names": ["uid", "n"]}
    row = (32).to_bytes(4, "little") + b"0" * 32 + bytes(4)
    head = np.array([2, 16, 56, 96], np.uint32).tobytes()
    assert shard_uids(head + row + row, shard) == ["0" * 32] * 2
    from wat2mds.errors import DataError

    for data in (b"", bytes(40), head, head + row, head + row + row + b"x", head + row + row.replace(b" ", b"!"), b"\xff" * 96):
        with pytest.raises(DataError):
            shard_uids(data, shard)

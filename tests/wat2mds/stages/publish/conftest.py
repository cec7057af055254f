"""Uploads to publish, and what a whole version is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from wat2mds.manifest import Manifest
from wat2mds.schema import METADATA
from wat2mds.settings import Settings
from wat2mds.stages import convert, upload
from wat2mds.store import Store
from wat2mds.versions import Version, open_table, read_index

Make = Callable[..., Any]
# Images stay: what is built is built again from them.
SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}, "upload": {"keep_images": True}})
STRICT = Settings.model_validate({**SETTINGS.model_dump(by_alias=True), "filter": {"min_similarity": 0.3}})


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


def age(dataset: str, by: timedelta) -> None:
    """Make every object of a local dataset so much older."""
    then = time.time() - by.total_seconds()
    for path in Store(dataset).local.rglob("*"):  # type: ignore[union-attr]
        os.utime(path, (then, then))

"""Versions and their reading: records that are no records, older versions, caches, and damage that must not pass for an end."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.reading import count_samples, open_dataset, seed_cache
from wat2mds.schema import MDS_COLUMNS
from wat2mds.store import Layout, Store
from wat2mds.versions import (
    PublishedUnit,
    StoredObject,
    Units,
    Version,
    newest_number,
    newest_version,
    published_flow,
    read_index,
    read_version,
    version_numbers,
)

declare_torchvision_ops()
UNIT = "CC-MAIN-2023-50.1700679099281.67.{:05}"


def publish_by_hand(dataset: str, number: int, wat_files: int, rows: int = 5) -> Version:
    """A version of shards written by streaming, with its record: no Delta table, which reading samples does not need."""
    from streaming import MDSWriter

    store = Store(dataset)
    units, shards = {}, []
    for wat_file in range(wat_files):
        name = f"{UNIT.format(wat_file)}.abc"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            columns = {column: str(MDS_COLUMNS[column].mds) for column in ("uid", "caption", "jpg")}
            writer = MDSWriter(columns=columns, out=str(folder), hashes=["sha1"], size_limit=1 << 10)
            for row in range(rows):
                uid = hashlib.md5(f"{wat_file} {row}".encode()).hexdigest()
                writer.write({"uid": uid, "caption": f"{wat_file} {row}", "jpg": bytes(400)})
            writer.finish()
            for shard in json.loads((folder / "index.json").read_bytes())["shards"]:
                basename = shard["raw_data"]["basename"]
                shard["raw_data"]["basename"] = f"shards/{name}/{basename}"
                shards.append(shard)
                store.put_file(folder / basename, f"shards/{name}/{basename}")
        unit = PublishedUnit(name, "CC-MAIN-2023-50", "1700679099281.67", f"{wat_file:05}", rows, 3, {}, [], [])
        units[unit.key] = unit
    content = json.dumps({"version": 2, "shards": shards}).encode()
    path = f"versions/{number:06d}/index.0.json"
    store.write(path, content)
    index = StoredObject(path, len(content), hashlib.sha256(content).hexdigest())
    version = Version(
        number, 0, index, Units.stored(store, units), [], [], "", "demo", {}, "", {}, "wat2mds", "2026-01-01T00:00:00+00:00"
    )
    assert store.create(Layout.version_path(number), version.to_json())
    return version


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return Layout((tmp_path / "root").as_uri(), "demo").dataset


def test_newest_and_older(dataset: str, tmp_path: Path) -> None:
    assert newest_version(dataset) is None
    publish_by_hand(dataset, 1, 1)
    second = publish_by_hand(dataset, 2, 2)
    # written before a record, by a publisher that died or lost the number
    Store(dataset).write("versions/000003/index.1.json", b"{}")
    assert (newest_number(dataset), version_numbers(dataset)) == (2, [1, 2])
    assert read_version(dataset) == second
    assert second.samples == 10
    flow = published_flow(second, UNIT.format(1))
    assert (flow.source, flow.target, flow.entered, flow.left) == ("uploaded", "published", 5, 5)
    with pytest.raises(DataError, match=r"holds no WAT file .* Did you mean"):
        published_flow(second, UNIT.format(2))
    with pytest.raises(DataError, match=r"there is no version 7\. Known: 1, 2\."):
        read_version(dataset, 7)
    with pytest.raises(DataError, match="nothing has been published"):
        read_version(Layout((tmp_path / "other").as_uri(), "demo").dataset)
    assert not (tmp_path / "other").exists()
    for content, message in (
        (b"{", "is not a version record"),
        (b'{"format": 99}', "of format 2"),
        (b'{"format": 2, "index": {}}', "is not"),
    ):
        Store(dataset).write(Layout.version_path(9), content)
        with pytest.raises(DataError, match=message):
            read_version(dataset, 9)


@pytest.fixture(params=["file", "s3"])
def anywhere(request: pytest.FixtureRequest) -> str:
    """A dataset's URL on local files, and on S3 over HTTP."""
    if request.param == "file":
        return str(request.getfixturevalue("dataset"))
    return Layout(str(request.getfixturevalue("s3_root")), "demo").dataset


def loader_of(dataset: str, local: Path) -> Any:
    from streaming import StreamingDataLoader

    samples = open_dataset(
        dataset, local=local, shuffle=True, shuffle_seed=7, batch_size=2, num_canonical_nodes=1, validate_hash="sha1"
    )
    return StreamingDataLoader(samples, batch_size=2, num_workers=2)


def uids_of(batches: Iterable[Any]) -> list[str]:
    return [uid for batch in batches for uid in batch["uid"]]


def test_shuffled_epochs_of_two_workers_resumed_in_the_middle(anywhere: str, tmp_path: Path) -> None:
    publish_by_hand(anywhere, 1, 3, rows=8)
    loader = loader_of(anywhere, tmp_path / "cache")
    first = uids_of(loader)
    # An even number for two workers of batches of two: no sample needs repeating.
    assert len(first) == len(set(first)) == 24
    batches = iter(loader)
    before = uids_of(next(batches) for _ in range(5))
    state = loader.state_dict()
    undisturbed = before + uids_of(batches)
    assert sorted(undisturbed) == sorted(first)
    assert undisturbed != first, "the second epoch has the order of the first: not shuffled anew"
    assert first != sorted(first)
    del batches, loader

    resumed = loader_of(anywhere, tmp_path / "another cache")  # as a new process would, with nothing on its disk
    resumed.load_state_dict(json.loads(json.dumps(state)))
    after = uids_of(resumed)
    assert before + after == undisturbed
    assert sorted(uids_of(resumed)) == sorted(first)
    del resumed


def test_one_cache_for_two_versions(dataset: str, tmp_path: Path) -> None:
    first, second = publish_by_hand(dataset, 1, 1), publish_by_hand(dataset, 2, 2)
    for version in (first, second, first):
        samples = open_dataset(dataset, version.number, local=tmp_path / "cache")
        assert len([samples[n]["uid"] for n in range(len(samples))]) == version.samples
        del samples
    assert (tmp_path / "cache" / "index.json").read_bytes() == read_index(dataset, first)
    with pytest.raises(ConfigError, match="lies in the dataset's own folder"):
        seed_cache(dataset, first, Store(dataset).local / "cache")  # type: ignore[operator]


def test_damage_is_an_error_and_not_an_end(anywhere: str) -> None:
    dataset = anywhere
    version = publish_by_hand(dataset, 1, 1)
    store = Store(dataset)
    shard = json.loads(read_index(dataset, version))["shards"][0]["raw_data"]["basename"]
    good = store.read(shard)
    store.write(shard, good[:-1] + b"x")
    with pytest.raises(ValueError, match="Checksum failure"):
        count_samples(dataset)
    store.delete(shard)
    with pytest.raises((FileNotFoundError, ClientError), match=r"No such file|not found"):
        count_samples(dataset)
    store.write(shard, good)
    assert count_samples(dataset) == 5
    store.write(version.index.path, read_index(dataset, version) + b" ")
    with pytest.raises(TransientError, match="is not the index that version 1 records"):
        open_dataset(dataset)
    store.delete(version.index.path)
    with pytest.raises(DataError, match="withdrawn or damaged"):
        open_dataset(dataset)


def test_version_without_samples(dataset: str) -> None:
    publish_by_hand(dataset, 1, 0)
    assert count_samples(dataset) == 0
    with pytest.raises(DataError, match="holds no samples"):
        open_dataset(dataset)

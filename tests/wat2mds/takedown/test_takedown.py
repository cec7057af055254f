"""Takedowns of small published datasets: nothing of what is listed is left in any object, and everything else is as it was."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.search.conftest import bring
from tests.wat2mds.takedown.searching import Sample, found_below
from wat2mds import subsets
from wat2mds.reading import open_dataset, open_subset
from wat2mds.search import building
from wat2mds.search.reading import open_index
from wat2mds.search.records import list_indices
from wat2mds.settings import Settings
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Layout, Store
from wat2mds.subsets import Definition
from wat2mds.takedown.absent import search
from wat2mds.takedown.applying import apply, complete
from wat2mds.takedown.entries import Entries, entries_of, text_words
from wat2mds.takedown.records import record, takedowns
from wat2mds.versions import newest_version, open_table, read_version, standing_numbers

SETTINGS = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}})


def listed(**texts: list[str]) -> Entries:
    return entries_of({kind: text_words(kind, values) for kind, values in texts.items()})


def folder_of(dataset: str) -> Path:
    local = Store(dataset).local
    assert local is not None
    return local


def samples_of(dataset: str) -> dict[str, Sample]:
    """All samples of the newest version, read by StreamingDataset."""
    found = {}
    for row in open_dataset(dataset, batch_size=1, shuffle=False):
        hashes = tuple(row[name] for name in ("md5", "sha1", "sha256", "pdq"))
        found[row["uid"]] = Sample(row["uid"], row["url"], row["caption"], row["jpg"], hashes)
    assert len(found) == read_version(dataset).samples
    return found


def take_down(dataset: str, entries: Entries) -> dict[str, object]:
    return apply(dataset, record(Store(dataset), entries, ["a list"], "a test", 0), alone=True)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Two versions of two and three WAT files, an index, a subset with shards."""
    dataset = Layout((tmp_path / "root with space").as_uri(), "small").dataset
    monkeypatch.setenv("WAT2MDS_SEARCH_CACHE", str(tmp_path / "cache"))
    for number in range(2):
        bring(dataset, f"0000{number}", 120, SETTINGS)
    building.build(dataset, "small")
    subsets.build(dataset, "all", Definition("width > 0"), mds=True)
    bring(dataset, "00002", 120, SETTINGS)
    return dataset


def check_consistent(dataset: str, expected: set[str]) -> None:
    """The newest version, what hangs on it, and what reads it hold exactly these samples."""
    assert verify(dataset).problems == []
    version = read_version(dataset)
    assert samples_of(dataset).keys() == expected
    assert set(open_table(dataset, version).to_pyarrow_table(columns=["uid"])["uid"].to_pylist()) == expected
    store = Store(dataset)
    for unit in version.units.values():
        rows = pq.read_table(pa.BufferReader(store.read(f"embeddings/{unit.unit_name}/metadata/metadata_0.parquet")))
        vectors = np.load(io.BytesIO(store.read(f"embeddings/{unit.unit_name}/img_emb/img_emb_0.npy")))
        assert len(rows) == len(vectors) == unit.samples
    if list_indices(dataset):
        (index,) = [entry for entry in list_indices(dataset) if entry.version == version.number]
        assert index.count == len(expected)
        (hits,) = open_index(dataset).search(vectors[:1].astype(np.float32), len(expected), "image")
        assert {hit.uid for hit in hits} == expected
    for name in subsets.names(store):
        built = subsets.read_subset(dataset, name, version.number)
        assert built.samples == len(expected)
        assert {row["uid"] for row in open_subset(dataset, name, batch_size=1, shuffle=False)} == expected


def test_nothing_is_left(published: str) -> None:
    before = samples_of(published)
    gone = [sorted(before)[0], sorted(before)[-1], sorted(before)[7]]
    victims = [before[uid] for uid in gone]
    assert found_below(folder_of(published), victims), "the search finds what is there"
    shards_before = {entry.path: entry for entry in Store(published).walk("shards")}

    report = take_down(
        published,
        listed(uid=[gone[0]], url=[before[gone[1]].url.replace("https://", "HTTPS://")], sha256=[before[gone[2]].hashes[2]]),
    )

    assert report["found"]["samples"] == 3  # type: ignore[index]
    assert report["waiting"] == []
    assert found_below(folder_of(published), victims) == []
    check_consistent(published, before.keys() - set(gone))
    assert standing_numbers(published)[-1] == 4
    kept = [entry for path, entry in shards_before.items() if Store(published).exists(path) and path.endswith(".mds")]
    assert kept, "shards without a listed sample are shared"
    # The same again is the same record, and changes nothing.
    version = newest_version(published)
    again = take_down(published, listed(uid=[gone[0]], url=[before[gone[1]].url], sha256=[before[gone[2]].hashes[2]]))
    assert again["takedown"] == 1
    assert read_version(published).number == version.number  # type: ignore[union-attr]
    assert len(takedowns(Store(published))) == 1
    assert complete(published, alone=True) == []


def test_on_an_object_store(s3_root: str) -> None:
    dataset = Layout(s3_root, "small").dataset
    for number in range(2):
        bring(dataset, f"0000{number}", 12, SETTINGS)
    rows = open_table(dataset, read_version(dataset)).to_pyarrow_table(columns=["uid", "md5"]).to_pylist()
    gone = listed(uid=[rows[0]["uid"]], md5=[rows[-1]["md5"]])
    take_down(dataset, gone)
    assert read_version(dataset).samples == len(rows) - 2
    assert verify(dataset).problems == []
    assert search(dataset, gone, [rows[0]["uid"], rows[-1]["uid"], rows[-1]["md5"]]).found == []
    assert complete(dataset, alone=True) == []

"""publish: one atomic version a batch, whoever else publishes, and wherever it is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, STRICT, Make, check_whole, rows_of
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.reading import count_samples
from wat2mds.schema import METADATA
from wat2mds.stages import convert, publish, upload
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Store
from wat2mds.units import segment_of
from wat2mds.versions import newest_version, open_table, published_flow, read_index, read_version, version_numbers


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
    assert [(line["source"], line["entered"], line["left"], line["drops"]) for line in version.funnel[-4:]] == [
        ("unique", 52, 46, {"http_404": 6}),
        ("samples", 46, 42, {"low_similarity": 4}),
        ("kept", 42, 42, {}),
        ("converted", 42, 42, {}),
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
    unit = one.extra["unit_name"]
    rows, index = rows_of(anywhere, first), read_index(anywhere, first)
    stricter = made_upload(anywhere, "00000", settings=STRICT, dropped=5)
    publish.run([stricter], anywhere, STRICT)
    second = read_version(anywhere)
    assert second.number == 2
    check_whole(anywhere, second, [stricter, other])
    # exactly the rows that the threshold drops are gone, and the shards of the old unit, all others are as they were
    gone = set(rows["uid"].to_pylist()) - set(rows_of(anywhere, second)["uid"].to_pylist())
    held = [uid for uid, shard in zip(rows["uid"].to_pylist(), rows["shard"].to_pylist(), strict=True) if unit in shard]
    assert gone == set(held[-5:])
    assert second.samples == first.samples - 5
    now = read_index(anywhere, second)
    assert unit.encode() in index
    assert unit.encode() not in now
    assert index.split(other.extra["unit_name"].encode())[1:] == now.split(other.extra["unit_name"].encode())[1:]
    untouched = second.units["CC-MAIN-2023-50.1700679099281.67.00001"]
    assert untouched == first.units[untouched.key]
    # the old version stands as it was, in its table and for StreamingDataset
    assert rows_of(anywhere, read_version(anywhere, 1)).equals(rows)
    assert read_index(anywhere, read_version(anywhere, 1)) == index
    assert (verify(anywhere, 1).problems, verify(anywhere, 2).problems) == ([], [])
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

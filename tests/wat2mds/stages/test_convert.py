"""convert: kept samples only, in order, read back, the same bytes twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Manifest, Unit, unit_digest
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.schema import MDS_COLUMNS, METADATA
from wat2mds.settings import Settings, load_settings
from wat2mds.stages import convert, upload

declare_torchvision_ops()

Make = Callable[..., Any]
SMALL = Settings.model_validate({"convert": {"shard_bytes": 1 << 16}})


def read_all(manifest: Manifest, folder: Path) -> list[dict[str, Any]]:
    """Every sample, through StreamingDataset and a DataLoader with two workers."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    dataset = StreamingDataset(local=str(manifest.fetch("mds/index.json", folder).parent), batch_size=1)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    samples = list(loader)
    del loader, dataset
    return samples


def test_read_back_through_streaming(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    made = make_wat_file(dataset, count=60)
    converted = convert.run(made.samples, made.decisions, made.out("convert"), SMALL)
    assert [(f.source, f.target, f.entered, f.left) for f in converted.flows] == [("kept", "converted", 55, 55)]
    assert converted.extra["unit_name"].startswith("CC-MAIN-2023-50.1700679099281.67.00000.")
    assert converted.extra["shards"] > 1

    samples = read_all(converted, tmp_path)
    assert sorted(s["uid"] for s in samples) == sorted(made.kept)
    assert all(s["jpg"] == made.images[s["uid"]] for s in samples)
    assert set(samples[0]) == set(MDS_COLUMNS)

    table = pq.read_table(converted.fetch("metadata.parquet", tmp_path))
    assert table.schema.equals(METADATA.schema)
    assert table["uid"].to_pylist() == made.kept  # the order of the pairs
    by_uid = {s["uid"]: s for s in samples}
    for row in table.to_pylist():
        for name, column in MDS_COLUMNS.items():
            if name in row:
                stored, wanted = by_uid[row["uid"]][name], row[name] if row[name] is not None else column.mds_null
                assert stored == wanted or (math.isnan(stored) and math.isnan(wanted)), name
    unit_name = converted.extra["unit_name"]
    index = json.loads(converted.fetch("mds/index.json", tmp_path).read_bytes())
    places = [(f"shards/{unit_name}/{s['raw_data']['basename']}", row) for s in index["shards"] for row in range(s["samples"])]
    assert list(zip(table["shard"].to_pylist(), table["shard_row"].to_pylist(), strict=True)) == places

    images, texts = (np.load(converted.fetch(f"{name}.npy", tmp_path)) for name in ("img_emb", "text_emb"))
    assert images.dtype == texts.dtype == np.float16
    cosines = np.einsum("ij,ij->i", images.astype(float), texts.astype(float))
    np.testing.assert_allclose(cosines, table["similarity"].to_numpy(), atol=0.005)


def test_same_bytes_as_streamings_own_encoding(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    from streaming import MDSWriter

    made = make_wat_file(dataset)
    converted = convert.run(made.samples, made.decisions, made.out("convert"), Settings())
    columns = {name: str(column.mds) for name, column in MDS_COLUMNS.items()}
    writer = MDSWriter(columns=columns, out=str(tmp_path / "plain"), hashes=["sha1", "xxh64"])
    for sample in read_all(converted, tmp_path):
        writer.write(sample)
    writer.finish()
    ours = converted.fetch("mds/shard.00000.mds", tmp_path)
    assert ours.read_bytes() == (tmp_path / "plain" / "shard.00000.mds").read_bytes()


def test_two_runs_same_bytes_and_name(tmp_path: Path, make_wat_file: Make) -> None:
    found = []
    for run in ("one", "two"):
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri(), count=30)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), SMALL)
        found.append((converted.extra, [(f.name, f.sha256) for f in converted.files]))
    assert found[0] == found[1]


def test_name_does_not_depend_on_when_images_were_fetched(tmp_path: Path, make_wat_file: Make, changing: Make) -> None:
    names = []
    for run, changes in (("one", {}), ("two", {"samples": changing("fetched_at", lambda v: v and v + timedelta(days=1))})):
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri(), changes=changes)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), Settings())
        names.append((converted.extra["unit_name"], {f.name: f.sha256 for f in converted.files}))
    assert names[0][0] == names[1][0]
    assert {n for n in names[0][1] if names[0][1][n] != names[1][1][n]} == {"metadata.parquet", "outcomes.parquet"}


WEBDATASET = Settings.model_validate({"convert": {"shard_bytes": 1 << 16, "webdataset": True}})


def test_webdataset_of_the_same_samples(tmp_path: Path, make_wat_file: Make) -> None:
    """As the library webdataset reads it; the same bytes whenever the images were fetched; uploaded and published with the shards."""
    import webdataset

    found = []
    for run in ("one", "two"):
        made = make_wat_file((tmp_path / run / "datasets" / "demo").as_uri(), count=60)
        converted = convert.run(made.samples, made.decisions, made.out("convert"), WEBDATASET)
        names = [f.name for f in converted.files if f.name.endswith(".tar")]
        found.append([(f.name, f.sha256) for f in converted.files])
    assert found[0] == found[1]
    assert len(names) > 1
    assert all(f.size <= 1 << 16 for f in converted.files if f.name in names)
    paths = [str(converted.fetch(name, tmp_path)) for name in names]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    table = pq.read_table(converted.fetch("metadata.parquet", tmp_path)).to_pylist()
    assert [json.loads(s["json"])["uid"] for s in samples] == made.kept
    for sample, row in zip(samples, table, strict=True):
        columns = json.loads(sample["json"])
        assert sample["jpg"] == made.images[row["uid"]]
        assert sample["txt"].decode() == row["caption"]
        assert columns["key"] == sample["__key__"]
        assert (columns["similarity"], columns["license"]) == (row["similarity"], row["license"])
    uploaded = upload.object_paths(converted)
    assert {uploaded[name] for name in names} == {
        f"shards/{converted.extra['unit_name']}/{name.removeprefix('mds/')}" for name in names
    }


def test_damaged_tar_is_found(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    from wat2mds.stages.convert.kept import read_kept
    from wat2mds.stages.convert.tars import read_tars_back, write_tars

    made = make_wat_file(dataset)
    kept = read_kept(made.samples, made.decisions, tmp_path)
    (path,) = write_tars(kept, tmp_path / "tars", "jpg", 1 << 26)
    read_tars_back(kept, [path], "jpg")
    good = path.read_bytes()
    assert good.count(made.images[made.kept[1]]) == 1
    path.write_bytes(good.replace(made.images[made.kept[1]], made.images[made.kept[1]][::-1]))
    with pytest.raises(TransientError, match="reads back as another sample"):
        read_tars_back(kept, [path], "jpg")
    with pytest.raises(TransientError, match="0 tar files hold 0 samples, 7 were written"):
        read_tars_back(kept, [], "jpg")


def test_what_did_not_pass_is_not_converted(dataset: str, make_wat_file: Make) -> None:
    one, other = make_wat_file(dataset, "00000"), make_wat_file(dataset, "00001", first=100)
    with Unit("validate", one.out("validate"), [one.samples, one.decisions], Settings()) as unit:
        passed = unit.commit([])
    with pytest.raises(DataError, match="was not made from"):
        convert.run(other.samples, other.decisions, other.out("convert"), Settings(), passed)
    converted = convert.run(one.samples, one.decisions, one.out("convert"), Settings(), passed)
    assert passed.as_input() in converted.inputs
    assert converted.digest == unit_digest(
        "convert", Settings().convert.fingerprint(), [one.samples.digest, one.decisions.digest, passed.digest]
    )


@pytest.mark.parametrize("setting", ["convert.compression=zstd:99", "convert.compression=rar", "convert.hashes=sha1,crc32"])
def test_what_the_writer_does_not_know_is_refused_before_work(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0].split(".")[1]):
        load_settings("demo", [setting], environment={})


def test_done_unit_is_not_made_again(dataset: str, make_wat_file: Make) -> None:
    made = make_wat_file(dataset)
    first = convert.run(made.samples, made.decisions, made.out("convert"), Settings())
    again = convert.run(made.samples, made.decisions, made.out("convert"), Settings())
    assert again.done_before
    assert again.files == first.files


@pytest.mark.parametrize(("count", "failed", "dropped"), [(5, 2, 3), (5, 5, 0), (0, 0, 0)])
def test_nothing_kept(dataset: str, make_wat_file: Make, tmp_path: Path, count: int, failed: int, dropped: int) -> None:
    made = make_wat_file(dataset, count=count, failed=failed, dropped=dropped)
    converted = convert.run(made.samples, made.decisions, made.out("convert"), WEBDATASET)
    assert not converted.matching(".tar")
    assert converted.extra["samples"] == converted.extra["shards"] == 0
    assert json.loads(converted.fetch("mds/index.json", tmp_path).read_bytes())["shards"] == []
    assert np.load(converted.fetch("img_emb.npy", tmp_path)).shape == (0, 16)
    assert pq.read_table(converted.fetch("metadata.parquet", tmp_path)).schema.equals(METADATA.schema)


def test_image_larger_than_a_shard(dataset: str, make_wat_file: Make, changing: Make, tmp_path: Path) -> None:
    big = b"\xff\xd8" + bytes(range(256)) * 400

    made = make_wat_file(dataset, changes={"samples": changing("jpg", lambda v: v and big)})
    converted = convert.run(made.samples, made.decisions, made.out("convert"), SMALL)
    index = json.loads(converted.fetch("mds/index.json", tmp_path).read_bytes())
    assert [s["samples"] for s in index["shards"]] == [1] * len(made.kept)
    assert all(s["jpg"] == big for s in read_all(converted, tmp_path))


def test_compressed_shards(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    made = make_wat_file(dataset)
    settings = Settings.model_validate({"convert": {"compression": "zstd:3", "hashes": ["xxh64", "sha1"]}})
    converted = convert.run(made.samples, made.decisions, made.out("convert"), settings)
    assert [f.name for f in converted.files if f.name.startswith("mds/shard")] == ["mds/shard.00000.mds.zstd"]
    assert pq.read_table(converted.fetch("metadata.parquet", tmp_path))["shard"][0].as_py().endswith("/shard.00000.mds.zstd")
    assert sorted(s["uid"] for s in read_all(converted, tmp_path)) == sorted(made.kept)


@pytest.mark.parametrize("where", [10, -10, 0])
def test_damage_between_writing_and_reading_is_found(
    dataset: str, make_wat_file: Make, monkeypatch: pytest.MonkeyPatch, where: int
) -> None:
    from wat2mds.stages.convert import shards

    made = make_wat_file(dataset)
    write = shards.write_shards

    def write_and_damage(kept: Any, folder: Path, settings: Any) -> Any:
        index = write(kept, folder, settings)
        path = folder / "shard.00000.mds"
        data = bytearray(path.read_bytes())
        data[where] ^= 1
        path.write_bytes(data)
        return index

    monkeypatch.setattr(shards, "write_shards", write_and_damage)
    with pytest.raises(TransientError, match="does not read back as written: sha1, xxh64 differs"):
        convert.run(made.samples, made.decisions, made.out("convert"), Settings())
    left = [p for p in Path(made.out("convert").removeprefix("file://").replace("%20", " ")).rglob("*") if p.is_file()]
    assert left == []


def test_row_that_is_not_the_inputs_is_found(dataset: str, make_wat_file: Make, tmp_path: Path) -> None:
    """Without hashes in the index, the comparison with the input still finds an exchanged image."""
    from wat2mds.stages.convert.kept import read_kept
    from wat2mds.stages.convert.shards import read_back, write_shards

    made = make_wat_file(dataset)
    kept = read_kept(made.samples, made.decisions, tmp_path)
    folder = tmp_path / "mds"
    index = write_shards(kept, folder, Settings.model_validate({"convert": {"hashes": []}}).convert)
    read_back(kept, folder, index)
    path = folder / "shard.00000.mds"
    data = path.read_bytes()
    one, other = (made.images[name] for name in made.kept[:2])
    swapped = data.replace(one[50:60], other[50:60][::-1], 1)
    assert swapped != data
    path.write_bytes(swapped)
    with pytest.raises(TransientError, match="reads back as another sample"):
        read_back(kept, folder, index)


def test_inputs_that_do_not_belong_together(dataset: str, make_wat_file: Make) -> None:
    one, other = make_wat_file(dataset, "00000"), make_wat_file(dataset, "00001", first=100)
    with pytest.raises(DataError, match="was not made from"):
        convert.run(one.samples, other.decisions, one.out("convert"), Settings())


def test_sample_that_is_kept_but_has_no_image(dataset: str, make_wat_file: Make, changing: Make) -> None:
    made = make_wat_file(dataset, changes={"samples": changing("jpg", lambda v: None)})
    with pytest.raises(DataError, match="is kept but has no image"):
        convert.run(made.samples, made.decisions, made.out("convert"), Settings())

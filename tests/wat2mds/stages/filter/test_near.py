"""Near-duplicates against what is published: the real stages up to a version, then a WAT file with copies of what it holds."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.wat2mds.stages.filter.drawings import Drawn, download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from wat2mds.errors import ConfigError, DataError
from wat2mds.identity import uid
from wat2mds.manifest import Manifest
from wat2mds.models.near_duplicates import hash_rows
from wat2mds.settings import load_settings
from wat2mds.stages import convert, publish, upload
from wat2mds.stages import filter as stage
from wat2mds.stages.filter.near import Published
from wat2mds.stages.filter.preview import preview
from wat2mds.store import Layout, split
from wat2mds.versions import read_version

ALL = ("filter.min_similarity=-1", "filter.min_similarity_other=-1", "filter.max_punsafe=", "filter.max_pwatermark=")
KEEP, DROP = under("demo", *ALL), under("demo", *ALL, "filter.near_duplicates=dataset")


def copied(one: Drawn, number: int) -> Drawn:
    """The same picture on another page, compressed again."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(one.jpg)) as image:
        image.save(out, "JPEG", quality=60)
    return Drawn(f"https://copies.example.org/{number}.jpg", one.caption, out.getvalue())


def published(samples: Manifest, decisions: Manifest, dataset: str) -> None:
    base = split(split(samples.url)[0])[0]
    made = convert.run(samples, decisions, f"{base}/convert", KEEP)
    publish.run([upload.run(made, dataset, f"{base}/upload", KEEP)], dataset, KEEP)


def gone(done: Manifest) -> set[str]:
    rows = pq.read_table(done.fetch("decisions.parquet", Path())).to_pylist()
    assert {row["drop_reason"] for row in rows} <= {None, "near_duplicate"}
    return {row["uid"] for row in rows if row["drop_reason"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Layout((tmp_path_factory.mktemp("near") / "root").as_uri(), "d").dataset


def test_what_looks_like_a_published_image_is_dropped(dataset: str) -> None:
    everything = drawings(24)
    first = download_unit(dataset, everything[:12], KEEP, seen=0)
    published(first, stage.run(first, out_of(first), KEEP), dataset)
    new = [copied(one, n) for n, one in enumerate(everything[:4])] + everything[12:18] + [copied(everything[12], 9)]
    new = [replace(one, original=(300, 200 + n)) for n, one in enumerate(new)]
    second = download_unit(dataset, new, KEEP, wat_file="00001", seen=1)
    uids = [uid(one.url, one.caption) for one in new]

    done = stage.run(second, out_of(second), DROP)
    assert gone(done) == {*uids[:4], uids[4]}, "copies of published ones, and of two new ones the smaller original"
    assert preview([split(out_of(second))[0]], DROP).units[0][-1].flows == done.flows
    assert gone(stage.run(second, out_of(second), under("demo", *ALL, "filter.near_duplicates=wat_file"))) == {uids[4]}

    # What is published since changes nothing for an attempt that comes later.
    published(second, stage.run(second, out_of(second), KEEP), dataset)
    Path(done.url.removeprefix("file://")).unlink()
    again = stage.run(second, out_of(second), DROP)
    assert not again.done_before
    assert [file.sha256 for file in again.files] == [file.sha256 for file in done.files]
    assert stage.run(second, out_of(second), DROP).done_before

    # Both WAT files built anew on a version that holds both: the later one gives way, never both, and none to itself.
    newest = read_version(dataset)
    assert newest.number == 2
    key = "CC-MAIN-2023-50.1700679099281.67."
    assert not list(Published(dataset, 2, key + "00000").hashes())
    (earlier,) = Published(dataset, 2, key + "00001").hashes()
    (same,) = Published(dataset, 1, key + "00001").hashes()
    assert np.array_equal(earlier, same)
    assert {row.tobytes() for row in earlier} <= {row.tobytes() for row in hash_rows(_pdq(first))}
    # Of a third WAT file all are earlier.
    assert sum(map(len, Published(dataset, 2, key + "00002").hashes())) == 12 + len(new)


def _pdq(samples: Manifest) -> list[str]:
    names = samples.matching(".parquet")
    return [value for name in names for value in pq.read_table(samples.fetch(name, Path()))["pdq"].to_pylist()]


def test_the_first_batch_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    samples = download_unit(Layout(tmp_path.as_uri(), "d").dataset, drawings(6), KEEP, seen=0)
    done = stage.run(samples, out_of(samples), DROP)
    assert gone(done) == set()


def test_a_dedup_that_did_not_look(tmp_path: Path) -> None:
    samples = download_unit(Layout(tmp_path.as_uri(), "d").dataset, drawings(6), KEEP)
    with pytest.raises(DataError, match="run dedup again with --dataset"):
        stage.run(samples, out_of(samples), DROP)


def test_it_asks_for_groups() -> None:
    with pytest.raises(ConfigError, match=r"compares with the groups that publish\.groups=false leaves out"):
        load_settings("demo", ["filter.near_duplicates=dataset", "publish.groups=false"], environment={})

"""Rows and stored images of a version, on each kind of store: one sample's bytes, and no other's."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.wat2mds.search.conftest import bring
from tests.wat2mds.stages.conftest import draw
from wat2mds.errors import DataError
from wat2mds.serve.filters import Condition
from wat2mds.serve.images import Images
from wat2mds.serve.rows import Rows, build_rows
from wat2mds.store import Layout
from wat2mds.versions import read_version


def test_each_sample_s_own_image(store_url: str, tmp_path: Path) -> None:
    dataset = Layout(store_url, "small").dataset
    bring(dataset, "00000", 12)
    version = read_version(dataset)
    build_rows(dataset, version, tmp_path / "rows.sqlite")
    rows = Rows(tmp_path / "rows.sqlite")
    assert rows.count == version.samples == 10
    images = Images(dataset, version)
    shown = rows.take(Condition(()), None, 100)
    for row in shown:
        number = int(row["url"].rpartition("/")[2].partition(".")[0])
        data, kind = images.read(row["uid"], row["shard"], row["shard_row"])
        assert (data, kind) == (draw(number), "image/jpeg")
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
    first, second = shown[:2]
    with pytest.raises(DataError, match="holds the sample"):
        images.read(first["uid"], second["shard"], second["shard_row"])
    with pytest.raises(DataError, match="names no shard"):
        images.read(first["uid"], "versions/000001/version.json", 0)
    with pytest.raises(DataError):
        images.read(first["uid"], first["shard"], 10_000)

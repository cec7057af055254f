"""Small published datasets to index, and their stored embeddings."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.conftest import build_wat_file
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload
from wat2mds.store import Layout, Store
from wat2mds.versions import read_version

SETTINGS = Settings.model_validate(
    {"convert": {"shard_bytes": 1 << 16}, "publish": {"groups": False}, "upload": {"keep_images": True}}
)


def bring(dataset: str, wat_file: str, count: int, settings: Settings = SETTINGS, **options: Any) -> None:
    """One more WAT file published, as a version of its own; ``count`` pairs, two of which are no samples."""
    options = {"failed": 1, "dropped": 1, "first": int(wat_file) * 1000} | options
    made = build_wat_file(dataset, wat_file, count=count, settings=settings, **options)
    converted = convert.run(made.samples, made.decisions, made.out("convert"), settings)
    publish.run([upload.run(converted, dataset, made.out("upload"), settings)], dataset, settings)


def stored_vectors(dataset: str, version: int | None = None) -> tuple[list[str], dict[str, np.ndarray]]:
    """uids and embeddings [n, dim] of a version, as they lie in its objects."""
    store = Store(dataset)
    uids: list[str] = []
    vectors: dict[str, list[np.ndarray]] = {"image": [], "text": []}
    for unit in read_version(dataset, version).units.values():
        for kind, name in (("image", "img_emb"), ("text", "text_emb")):
            content = store.read(f"embeddings/{unit.unit_name}/{name}/{name}_0.npy")
            vectors[kind].append(np.load(io.BytesIO(content)).astype(np.float32))
        table = pq.read_table(pa.BufferReader(store.read(f"embeddings/{unit.unit_name}/metadata/metadata_0.parquet")))
        uids += table["uid"].to_pylist()
    return uids, {kind: np.concatenate(parts) for kind, parts in vectors.items()}


@pytest.fixture(params=["file", "s3"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty dataset, on each kind of backend in turn."""
    monkeypatch.setenv("WAT2MDS_SEARCH_CACHE", str(tmp_path / "cache"))
    root = str(request.getfixturevalue("s3_root")) if request.param == "s3" else (tmp_path / "root with space").as_uri()
    return Layout(root, "small").dataset

"""Scoring tables: each image is decoded once, and neither the order of samples nor the size of batches nor what runs ahead matters."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from tests.wat2mds.stages.filter.test_resume import files_of, scores_of
from wat2mds.manifest import Manifest
from wat2mds.stages import filter as stage
from wat2mds.stages.filter import scores
from wat2mds.store import Layout


def scored(samples: Manifest, folder: Path, batch: int) -> tuple[dict[str, str], dict[str, tuple[float, np.ndarray, np.ndarray]]]:
    """The files' hashes, and similarity and embeddings by uid."""
    folder.mkdir()
    made = scores_of(stage.run(samples, folder.as_uri(), under("demo", f"filter.batch_size={batch}")))
    table = pq.read_table(made.fetch("scores.parquet", folder))
    images, texts = (np.load(made.fetch(name, folder)).astype(np.float32) for name in ("img_emb.npy", "text_emb.npy"))
    rows = zip(table["uid"].to_pylist(), table["similarity"].to_pylist(), images, texts, strict=True)
    return files_of(made), {uid: rest for uid, *rest in rows}  # type: ignore[misc]


def test_neither_order_nor_batch_matters(tmp_path: Path) -> None:
    drawn, settings = drawings(18), under("demo")
    samples = download_unit(Layout((tmp_path / "one").as_uri(), "d").dataset, drawn, settings, shard=18)
    turned = download_unit(Layout((tmp_path / "two").as_uri(), "d").dataset, drawn[::-1], settings, shard=7)
    files, wanted = scored(samples, tmp_path / "a", 64)
    assert scored(samples, tmp_path / "b", 64)[0] == files, "the same settings, the same bytes"
    for other, batch in ((samples, 5), (turned, 64)):
        found = scored(other, tmp_path / f"c{batch}", batch)[1]
        assert found.keys() == wanted.keys()
        for uid, (similarity, image, text) in found.items():
            assert abs(similarity - wanted[uid][0]) < 1e-5
            # Rows of length one: a float16 below 0.5 is exact to 2⁻¹².
            assert np.abs(image - wanted[uid][1]).max() < 5e-4
            assert np.abs(text - wanted[uid][2]).max() < 5e-4


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = download_unit(Layout((tmp_path / "root").as_uri(), "d").dataset, drawings(12), under("demo"), shard=5)
    decode, seen = scores._decode, []

    def counted(clip: scores.Clip, data: bytes) -> np.ndarray:
        seen.append(hash(data))
        return decode(clip, data)

    monkeypatch.setattr(scores, "_decode", counted)
    stage.run(samples, out_of(samples), under("demo", "filter.batch_size=4", "filter.zero_shot=true"))
    assert len(seen) == len(set(seen)) == 12


def test_what_is_made_ahead_comes_in_order_and_so_does_its_error() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            assert threading.current_thread() is not threading.main_thread()
            yield number
        raise OSError("the disk is gone")

    ahead = scores._ahead(numbers(), 2)
    for number in range(5):
        assert next(ahead) == number
        assert len(made) <= number + 3
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)

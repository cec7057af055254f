"""A sample of images, decoded: what the bytes say beside what the tables say.

In: the files of samples, and the table of those with an image. Out: a frame of at most ``validate.hash_sample`` of them, chosen by uid.
Guaranteed: an image that does not decode is a row whose sizes are -1. What does not belong here: what is right.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.models.pictures import PDQ_LEAST_QUALITY, content_box, pdq_of
from wat2mds.settings import Settings

_COLUMNS = ["uid", "width", "height", "original_width", "original_height", "original_bytes", "md5", "sha1", "sha256", "pdq"]
_HASHES = ("md5", "sha1", "sha256")
# JPEG works in blocks of up to 16 pixels: nearer to the picture than this, a border need not be white.
_BLOCK = 16
_WHITE = 250


def look_at(files: Sequence[Path], images: pa.Table, settings: Settings) -> pd.DataFrame:
    """Width and height as decoded beside those stated; whether hashes, PDQ and the way the original lay are true.

    Hashes are of the bytes as fetched: those stored are the same only where neither size nor length changed.
    """
    first = pc.select_k_unstable(images, settings.validate_.hash_sample, [("uid", "ascending")])
    rows: list[dict[str, Any]] = images.select(_COLUMNS).take(first.cast(pa.uint64())).to_pylist()
    wanted = {row["uid"]: row for row in rows}
    bordered = settings.download.resize_mode == "border"
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256, columns=["uid", "jpg"]):
                batch = batch.filter(pc.is_in(batch["uid"], value_set=pa.array(list(wanted), pa.string())))
                for name, image in zip(batch["uid"].to_pylist(), batch["jpg"].to_pylist(), strict=True):
                    if image:
                        wanted[name] |= _look(wanted[name], image, bordered)
    computed = ["decoded_width", "decoded_height", *(f"{name}_true" for name in _HASHES), "pdq_distance", "original_lies_right"]
    return pd.DataFrame(rows, columns=[*_COLUMNS, *computed])


def _look(stated: dict[str, Any], image: bytes, bordered: bool) -> dict[str, Any]:
    pixels = _decode(image)
    height, width = pixels.shape[:2] if pixels is not None else (-1, -1)
    original = (stated["original_width"], stated["original_height"])
    found: dict[str, Any] = {"decoded_width": width, "decoded_height": height, "pdq_distance": None, "original_lies_right": True}
    as_fetched = (width, height, len(image)) == (*original, stated["original_bytes"])
    for name in _HASHES:
        found[f"{name}_true"] = not as_fetched or hashlib.new(name, image, usedforsecurity=False).hexdigest() == stated[name]
    if pixels is not None and None not in original and min(original) > 0:
        box = content_box(width, height, *original) if bordered else None
        found["original_lies_right"] = _lies_right(pixels, original, box)
        found["pdq_distance"] = _distance(stated["pdq"], *pdq_of(pixels, box))
    return found


def _decode(image: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception:  # Pillow raises whatever its decoders meet; any of it means that the image is damaged
        return None


def _lies_right(pixels: np.ndarray, original: tuple[int, int], box: tuple[int, int, int, int] | None) -> bool:
    """False where width and height of the original must be swapped: the stored picture lies the other way, or its border is elsewhere."""
    height, width = pixels.shape[:2]
    if abs(width - height) > 1 and (width - height) * (original[0] - original[1]) < 0:
        return False
    if box is None:
        return True
    left, top, right, bottom = box
    strips = (
        pixels[: max(0, top - _BLOCK)],
        pixels[bottom + _BLOCK :],
        pixels[:, : max(0, left - _BLOCK)],
        pixels[:, right + _BLOCK :],
    )
    return all(strip.size == 0 or float(strip.mean()) >= _WHITE for strip in strips)


def _distance(stated: str | None, computed: str, quality: int) -> int | None:
    """Bits that differ; None where the hash is not to be matched on, or not well-formed, which is another expectation's to find."""
    if quality < PDQ_LEAST_QUALITY:
        return None
    try:
        return (int(stated or "", 16) ^ int(computed, 16)).bit_count()
    except ValueError:
        return None

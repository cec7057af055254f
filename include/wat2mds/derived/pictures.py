"""The sample images of a card, read from the shards by range.

In: samples by shard and row. Out: their stored bytes, and thumbnails. Guaranteed: a few kilobytes are read a sample, not its shard; what
cannot be read is left out, since a card is no check (``wat2mds verify`` is one). What does not belong here: reading for training
(``reading.py``), which loads torch and takes whole shards.

Layout of a raw MDS shard (streaming 0.13, base/format/mds/writer.py): uint32 number of samples, uint32 offsets [samples + 1], header;
a sample: uint32 sizes of its columns of variable size, then the columns in the index's order.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import struct
from collections.abc import Iterable
from typing import Any

from PIL import Image

from wat2mds.store import Store

log = logging.getLogger(__name__)
_SIDE, _QUALITY = 240, 80


def stored_images(dataset: Store, index: bytes, samples: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], bytes]]:
    """Samples with their images. Shards stored compressed are left out: they can only be read whole."""
    shards = {shard["raw_data"]["basename"]: shard for shard in json.loads(index)["shards"]}
    found = []
    for sample in samples:
        shard = shards.get(sample["shard"])
        if shard is None or shard["compression"]:
            continue
        try:
            with dataset.open(sample["shard"]) as file:
                image = read_column(file, shard, int(sample["shard_row"]), "jpg")
            thumbnail(image)
            found.append((sample, image))
        except (OSError, struct.error, ValueError) as error:
            log.warning("the image of sample %s is left out of the card: %s", sample["uid"], error)
    return found


def read_column(file: Any, shard: dict[str, Any], row: int, name: str) -> bytes:
    """One value of a raw shard. Raises ValueError where the shard has no such row, or ends before it."""
    file.seek(4 * (1 + row))
    begin, end = struct.unpack("<2I", _exactly(file, 8))
    if not (0 <= row < shard["samples"] and begin < end <= shard["raw_data"]["bytes"]):
        raise ValueError(f"{shard['raw_data']['basename']} has no row {row}")
    file.seek(begin)
    sample = _exactly(file, end - begin)
    sizes = list(shard["column_sizes"])
    variable = [number for number, size in enumerate(sizes) if not size]
    for number, size in zip(variable, struct.unpack_from(f"<{len(variable)}I", sample), strict=True):
        sizes[number] = size
    at = shard["column_names"].index(name)
    start = 4 * len(variable) + sum(sizes[:at])
    if start + sizes[at] > len(sample):
        raise ValueError(f"{shard['raw_data']['basename']}, row {row}: {name} runs past the row's end")
    return sample[start : start + sizes[at]]


def thumbnail(image: bytes) -> tuple[str, int, int]:
    """A small JPEG as a data: URL, and its width and height. Raises OSError for what Pillow cannot decode."""
    with Image.open(io.BytesIO(image), formats=("JPEG", "PNG", "WEBP")) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), small.width, small.height


def _exactly(file: Any, size: int) -> bytes:
    data = bytes(file.read(size))
    if len(data) != size:
        raise ValueError(f"the shard ends {size - len(data)} bytes early")
    return data

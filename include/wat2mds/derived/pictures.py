"""The sample images of a card, read from the shards by range.

In: samples by shard and row. Out: their stored bytes, and thumbnails. Guaranteed: a few kilobytes are read a sample, not its shard; what
cannot be read is left out, since a card is no check (``wat2mds verify`` is one). What does not belong here: reading for training
(``reading.py``), which loads torch and takes whole shards.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterable
from typing import Any

from PIL import Image

from wat2mds.mds_rows import Layout, read_sample
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
                image = Layout(shard).value(read_sample(file, shard, int(sample["shard_row"])), "jpg")
            thumbnail(image)
            found.append((sample, image))
        except (OSError, ValueError) as error:
            log.warning("the image of sample %s is left out of the card: %s", sample["uid"], error)
    return found


def thumbnail(image: bytes) -> tuple[str, int, int]:
    """A small JPEG as a data: URL, and its width and height. Raises OSError for what Pillow cannot decode."""
    with Image.open(io.BytesIO(image), formats=("JPEG", "PNG", "WEBP")) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), small.width, small.height

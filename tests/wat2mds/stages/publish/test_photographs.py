"""Groups of real photographs and their copies, from download's decoder to the published rows: how many are found, and none wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from tests.wat2mds.stages.publish.conftest import SETTINGS, Make
from tests.wat2mds.stages.publish.test_groups import groups_of, rows_in_order
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages import publish
from wat2mds.stages.download.decode import Decoded, Decoder
from wat2mds.versions import read_version

PHOTOS = 200


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def scaled(pixels: np.ndarray, share: float) -> np.ndarray:
    return cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC)


# What the web makes of a photograph, and of how many in 200 the copy joins the group of the first, as measured.
COPIES: dict[str, tuple[Callable[[np.ndarray], bytes], int]] = {
    "q75": (lambda pixels: jpeg(pixels, 75), 200),
    "q40": (lambda pixels: jpeg(pixels, 40), 200),
    "q20": (lambda pixels: jpeg(pixels, 20), 200),
    "half the size": (lambda pixels: jpeg(scaled(pixels, 0.5), 90), 199),
    "1.5 times the size": (lambda pixels: jpeg(scaled(pixels, 1.5), 90), 200),
}


def showing(images: list[Decoded], first: int) -> Callable[[pa.Table], pa.Table]:
    """download's rows, with what its decoder makes of these images in place of the drawings."""

    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            row |= columns(images[number(row) - first])
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


def columns(image: Decoded) -> dict[str, Any]:
    names = ("width", "height", "original_width", "original_height", "pdq", "pdq_quality")
    return {name: value for name, value in asdict(image).items() if name in names} | {"jpg": image.stored}


def number(row: dict[str, Any]) -> int:
    return int(row["url"].rsplit("/", 1)[1].removesuffix(".jpg"))


@pytest.mark.shared
def test_copies_of_photographs_join_their_groups_and_no_two_photographs_share_one(
    dataset: str, shared: Path, made_upload: Make
) -> None:
    decoder = Decoder(DownloadSettings(min_bytes=0))
    photos = [path.read_bytes() for path in sorted((shared / "photos" / "flickr8k-1000").glob("*.jpg"))[:PHOTOS]]
    pixels = [cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR) for photo in photos]
    copies = [copied(picture) for copied, _ in COPIES.values() for picture in pixels]
    for wat_file, images in (("00000", photos), ("00001", copies)):
        change = showing([decoder(image) for image in images], int(wat_file) * 1000)
        upload = made_upload(dataset, wat_file, count=len(images), failed=0, dropped=0, changes={"samples": change})
        publish.run([upload], dataset, SETTINGS)

    version = read_version(dataset)
    groups = groups_of(dataset, version)
    uids = {number(row): row["uid"] for key in version.units for row in rows_in_order(dataset, version, key)}
    originals = [groups[uids[n]] for n in range(PHOTOS)]
    assert originals == [uids[n] for n in range(PHOTOS)], "no two photographs share a group, and none is too plain to have one"
    found = {name: [groups[uids[1000 + start * PHOTOS + n]] for n in range(PHOTOS)] for start, name in enumerate(COPIES)}
    joined = {name: sum(one == original for one, original in zip(found[name], originals, strict=True)) for name in COPIES}
    assert joined == {name: measured for name, (_, measured) in COPIES.items()}
    strays = [one for name in COPIES for one, original in zip(found[name], originals, strict=True) if one != original]
    assert not set(strays) & set(originals), "what does not join its own group joins no other photograph's"

"""The stored bytes are those of img2dataset's own Resizer, in each mode and for each kind of picture that it stores rightly."""

from __future__ import annotations

import io
import itertools
import os

import cv2
import numpy as np
import pytest

from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decode import Decoder

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
from img2dataset.resizer import Resizer

SIDE = 64
SIZES = [(200, 90), (90, 200), (65, 64), (64, 64), (64, 40), (50, 31), (31, 50), (300, 2), (3, 1), (63, 63), (129, 127)]


def pictures() -> list[bytes]:
    random = np.random.default_rng(5)
    found = []
    for (width, height), channels in itertools.product(SIZES, (1, 3, 4)):
        pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        found.append(cv2.imencode(".png", pixels)[1].tobytes())
        if channels < 4:
            found.append(cv2.imencode(".jpg", pixels)[1].tobytes())
    return found


PICTURES = pictures()


@pytest.mark.parametrize("only_if_bigger", [False, True])
@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"])
@pytest.mark.parametrize(("kind", "quality"), [("jpg", 95), ("png", 3), ("webp", 80)])
def test_the_same_bytes_as_img2dataset(mode: str, only_if_bigger: bool, kind: str, quality: int) -> None:
    shape = {"image_size": SIDE, "resize_mode": mode, "resize_only_if_bigger": only_if_bigger}
    shape |= {"encode_format": kind, "encode_quality": quality}
    theirs = Resizer(**shape)
    ours = Decoder(DownloadSettings.model_validate(shape | {"min_bytes": 0, "pdq": False}))
    for data in PICTURES:
        stored, width, height, original_width, original_height, message = theirs(io.BytesIO(data))
        assert message is None
        done = ours(data)
        sizes = (done.width, done.height, done.original_width, done.original_height)
        assert sizes == (width, height, original_width, original_height)
        assert done.stored == stored


@pytest.mark.parametrize(("mode", "kept"), [("no", True), ("keep_ratio", False)])
def test_bytes_are_kept_where_nothing_is_to_be_done(mode: str, kept: bool) -> None:
    data = next(data for data in PICTURES if data.startswith(b"\xff\xd8"))
    settings = DownloadSettings.model_validate({"image_size": SIDE, "resize_mode": mode, "skip_reencode": True, "min_bytes": 0})
    assert (Decoder(settings)(data).stored == data) is kept
    assert Decoder(settings.model_copy(update={"encode_format": "webp"}))(data).stored != data

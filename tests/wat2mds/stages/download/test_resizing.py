"""What is stored is what img2dataset's own Resizer makes, in each mode and for each kind of picture that it stores rightly: the same
bytes, or, where a picture is enlarged, within one grey level. Large JPEGs are decoded at a fraction of their sides, unless told not to."""

from __future__ import annotations

import io
import itertools
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.wat2mds.world.shared_photographs import fondant_rows
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decode import Decoder
from wat2mds.stages.download.resizing import reduction

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


def photograph(width: int, height: int) -> bytes:
    """Seeded, and as smooth as a photograph is: JPEG makes more of a grey level's difference in noise, which no camera takes."""
    coarse = np.random.default_rng(width * 1009 + height).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", pixels)[1].tobytes()


def enlarges(shape: dict[str, object], width: int, height: int) -> bool:
    fitted = min if shape["resize_mode"] in ("keep_ratio", "center_crop") else max
    return shape["resize_mode"] != "no" and not shape["resize_only_if_bigger"] and fitted(width, height) < SIDE


def differences(one: bytes, other: bytes) -> np.ndarray:
    """Of two stored pictures' values, in grey levels."""
    first, second = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).astype(int) for data in (one, other))
    return np.abs(first - second)


@pytest.mark.parametrize("only_if_bigger", [False, True])
@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"])
@pytest.mark.parametrize(("kind", "quality"), [("jpg", 95), ("png", 3), ("webp", 80)])
def test_the_same_as_img2dataset(mode: str, only_if_bigger: bool, kind: str, quality: int) -> None:
    shape = {"image_size": SIDE, "resize_mode": mode, "resize_only_if_bigger": only_if_bigger}
    shape |= {"encode_format": kind, "encode_quality": quality}
    theirs = Resizer(**shape)
    ours = Decoder(DownloadSettings.model_validate(shape | {"min_bytes": 0, "pdq": False, "reduced_decoding": False}))
    smooth = [photograph(width, height) for width, height in SIZES]
    enlarged = 0
    for data in [*PICTURES, *smooth]:
        stored, width, height, original_width, original_height, message = theirs(io.BytesIO(data))
        assert message is None
        done = ours(data)
        sizes = (done.width, done.height, done.original_width, done.original_height)
        assert sizes == (width, height, original_width, original_height)
        if not enlarges(shape, original_width, original_height):
            assert done.stored == stored
            continue
        enlarged += 1
        if kind == "png":  # lossless: what the resizing itself gives, even of noise
            assert differences(done.stored, stored).max() <= 1
        if data in smooth and kind == "jpg":  # WebP of quality 80 makes up to two levels of the one
            assert differences(done.stored, stored).mean() <= 1
    assert bool(enlarged) is (mode != "no" and not only_if_bigger)


def test_how_much_a_decoder_may_reduce() -> None:
    border = DownloadSettings(image_size=SIDE)
    found = {side: reduction((128, side), border) for side in (255, 256, 511, 512, 1023, 1024, 99_999)}
    assert found == {255: 1, 256: 2, 511: 2, 512: 4, 1023: 4, 1024: 8, 99_999: 8}
    assert reduction((300, 9_999), DownloadSettings(image_size=SIDE, resize_mode="keep_ratio")) == 2
    assert [reduction((height, 9_999), border) for height in (31, 32, 63, 64)] == [1, 2, 2, 4]
    assert reduction((9_999, 9_999), DownloadSettings(image_size=SIDE, resize_mode="no")) == 1
    assert reduction((9_999, 9_999), DownloadSettings(image_size=SIDE, reduced_decoding=False)) == 1


@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "no"])
@pytest.mark.parametrize(("width", "height"), [(256, 391), (777, 800), (801, 769), (1600, 1541), (2001, 385), (1999, 3)])
def test_large_jpegs_are_decoded_at_a_fraction(width: int, height: int, mode: str) -> None:
    """Sides that the fraction does not divide, grey and upright ones among them; compared where JPEG's own losses are left out."""
    shape = {"image_size": SIDE, "resize_mode": mode, "encode_format": "png", "encode_quality": 1}
    wanted = DownloadSettings.model_validate(shape | {"min_bytes": 0, "pdq": False})
    reduced, whole = Decoder(wanted), Decoder(wanted.model_copy(update={"reduced_decoding": False}))
    pixels = cv2.imdecode(np.frombuffer(photograph(width, height), np.uint8), cv2.IMREAD_COLOR_RGB)
    for data, grey in ((_jpeg(pixels), False), (_jpeg(pixels, orientation=6), False), (_jpeg(pixels[..., 0]), True)):
        done, expected = reduced(data), whole(data)
        assert (done.width, done.height) == (expected.width, expected.height)
        assert (done.original_width, done.original_height) == (expected.original_width, expected.original_height)
        assert differences(done.stored, expected.stored).mean() <= 1
        if grey or mode == "no":
            assert done.stored == expected.stored


def _jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()


def test_real_photographs_decoded_at_a_fraction(shared) -> None:
    shape = {
        "image_size": 256,
        "resize_mode": "border",
        "encode_format": "png",
        "encode_quality": 1,
        "min_bytes": 0,
        "pdq": False,
    }
    reduced = Decoder(DownloadSettings.model_validate(shape))
    whole = Decoder(DownloadSettings.model_validate(shape | {"reduced_decoding": False}))
    found = []
    for row in fondant_rows(shared):
        data = row.content if isinstance(row.content, bytes) else b""
        if not data.startswith(b"\xff\xd8"):
            continue
        one, other = reduced(data), whole(data)
        if one.stored != other.stored:
            assert max(one.original_width, one.original_height) >= 4 * 256
            found.append(differences(one.stored, other.stored).mean())
    assert len(found) > 20
    assert np.mean(found) < 1
    assert max(found) < 4


@pytest.mark.parametrize(("mode", "kept"), [("no", True), ("keep_ratio", False)])
def test_bytes_are_kept_where_nothing_is_to_be_done(mode: str, kept: bool) -> None:
    data = next(data for data in PICTURES if data.startswith(b"\xff\xd8"))
    settings = DownloadSettings.model_validate({"image_size": SIDE, "resize_mode": mode, "skip_reencode": True, "min_bytes": 0})
    assert (Decoder(settings)(data).stored == data) is kept
    assert Decoder(settings.model_copy(update={"encode_format": "webp"}))(data).stored != data

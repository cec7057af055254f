"""What is found out about bytes before anything is decoded, and pictures made upright and 8-bit."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.wat2mds.stages.download.hostile_origin import picture
from wat2mds.drops import DropReason
from wat2mds.models.pictures import content_box
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download import images
from wat2mds.stages.download.refusal import Refused


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    data = b"IDAT" + bytes(6000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(head)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_type_and_size_come_from_the_bytes(kind: str) -> None:
    header = images.inspect(picture(120, 80, kind), DownloadSettings())
    assert (header.mime, header.width, header.height, header.orientation, header.deep) == (
        f"image/{kind.lower()}",
        120,
        80,
        1,
        False,
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DropReason.TOO_SMALL_BYTES),
        (picture(100, 100)[:4999], DropReason.TOO_SMALL_BYTES),
        (b"<html>" + b"no image " * 1000, DropReason.NOT_IMAGE),
        (picture(100, 100, "GIF"), DropReason.NOT_IMAGE),
        (bytes(6000), DropReason.NOT_IMAGE),
        (png_header(50_000, 50_000), DropReason.TOO_MANY_PIXELS),
        (png_header(9460, 9460), DropReason.TOO_MANY_PIXELS),
        (picture(400, 30), DropReason.TOO_SMALL_SIDE),
        (picture(400, 100), DropReason.ASPECT),
    ],
)
def test_refused_before_decoding(data: bytes, reason: DropReason) -> None:
    with pytest.raises(Refused) as refused:
        images.inspect(data, DownloadSettings(min_image_size=40, max_aspect_ratio=3))
    assert refused.value.reason is reason


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_without_loss(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = picture(90, 60, "PNG", exif=exif)
    header = images.inspect(data, DownloadSettings())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    pixels, changed = images.decode(data, header)
    assert changed == (orientation != 1)
    assert np.array_equal(pixels[..., ::-1], upright)


def test_sixteen_bits_become_eight() -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (60, 90, 3), dtype=np.uint16)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    header = images.inspect(data, DownloadSettings())
    assert header.deep
    got, changed = images.decode(data, header)
    assert (got.dtype, changed) == (np.uint8, True)
    assert np.abs(got.astype(float) - pixels / 257).max() <= 0.5 + 1e-9


def test_hashes_are_of_the_bytes_as_fetched() -> None:
    data = picture(50, 50)
    assert images.hashes(data) == images.Hashes(*(hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256")))


@pytest.mark.parametrize(
    ("sizes", "box"),
    [
        ((256, 256, 512, 256), (0, 64, 256, 192)),
        ((256, 256, 256, 512), (64, 0, 192, 256)),
        ((256, 256, 300, 300), (0, 0, 256, 256)),
        ((256, 256, 5000, 2), (0, 128, 256, 129)),
        ((100, 50, 100, 50), (0, 0, 100, 50)),
    ],
)
def test_the_part_of_a_bordered_image_that_is_picture(sizes: tuple[int, int, int, int], box: tuple[int, int, int, int]) -> None:
    assert content_box(*sizes) == box


def test_pdq_of_a_bordered_image_is_the_pictures_own() -> None:
    """Else no hash list would ever match: theirs are of images without a border."""
    smooth = cv2.resize(
        np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8), (384, 256), interpolation=cv2.INTER_CUBIC
    )
    small = cv2.resize(smooth, (256, 171), interpolation=cv2.INTER_AREA)
    bordered = cv2.copyMakeBorder(small, 42, 43, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    plain, _ = images.pdq(cv2.imencode(".png", smooth)[1].tobytes(), None)
    stored = cv2.imencode(".png", bordered)[1].tobytes()
    assert distance(plain, images.pdq(stored, content_box(256, 256, 384, 256))[0]) <= 10
    assert distance(plain, images.pdq(stored, None)[0]) > 31  # the distance up to which PDQ counts as a match


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()

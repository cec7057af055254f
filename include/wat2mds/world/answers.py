"""What the demo world's hosts answer with: pictures in several formats, and the damaged, hostile and refusing answers of a real web.

In: pictures of ``draw.py``, or nothing. Out: Answers for ``origin.py``. Guaranteed: the same arguments give the same bytes (of one
Pillow release); each answer is wrong in one way only. What does not belong here: URLs, and what must become of an answer.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

from PIL import Image

from wat2mds.world.draw import Picture, draw
from wat2mds.world.origin import Answer

Format = Literal["JPEG", "PNG", "WEBP", "GIF"]
_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
_EXIF_ORIENTATION, _EXIF_MAKE, _ROTATED_90 = 0x0112, 0x010F, 6
# 10,000 x 9,000 = 90,000,000 pixels, just above download.max_pixels of 89,478,484 (Pillow's own bomb limit).
_HUGE_WIDTH, _HUGE_HEIGHT = 10_000, 9_000


def picture(
    what: Picture, size: tuple[int, int], seed: int, kind: Format = "JPEG", *headers: tuple[str, str], rotated: bool = False
) -> Answer:
    """A drawn picture. ``rotated``: stored on its side, with the EXIF orientation that puts it upright."""
    drawn = draw(what, *size, seed)
    exif = Image.Exif()
    if rotated:
        drawn = drawn.transpose(Image.Transpose.ROTATE_90)
        exif[_EXIF_ORIENTATION] = _ROTATED_90
        exif[_EXIF_MAKE] = "wat2mds demo camera"
    out = io.BytesIO()
    if kind == "GIF":
        drawn.quantize(64).save(out, "GIF")
    elif kind == "PNG":
        drawn.save(out, "PNG", compress_level=6)
    elif kind == "WEBP":
        drawn.save(out, "WEBP", quality=88, method=2)
    else:
        drawn.save(out, "JPEG", quality=88, exif=exif)
    return Answer(out.getvalue(), headers=(("Content-Type", _TYPES[kind]), *headers))


def thumbnail(what: Picture, seed: int) -> Answer:
    """A good picture of fewer bytes than LAION takes."""
    out = io.BytesIO()
    draw(what, 64, 64, seed).save(out, "JPEG", quality=60)
    return Answer(out.getvalue(), headers=(("Content-Type", "image/jpeg"),))


def huge() -> Answer:
    """A valid PNG of one colour with more pixels than are decoded, in a few kilobytes."""
    rows = zlib.compress(bytes(1 + _HUGE_WIDTH // 8) * _HUGE_HEIGHT, 6)
    header = struct.pack(">IIBBBBB", _HUGE_WIDTH, _HUGE_HEIGHT, 1, 0, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    return Answer(body, headers=(("Content-Type", "image/png"),))


def broken_png(what: Picture, seed: int) -> Answer:
    """A PNG whose header is whole and whose compressed data is not."""
    good = picture(what, (160, 160), seed, "PNG").body
    assert isinstance(good, bytes)
    at = good.index(b"IDAT") + 4
    return Answer(good[:at] + b"\xff" * (len(good) - at), headers=(("Content-Type", "image/png"),))


def headless_jpeg(what: Picture, seed: int) -> Answer:
    """A JPEG that ends where its first scan would begin, long enough to be taken for a picture."""
    good = picture(what, (320, 320), seed).body
    assert isinstance(good, bytes)
    comment = b"\xff\xfe" + struct.pack(">H", 8002) + b"x" * 8000
    return Answer(good[:2] + comment + good[2 : good.index(b"\xff\xda")], headers=(("Content-Type", "image/jpeg"),))


def page_as_jpeg() -> Answer:
    """An error page served with status 200 as if it were the image."""
    text = "<!DOCTYPE html><html><body><h1>Image moved</h1>" + "<p>Please log in to see this image.</p>" * 200 + "</body></html>"
    return Answer(text.encode(), headers=(("Content-Type", "image/jpeg"),))


def empty() -> Answer:
    return Answer(b"", headers=(("Content-Type", "image/jpeg"),))


def redirect(to: str, status: int = 302) -> Answer:
    return Answer(b"", status, (("Location", to),))


def refusal(status: int) -> Answer:
    """An error status with a page that says so."""
    return Answer(f"<h1>{status}</h1>".encode(), status, (("Content-Type", "text/html"),))


def robots_txt(text: str) -> Answer:
    return Answer(text.encode(), headers=(("Content-Type", "text/plain; charset=utf-8"),))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""The thresholds that profiles set before filter: on the output of extract and of download's header check, from both sides."""

from __future__ import annotations

import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wat2mds.drops import DropReason
from wat2mds.settings import Settings, load_settings, profile_names, read_profile
from wat2mds.stages import extract
from wat2mds.stages.download.images import inspect
from wat2mds.stages.download.refusal import Refused
from wat2mds.world.page import Page, image
from wat2mds.world.wat_writer import write_wat


def png(width: int, height: int, size: int) -> bytes:
    """A PNG's signature and header, and zeros up to ``size`` bytes: what is looked at before decoding."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    head += struct.pack(">I", size) + b"IDAT"
    return head + b"\0" * (size - len(head))


def refusal(data: bytes, settings: Settings) -> DropReason | None:
    try:
        inspect(data, settings.download)
    except Refused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize("profile", profile_names())
def test_captions_from_both_sides(profile: str, tmp_path: Path) -> None:
    settings = load_settings(profile, environment={})
    low, high = settings.extract.min_caption_chars, settings.extract.max_caption_chars
    sizes = [low - 1, low, high, high + 1]
    wat = tmp_path / "x-00000.warc.wat.gz"
    links = [
        image(f"/{size}.jpg", "ab " * (size // 3) + "abc"[: size % 3] if size % 3 else "abc" * (size // 3)) for size in sizes
    ]
    page = Page("http://www.example.com/", links, datetime(2024, 2, 21, tzinfo=UTC))
    write_wat(wat, [page], snapshot="CC-MAIN-2024-10")
    place = {"snapshot": "CC-MAIN-2024-10", "segment": "1.0", "wat_file": "00000"}
    flow = extract.run(str(wat), str(tmp_path / "out"), settings, **place).flows[-1]
    assert (flow.left, flow.drops) == (2, {DropReason.SHORT_CAPTION: 1, DropReason.LONG_CAPTION: 1})


@pytest.mark.parametrize("profile", profile_names())
def test_bytes_and_pixels_from_both_sides(profile: str) -> None:
    settings = load_settings(profile, environment={})
    assert {"min_bytes", "formats"} <= set(read_profile(profile)["download"])
    least, most = settings.download.min_bytes, settings.download.max_pixels
    assert refusal(png(100, 100, max(least, 100)), settings) is None
    if least:
        assert refusal(png(100, 100, least - 1), settings) is DropReason.TOO_SMALL_BYTES
    assert refusal(png(1, most, max(least, 100)), settings) is None
    assert refusal(png(1, most + 1, max(least, 100)), settings) is DropReason.TOO_MANY_PIXELS
    assert refusal(b"GIF89a" + b"\0" * least, settings) is DropReason.NOT_IMAGE

"""A contact sheet: a few images of a dataset with what is said of them, on one PNG.

In: JPEG bytes, caption and similarity of each. Out: PNG bytes. Guaranteed: captions in any script that the fonts at hand can write; the
same input gives the same pixels. What does not belong here: which samples are shown.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Sample = tuple[bytes, str, float | None]
COLUMNS, MOST = 6, 24
_TILE, _GAP, _TEXT_LINES, _LETTER, _LEADING = 200, 14, 4, 14, 18
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 34), (120, 120, 126)
# Pillow's own font knows Latin letters alone; these, where a system has one of them, know more scripts.
_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(samples: Iterable[Sample], title: str = "") -> bytes:
    """A PNG of the first 24 samples, six in a row. Raises ValueError if there is none."""
    out = io.BytesIO()
    draw_sheet(samples, title).save(out, "PNG", optimize=True)
    return out.getvalue()


def draw_sheet(samples: Iterable[Sample], title: str = "") -> Image.Image:
    """The sheet's pixels."""
    shown = list(itertools.islice(samples, MOST))
    if not shown:
        raise ValueError("there is no sample to show")
    font = _font(_LETTER)
    top = _GAP + (2 * _LEADING if title else 0)
    cell_height = _TILE + 6 + _TEXT_LINES * _LEADING + _GAP
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (_GAP + columns * (_TILE + _GAP), top + rows * cell_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((_GAP, _GAP), title, fill=_INK, font=_font(_LETTER + 4))
    for number, (jpeg, caption, similarity) in enumerate(shown):
        x = _GAP + number % columns * (_TILE + _GAP)
        y = top + number // columns * cell_height
        tile = _tile(jpeg)
        sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
        pen.rectangle((x - 1, y - 1, x + _TILE, y + _TILE), outline=(214, 214, 210))
        lines = wrapped(caption, font, _TILE, _TEXT_LINES - (similarity is not None))
        for place, line in enumerate(lines):
            pen.text((x, y + _TILE + 6 + place * _LEADING), line, fill=_INK, font=font)
        if similarity is not None:
            where = (x, y + _TILE + 6 + len(lines) * _LEADING)
            pen.text(where, f"similarity {similarity:.3f}", fill=_FAINT, font=font)
    return sheet


def write_contact_sheet(path: Path, samples: Iterable[Sample], title: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contact_sheet(samples, title))
    return path


def wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """Lines no wider than ``width`` pixels, at most ``most`` of them; what is cut off ends in an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
        last = len(lines) == most - 1
        line = _fitting(rest, font, width)
        rest = rest[len(line) :].lstrip()
        if last and rest:
            while line and font.getlength(line.rstrip() + "…") > width:
                line = line[:-1]
            line = line.rstrip() + "…"
        lines.append(line.rstrip())
    return lines


def _fitting(text: str, font: Font, width: int) -> str:
    """The beginning of the text that fits, cut between words where it can be."""
    end = len(text)
    while end > 1 and font.getlength(text[:end].rstrip()) > width:
        space = text.rfind(" ", 0, end - 1)
        end = space + 1 if space > 0 else end - 1
    return text[:end]


def _tile(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        tile = image.convert("RGB")
    tile.thumbnail((_TILE, _TILE))
    return tile


def _font(size: int) -> Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)

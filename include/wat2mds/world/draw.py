"""Draws the pictures of the demo world, and says in English what is on them.

In: a `Picture` (what is to be seen), a size in pixels, a seed. Out: an RGB image of PIL.
Guaranteed: the same arguments give the same pixels; every picture of `all_pictures()` has a caption of its own; the seed
changes place, tilt, shade and grain but never what the caption says. The tiny CLIP is trained on these drawings, so what
is drawn here and what `models/tiny` can tell apart belong together: after a change here, train it again
(`python -m wat2mds.models.train_tiny`).
Does not belong here: files, URLs, pages, WAT records (their modules in `world/`), or how well a model does.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

Mark = Literal["", "warning", "watermark"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "green": (40, 150, 62),
    "blue": (42, 88, 206),
    "yellow": (240, 206, 46),
    "purple": (160, 58, 178),
    "black": (28, 28, 32),
    "white": (238, 238, 236),
    "grey": (140, 142, 144),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SHAPE_COLOURS = ("red", "green", "blue", "yellow", "purple", "black", "white")
BACKGROUNDS = ("white", "black", "blue", "green", "yellow", "grey")
COUNTS = (1, 2, 3, 4)
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom", "middle")
MARKS: tuple[Mark, ...] = ("warning", "watermark")

_NUMBER = {1: "one", 2: "two", 3: "three", 4: "four"}
_WHERE = {
    "left": "at the left",
    "right": "at the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
# Radius as a share of the shorter side: four large shapes, two by two, just fill half of it.
_RADIUS = {"small": 0.068, "large": 0.115}
_CENTRE = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74), "middle": (0.5, 0.5)}
# Neighbouring shapes stand this many radii apart, so that they never touch, jitter included.
_GAP = 1.14
_SUPERSAMPLE = 4
# Noise is made at the size that pictures are stored in (256 px) and scaled up, so that neither shrinking a large picture
# nor JPEG smooths it away: a 256 px JPEG stays over LAION's minimum of 5,000 bytes.
_GRAIN_SIDE = 256
_GRAIN_SIGMA = 7.0

SMALLEST_SIDE, LARGEST_SIDE = 64, 1500


@dataclass(frozen=True, order=True)
class Picture:
    """What is to be seen. `mark` is a decoration that the caption never mentions."""

    shape: str
    colour: str
    count: int
    size: str
    background: str
    position: str
    mark: Mark = ""
    """`warning`: a striped hazard border, the demo's stand-in for unsafe. `watermark`: translucent diagonal lettering."""


def all_pictures() -> list[Picture]:
    """Every unmarked picture, always in the same order; colour and background always differ."""
    return [
        Picture(*parts)
        for parts in itertools.product(SHAPES, SHAPE_COLOURS, COUNTS, SIZES, BACKGROUNDS, POSITIONS)
        if parts[1] != parts[4]
    ]


def marked(picture: Picture, mark: Mark) -> Picture:
    return replace(picture, mark=mark)


def caption(picture: Picture) -> str:
    """Such as "three small red circles at the left on a blue background"; says nothing of the mark."""
    noun = picture.shape if picture.count == 1 else plural(picture.shape)
    return (
        f"{_NUMBER[picture.count]} {picture.size} {picture.colour} {noun} {_WHERE[picture.position]}"
        f" on a {picture.background} background"
    )


def plural(shape: str) -> str:
    return {"cross": "crosses"}.get(shape, shape + "s")


def appeal(picture: Picture) -> float:
    """A made-up beauty from 1 to 10, after LAION's aesthetic scale, that the demo's aesthetic head is trained to guess.

    Contrast, size and few shapes please; a mark does not. It stands in for people's ratings and means nothing else.
    """
    apart = math.dist(COLOURS[picture.colour], COLOURS[picture.background]) / math.dist((0, 0, 0), (255, 255, 255))
    score = 3.0 + 4.0 * apart + (1.5 if picture.size == "large" else 0.0) + 0.5 * (4 - picture.count)
    return round(max(1.0, score - (2.0 if picture.mark else 0.0)), 3)


def draw(picture: Picture, width: int, height: int, seed: int) -> Image.Image:
    """The picture in RGB. Sides from 64 to 1500 px; best where neither side is more than twice the other."""
    if not (SMALLEST_SIDE <= width <= LARGEST_SIDE and SMALLEST_SIDE <= height <= LARGEST_SIDE):
        raise ValueError(f"a side must be {SMALLEST_SIDE} to {LARGEST_SIDE} px, not {width}x{height}")
    # The caption takes part, so that two pictures with one seed do not share jitter; the mark does not, so that a picture
    # with and without its mark differ in nothing else.
    rng = np.random.default_rng([seed, zlib.crc32(caption(picture).encode())])
    canvas = _backdrop(COLOURS[picture.background], width, height, rng)
    side = min(width, height)
    radius = _RADIUS[picture.size] * side * rng.uniform(0.93, 1.07)
    shade = _shaded(COLOURS[picture.colour], 12, rng)
    for x, y in _centres(picture, width, height, radius, rng):
        turn = float(rng.uniform(-11, 11))
        mask = _shape_mask(picture.shape, radius * float(rng.uniform(0.95, 1.05)), turn)
        canvas.paste(shade, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)
    grain = _grain(width, height, rng)
    if picture.mark == "warning":
        _paint_hazard_border(canvas, side, rng)
    elif picture.mark == "watermark":
        canvas = _paint_watermark(canvas, side, rng)
    return ImageChops.add(canvas, grain, scale=1, offset=-128)


def _shaded(colour: tuple[int, int, int], spread: int, rng: np.random.Generator) -> tuple[int, int, int]:
    light = rng.integers(-spread, spread + 1)
    tint = rng.integers(-spread // 3, spread // 3 + 1, size=3)
    red, green, blue = (int(np.clip(c + light + t, 12, 246)) for c, t in zip(colour, tint, strict=True))
    return red, green, blue


def _backdrop(colour: tuple[int, int, int], width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A slope of light and soft clouds over the background's colour."""
    base = np.array(_shaded(colour, 9, rng), dtype=np.float64)
    across, down = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 12))
    angle = rng.uniform(0, 2 * math.pi)
    slope = (math.cos(angle) * across + math.sin(angle) * down) * rng.uniform(2, 9)
    light = slope + rng.normal(0, 4, size=(12, 12))
    small = np.clip(base + light[..., None], 4, 250).astype(np.uint8)
    return Image.fromarray(small, "RGB").resize((width, height), Image.Resampling.BICUBIC)


def _grain(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    shrink = min(1.0, _GRAIN_SIDE / max(width, height))
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    noise = np.clip(128 + rng.normal(0, _GRAIN_SIGMA, size=(rows, columns)), 0, 255).astype(np.uint8)
    image = Image.fromarray(noise, "L").resize((width, height), Image.Resampling.BICUBIC)
    return Image.merge("RGB", (image, image, image))


def _centres(picture: Picture, width: int, height: int, radius: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Where each shape stands: a line along the side it is at, or two by two; the group never leaves the picture."""
    upright = picture.position in ("left", "right")
    along: list[tuple[float, float]]
    if picture.count == 4:
        along = [(-1, -1), (1, -1), (-1, 1), (1, 1)]
    elif picture.count == 3 and picture.position == "middle":
        along = [(0, -1), (-1, 0.9), (1, 0.9)]
    else:
        line = [2.0 * i - (picture.count - 1) for i in range(picture.count)]
        along = [(0, t) if upright else (t, 0) for t in line]
    offsets = [(dx * _GAP * radius, dy * _GAP * radius) for dx, dy in along]
    reach_x = max(abs(dx) for dx, _ in offsets) + 1.1 * radius
    reach_y = max(abs(dy) for _, dy in offsets) + 1.1 * radius
    share_x, share_y = _CENTRE[picture.position]
    x = share_x * width + rng.uniform(-0.03, 0.03) * width
    y = share_y * height + rng.uniform(-0.03, 0.03) * height
    x = float(np.clip(x, reach_x, max(reach_x, width - reach_x)))
    y = float(np.clip(y, reach_y, max(reach_y, height - reach_y)))
    wobble = rng.uniform(-0.05, 0.05, size=(len(offsets), 2)) * radius
    return [(x + dx + wx, y + dy + wy) for (dx, dy), (wx, wy) in zip(offsets, wobble, strict=True)]


def _shape_mask(shape: str, radius: float, turn: float) -> Image.Image:
    """The shape in white on black, with smooth edges: drawn several times too large, then shrunk."""
    side = max(4, math.ceil(2 * radius)) + 2
    big = side * _SUPERSAMPLE
    middle, reach = big / 2, radius * _SUPERSAMPLE
    mask = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(mask)

    def ngon(points: list[tuple[float, float]]) -> None:
        bend = math.radians(turn)
        pen.polygon(
            [
                (
                    middle + reach * (x * math.cos(bend) - y * math.sin(bend)),
                    middle + reach * (x * math.sin(bend) + y * math.cos(bend)),
                )
                for x, y in points
            ],
            fill=255,
        )

    def disc(share: float, fill: int) -> None:
        r = reach * share
        pen.ellipse((middle - r, middle - r, middle + r, middle + r), fill=fill)

    if shape == "circle":
        disc(0.95, 255)
    elif shape == "ring":
        disc(0.98, 255)
        disc(0.52, 0)
    elif shape == "square":
        ngon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    elif shape == "triangle":
        ngon([(0, -1), (0.95, 0.75), (-0.95, 0.75)])
    elif shape == "star":
        spikes = [(math.pi * (i / 5 - 0.5), 1.0 if i % 2 == 0 else 0.4) for i in range(10)]
        ngon([(r * math.cos(a), r * math.sin(a)) for a, r in spikes])
    elif shape == "cross":
        ngon([(-0.3, -0.95), (0.3, -0.95), (0.3, 0.95), (-0.3, 0.95)])
        ngon([(-0.95, -0.3), (0.95, -0.3), (0.95, 0.3), (-0.95, 0.3)])
    else:
        raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")
    return mask.resize((side, side), Image.Resampling.BOX)


def _paint_hazard_border(canvas: Image.Image, side: int, rng: np.random.Generator) -> None:
    """Black and yellow slanted stripes all around, in place."""
    width, height = canvas.size
    thick = max(4, round(side * 0.065))
    stripe = max(4, round(side * 0.07))
    stripes = Image.new("RGB", canvas.size, (24, 24, 24))
    pen = ImageDraw.Draw(stripes)
    start = -height - int(rng.integers(0, 2 * stripe))
    for x in range(start, width, 2 * stripe):
        pen.polygon([(x, height), (x + stripe, height), (x + stripe + height, 0), (x + height, 0)], fill=(250, 210, 20))
    frame = Image.new("L", canvas.size, 255)
    ImageDraw.Draw(frame).rectangle((thick, thick, width - thick - 1, height - thick - 1), fill=0)
    canvas.paste(stripes, (0, 0), frame)


def _paint_watermark(canvas: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Slanted translucent lettering over the whole picture, light on dark and dark on light."""
    width, height = canvas.size
    letter = max(6, round(side * 0.085))
    font = ImageFont.load_default(letter)
    reach = math.ceil(math.hypot(width, height))
    sheet = Image.new("L", (reach, reach), 0)
    pen = ImageDraw.Draw(sheet)
    shift = int(rng.integers(0, 4 * letter))
    for row, y in enumerate(range(0, reach, round(letter * 2.3))):
        pen.text((-shift - (row % 2) * letter, y), "SAMPLE PREVIEW " * (reach // (letter * 7) + 2), fill=120, font=font)
    angle = 30 + float(rng.uniform(-4, 4))
    sheet = sheet.rotate(angle, Image.Resampling.BICUBIC)
    left, top = (reach - width) // 2, (reach - height) // 2
    ink = sheet.crop((left, top, left + width, top + height))
    bright = float(np.asarray(canvas.convert("L").resize((8, 8))).mean()) > 128
    canvas.paste((30, 30, 30) if bright else (235, 235, 235), (0, 0), ink)
    return canvas

"""Pixels to the picture that is stored: img2dataset's resizing, step by step, with cv2 alone.

In: 8-bit pixels, of a reduced decoding too. Out: pixels of the stored size. Guaranteed: what img2dataset 1.47's Resizer makes of the same
pixels, value for value where a picture is made smaller, within one grey level of each value where it is enlarged
(``tests/wat2mds/stages/download/test_resizing.py``). What does not belong here: decoding, encoding (``decode.py``).

Three things differ. Large JPEGs are decoded at a fraction of their sides (``reduction``). Albumentations is left out: it made two objects
for each picture and cost as much as decoding one. And img2dataset enlarges in whole numbers: cv2's Lanczos takes 0.84 ms so for a
picture of 150 x 200 pixels, and 0.41 ms in floating point, in which cv2 uses vector instructions; the way there and back is in it. cv2's
whole numbers have weights of 11 bits, so floating point is also the more exact: of 1,228 real photographs that it enlarges to 256 pixels
no value is off by more than one, 0.04 in the mean; stored as JPEG of quality 95, 0.3 in the mean and 0.9 in the furthest picture. Area
averaging, for smaller pictures, gains nothing by it (1.14 ms for 500 x 375, 1.08).
"""

from __future__ import annotations

import cv2
import numpy as np

from wat2mds.stage_settings import DownloadSettings

_WHITE = (255, 255, 255)
# img2dataset's defaults for downscale_interpolation and upscale_interpolation.
_DOWN, _UP = cv2.INTER_AREA, cv2.INTER_LANCZOS4
# A reduced picture has at least so many times the stored one's side, so that area averaging still does the rest.
_SPARE = 2
# Fewest pixels of its shorter side: its edges are rounded to whole ones.
_SHORTEST = 16


def reduction(size: tuple[int, int], settings: DownloadSettings) -> int:
    """By how much the sides of a colour JPEG of this height and width are divided as it is decoded: 1, 2, 4 or 8.

    libjpeg makes a half, a quarter or an eighth of the coefficients, which saves most of the work of decoding and of averaging. Of 1,758
    real photographs, stored at 256 pixels with a border, 34 are large enough: they hold 33 % of all pixels, and the decoder takes
    0.90 ms an image for 1.04. The stored pictures of those 34 differ from whole decoding's by 0.95 grey levels in the mean, 2.5 in the
    furthest, a drawing of thin lines.
    """
    if settings.resize_mode == "no" or not settings.reduced_decoding:
        return 1
    most = min(_reference(size, settings) / (_SPARE * settings.image_size), min(size) / _SHORTEST)
    return next((by for by in (8, 4, 2) if by <= most), 1)


def resize(pixels: np.ndarray, size: tuple[int, int], settings: DownloadSettings) -> np.ndarray:
    """Of a picture uint8 [height, width] or [height, width, 3]; the same array where nothing is to be done. ``size``: its height and width
    before it was reduced, if it was."""
    mode, side = settings.resize_mode, settings.image_size
    if mode == "no":
        return pixels
    reference = _reference(size, settings)
    if settings.resize_only_if_bigger and reference <= side:
        return pixels
    height, width = (max(1, round(length * (side / reference))) for length in size)
    pixels = _scale(pixels, (width, height), _DOWN if reference > side else _UP)
    if mode == "center_crop":
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side]
    if mode == "border":
        top, left = (side - height) // 2, (side - width) // 2
        bottom, right = side - height - top, side - width - left
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_WHITE)
    return pixels


def _reference(size: tuple[int, int], settings: DownloadSettings) -> int:
    """The side that is brought to ``image_size``."""
    return (min if settings.resize_mode in ("keep_ratio", "center_crop") else max)(size)


def _scale(pixels: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """To this width and height."""
    if size == pixels.shape[1::-1]:
        return pixels
    scaled: np.ndarray
    if interpolation == _DOWN:
        scaled = cv2.resize(pixels, size, interpolation=_DOWN)
    else:
        # Adding nothing is cv2's cheapest way to round and to keep within 0 to 255.
        scaled = cv2.add(cv2.resize(pixels.astype(np.float32), size, interpolation=_UP), 0.0, dtype=cv2.CV_8U)
    return scaled

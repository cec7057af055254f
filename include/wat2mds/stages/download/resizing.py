"""Pixels to the picture that is stored: img2dataset's resizing, step by step, with cv2 alone.

In: 8-bit pixels. Out: pixels of the stored size. Guaranteed: what img2dataset 1.47's Resizer makes of the same pixels, value for value
(``tests/wat2mds/stages/download/test_resizing.py``). It goes through albumentations, which made two objects for each picture and costs as
much as decoding one. What does not belong here: decoding, encoding (``decode.py``).
"""

from __future__ import annotations

import cv2
import numpy as np

from wat2mds.stage_settings import DownloadSettings

_WHITE = (255, 255, 255)
# img2dataset's defaults for downscale_interpolation and upscale_interpolation.
_DOWN, _UP = cv2.INTER_AREA, cv2.INTER_LANCZOS4


def resize(pixels: np.ndarray, settings: DownloadSettings) -> np.ndarray:
    """Of a picture uint8 [height, width] or [height, width, 3]; the same array where nothing is to be done."""
    mode, side = settings.resize_mode, settings.image_size
    if mode == "no":
        return pixels
    fitted = min if mode in ("keep_ratio", "center_crop") else max
    reference = fitted(pixels.shape[:2])
    if settings.resize_only_if_bigger and reference <= side:
        return pixels
    pixels = _scale(pixels, side / reference, _DOWN if reference > side else _UP)
    height, width = pixels.shape[:2]
    if mode == "center_crop":
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side]
    if mode == "border":
        top, left = (side - height) // 2, (side - width) // 2
        bottom, right = side - height - top, side - width - left
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_WHITE)
    return pixels


def _scale(pixels: np.ndarray, factor: float, interpolation: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return pixels
    scaled: np.ndarray = cv2.resize(pixels, size, interpolation=interpolation)
    return scaled

"""Where the picture lies in a stored image, and its PDQ hash: what download writes and validate checks.

In: sizes, pixels. What does not belong here: decoding untrusted bytes (``stages/download``).
"""

from __future__ import annotations

import numpy as np
import pdqhash

Box = tuple[int, int, int, int]
# Hamming distance up to which PDQ hashes count as those of one picture (facebook/ThreatExchange, hashing/hashing.pdf).
PDQ_MATCH = 31
# The quality below which PDQ says that its hash is not to be matched on: of a flat picture, rounding alone changes it.
PDQ_LEAST_QUALITY = 50


def content_box(width: int, height: int, original_width: int, original_height: int) -> Box:
    """Left, top, right, bottom of the picture in a stored image that was padded to a square (resize_mode border)."""
    scale = max(original_width, original_height) / max(width, height)
    inner_width, inner_height = min(width, round(original_width / scale)), min(height, round(original_height / scale))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + max(1, inner_width), top + max(1, inner_height)


def pdq_of(pixels: np.ndarray, box: Box | None) -> tuple[str, int]:
    """PDQ hash (64 hex digits) and quality of RGB pixels; of the part in ``box``, because a border is not in anyone's hash list."""
    if box is not None:
        left, top, right, bottom = box
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    bits, quality = pdqhash.compute(pixels)
    return np.packbits(bits.astype(np.uint8)).tobytes().hex(), int(quality)

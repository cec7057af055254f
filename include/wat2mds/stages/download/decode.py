"""One fetched image to what is stored of it: checked, upright, 8-bit, resized, encoded, with its EXIF and PDQ.

In: bytes from the web. Out: a Decoded, or Refused with its drop reason. Guaranteed: the same bytes and settings give the same
answer; whatever a decoder raises is a Refused. What does not belong here: that a decoder may also crash, hang or eat the memory,
for which this runs in a process of its own (``decoders.py``).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from dataclasses import dataclass

import cv2
import exifread
import numpy as np

from wat2mds.drops import DropReason
from wat2mds.models.pictures import content_box
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download import images
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.resizing import reduction, resize

_ENCODERS = {
    "jpg": (cv2.IMWRITE_JPEG_QUALITY, "image/jpeg"),
    "png": (cv2.IMWRITE_PNG_COMPRESSION, "image/png"),
    "webp": (cv2.IMWRITE_WEBP_QUALITY, "image/webp"),
}
_EXIF_CHARS = 100_000  # a camera writes some 5,000; a maker's note may hold megabytes
# What cv2 says where the memory limit stopped it: cv::Error::StsNoMem.
_CV2_NO_MEMORY = ("Insufficient memory", "Failed to allocate", "bad_alloc")


@dataclass(frozen=True)
class Decoded:
    """The stored image, and what is known of it and of the original; sizes in pixels, the original's after orientation."""

    stored: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    mime: str
    exif: str | None
    pdq: str | None
    pdq_quality: int | None


class Decoder:
    """One a process."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        quality, self._mime = _ENCODERS[settings.encode_format]
        self._encoding = [quality, settings.encode_quality]
        cv2.setNumThreads(1)  # the processes are what uses the cores
        quieten()

    def __call__(self, data: bytes) -> Decoded:
        """Raises Refused."""
        header = images.inspect(data, self._settings)
        try:
            return self._decode(data, header)
        except Refused as refused:
            refused.mime = header.mime
            raise
        except Exception as error:
            raise Refused(_reason(error), _message(error), mime=header.mime) from error

    def _decode(self, data: bytes, header: images.Header) -> Decoded:
        by = reduction(header.upright, self._settings) if header.reducible else 1
        pixels, changed = images.decode(data, header, reduction=by, apply_icc=self._settings.icc == "apply")
        original_height, original_width = header.upright if by > 1 else pixels.shape[:2]
        resized = resize(pixels, (original_height, original_width), self._settings)
        height, width = resized.shape[:2]
        sizes = width, height, original_width, original_height
        as_fetched = self._settings.skip_reencode and header.mime == self._mime and resized is pixels and not changed
        stored = data if as_fetched else self._encode(resized)
        box = content_box(*sizes) if self._settings.resize_mode == "border" else None
        pdq, quality = images.pdq(stored, box) if self._settings.pdq else (None, None)
        return Decoded(stored, *sizes, header.mime, exif_json(data), pdq, quality)

    def _encode(self, pixels: np.ndarray) -> bytes:
        encoded, stored = cv2.imencode(f".{self._settings.encode_format}", pixels, self._encoding)
        if not encoded:
            raise Refused(DropReason.DECODE, "Image encoding error")
        return bytes(stored)


def exif_json(data: bytes) -> str | None:
    """EXIF as img2dataset stores it, exifread's names and texts; null where it cannot be read or is longer than 100,000 characters."""
    try:
        tags = exifread.process_file(io.BytesIO(data), details=False)
        text = json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})
    except MemoryError:
        raise
    except Exception:  # damaged EXIF is no reason to lose the image
        return None
    return text if len(text) <= _EXIF_CHARS else None


def _reason(error: Exception) -> DropReason:
    out_of_memory = isinstance(error, MemoryError) or any(sign in str(error) for sign in _CV2_NO_MEMORY)
    return DropReason.DECODE_MEMORY if out_of_memory else DropReason.DECODE


def _message(error: Exception) -> str:
    return f"Image decoding error: {type(error).__name__}"


def quieten() -> None:
    """Keep what libraries say of each odd image out of the log; the row's error message has it."""
    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # as img2dataset's own main does
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is odd about an image
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

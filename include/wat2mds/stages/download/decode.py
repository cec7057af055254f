"""One fetched image to what is stored of it: checked, upright, 8-bit, resized, encoded, with its EXIF and PDQ.

In: bytes from the web. Out: a Decoded, or Refused with its drop reason. Guaranteed: the same bytes and settings give the same
answer; whatever a decoder raises is a Refused. What does not belong here: that a decoder may also crash, hang or eat the memory,
for which this runs in a process of its own (``decoders.py``).

Importing this module imports img2dataset, which costs 3 to 8 CPU seconds: the fork server alone does it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import exifread

from wat2mds.drops import DropReason
from wat2mds.models.pictures import content_box
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download import images
from wat2mds.stages.download.img2dataset_modules import resizer
from wat2mds.stages.download.refusal import Refused

_REASONS = {
    "image too small": DropReason.TOO_SMALL_SIDE,
    "image area too large": DropReason.TOO_MANY_PIXELS,
    "aspect ratio too large": DropReason.ASPECT,
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
    pdq: str
    pdq_quality: int


class Decoder:
    """One a process."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._resizer = resizer.Resizer(
            image_size=settings.image_size,
            resize_mode=settings.resize_mode,
            resize_only_if_bigger=settings.resize_only_if_bigger,
            encode_quality=settings.encode_quality,
            encode_format=settings.encode_format,
            skip_reencode=settings.skip_reencode,
            min_image_size=settings.min_image_size,
            max_image_area=settings.max_pixels,
            max_aspect_ratio=settings.max_aspect_ratio or float("inf"),
        )
        # img2dataset's resizer points the process's stdout and stderr to /dev/null around each image, and makes the same two
        # albumentations transforms anew for each, which costs 1 ms of 4.
        resizer.SuppressStdoutStderr = contextlib.nullcontext
        if not isinstance(resizer.A, _Transforms):
            resizer.A = _Transforms(resizer.A)
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
        lossless = images.plain(data, header, apply_icc=self._settings.icc == "apply")
        stored, width, height, original_width, original_height, message = self._resizer(
            io.BytesIO(data if lossless is None else lossless)
        )
        if message is not None:
            raise Refused(
                _REASONS.get(message, _reason(message)), (message.strip() or "Image decoding error").splitlines()[0][:300]
            )
        sizes = width, height, original_width, original_height
        bordered = self._settings.resize_mode == "border"
        pdq, quality = images.pdq(stored, content_box(*sizes) if bordered else None)
        return Decoded(stored, *sizes, header.mime, exif_json(data), pdq, quality)


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


def _reason(error: Exception | str) -> DropReason:
    out_of_memory = isinstance(error, MemoryError) or any(sign in str(error) for sign in _CV2_NO_MEMORY)
    return DropReason.DECODE_MEMORY if out_of_memory else DropReason.DECODE


def _message(error: Exception) -> str:
    return f"Image decoding error: {type(error).__name__}"


class _Transforms:
    """albumentations as the resizer sees it: a transform made once stands for all that are made with the same arguments.

    They hold no state between images, and one thread of a process resizes.
    """

    def __init__(self, albumentations: Any) -> None:
        self._albumentations = albumentations
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def make(**arguments: Any) -> Any:
            key = f"{name} {arguments}"
            if key not in self._made:
                self._made[key] = getattr(self._albumentations, name)(**arguments)
            return self._made[key]

        return make


def quieten() -> None:
    """Keep what libraries say of each odd image out of the log; the row's error message has it."""
    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # as img2dataset's own main does
    warnings.filterwarnings("ignore", message="value is deprecated, use fill instead")  # albumentations, once an image
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is odd about an image
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

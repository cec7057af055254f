"""What the fetched bytes are: type and size from the header before anything is decoded, hashes, and the way to plain pixels.

In: bytes. Out: a Header, or Refused with its drop reason. Guaranteed: nothing is decoded here before type, bytes, pixels, side and
aspect were accepted. What does not belong here: fetching, resizing (``resizing.py``).

What cv2 does, and what is done about it: ``imdecode(IMREAD_UNCHANGED)``, which img2dataset calls, ignores EXIF orientation and keeps
16 bits, which its JPEG encoder then saturates to white. So ``decode`` turns the few images of either kind upright and to 8 bits, reads
GIFs in another way and, as set, follows colour profiles: stored images and ``original_width``/``original_height`` have the orientation
applied. A large JPEG is decoded at a half, a quarter or an eighth of its sides where that leaves enough (``resizing.reduction``).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from wat2mds.drops import DropReason
from wat2mds.models.pictures import Box, pdq_of
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.refusal import Refused

_ORIENTATION = 274  # EXIF tag, 1 to 8; 5 to 8 swap the sides
# The turns and flips of EXIF 2.3, 4.6.4, table 6: cv2's rotate code, and whether it is mirrored left to right afterwards.
_UPRIGHT: dict[int, tuple[int | None, bool]] = {
    2: (None, True),
    3: (cv2.ROTATE_180, False),
    4: (cv2.ROTATE_180, True),
    5: (cv2.ROTATE_90_CLOCKWISE, True),
    6: (cv2.ROTATE_90_CLOCKWISE, False),
    7: (cv2.ROTATE_90_COUNTERCLOCKWISE, True),
    8: (cv2.ROTATE_90_COUNTERCLOCKWISE, False),
}
# cv2's flags for a colour JPEG at 1 / n of its sides, which its decoder makes of the coefficients, so that most of the work is saved.
_REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
# The project's limit is download.max_pixels, tested in ``inspect``; Pillow's own would come as a warning or as another exception.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Header:
    """What an image says of itself; the size as it is stored, before orientation."""

    mime: str
    width: int
    height: int
    orientation: int
    deep: bool  # 16 bits a channel
    icc: bytes | None = None
    reducible: bool = False  # a colour JPEG

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width after orientation."""
        return (self.width, self.height) if self.orientation in range(5, 9) else (self.height, self.width)


@dataclass(frozen=True)
class Hashes:
    """Of the bytes as fetched, hex."""

    md5: str
    sha1: str
    sha256: str


def hashes(data: bytes) -> Hashes:
    # md5 and sha1 are what the hash lists in use hold; nothing here relies on their strength.
    return Hashes(
        hashlib.md5(data, usedforsecurity=False).hexdigest(),
        hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        hashlib.sha256(data).hexdigest(),
    )


def inspect(data: bytes, settings: DownloadSettings) -> Header:
    """Type and size, tested against the settings. Raises Refused; messages are img2dataset's where it has one."""
    if len(data) < settings.min_bytes:
        raise Refused(DropReason.TOO_SMALL_BYTES, f"fewer than {settings.min_bytes} bytes")
    header = _header(data, settings.formats, refuse_animated=settings.animated == "drop")
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise Refused(DropReason.DECODE, "Image decoding error")
    if width * height > settings.max_pixels:
        raise Refused(DropReason.TOO_MANY_PIXELS, "image area too large", mime=header.mime)
    if min(width, height) < settings.min_image_size:
        raise Refused(DropReason.TOO_SMALL_SIDE, "image too small", mime=header.mime)
    if settings.max_aspect_ratio is not None and max(width, height) / min(width, height) > settings.max_aspect_ratio:
        raise Refused(DropReason.ASPECT, "aspect ratio too large", mime=header.mime)
    return header


def _header(data: bytes, formats: tuple[str, ...], refuse_animated: bool) -> Header:
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            try:
                orientation = int(image.getexif().get(_ORIENTATION, 1))
            except Exception:  # damaged EXIF is no reason to lose the image
                orientation = 1
            deep = image.mode.startswith("I;16") or (image.format == "PNG" and data[24] == 16)
            # MPO: a JPEG with further ones behind it, as phones and stereo cameras write; the first is the picture.
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if refuse_animated and kind != "JPEG" and getattr(image, "is_animated", False):
                raise Refused(DropReason.ANIMATED, "animated", mime=Image.MIME[kind])
            reducible = kind == "JPEG" and image.mode == "RGB"
            return Header(Image.MIME[kind], *image.size, orientation, deep, image.info.get("icc_profile"), reducible)
    except (Refused, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Refused(DropReason.NOT_IMAGE, f"not an image of a format in {', '.join(formats)}") from error
    except Exception as error:  # parsers of untrusted bytes raise whatever they like
        raise Refused(DropReason.DECODE, f"Image decoding error: {type(error).__name__}") from error


def decode(data: bytes, header: Header, *, reduction: int = 1, apply_icc: bool = False) -> tuple[np.ndarray, bool]:
    """The pixels as img2dataset decodes them, uint8 [height, width] or BGR [height, width, 3], and upright, from 16 bits rounded to 8,
    alpha laid on white, and in sRGB with ``apply_icc``; and whether any of that changed them. With a ``reduction`` of 2, 4 or 8, for what
    is reducible, the sides are divided by it and rounded. Raises Refused, or what a decoder raises.
    """
    gif, flags = header.mime == "image/gif", _REDUCED.get(reduction, cv2.IMREAD_UNCHANGED)
    decoded = pixels = _first_frame(data) if gif else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise Refused(DropReason.DECODE, "Image decoding error")
    if reduction > 1:  # the decoder rounds up, and fills what lies beyond the edge
        pixels = pixels[: round(header.height / reduction), : round(header.width / reduction)]
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if apply_icc and (profile := _profile(header)) is not None:
        pixels = _to_srgb(pixels, profile)
    if (turn := _UPRIGHT.get(header.orientation)) is not None:
        rotation, mirrored = turn
        pixels = pixels if rotation is None else cv2.rotate(pixels, rotation)
        pixels = cv2.flip(pixels, 1) if mirrored else pixels
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    return pixels, pixels is not decoded


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """alpha / 255 × colour + 255 - alpha, rounded: img2dataset's formula in whole numbers. No half occurs, 255 being odd."""
    alpha = pixels[..., 3:].astype(np.uint16)
    laid: np.ndarray = ((pixels[..., :3] * alpha + 127) // 255 + (255 - alpha)).astype(np.uint8)
    return laid


def _first_frame(gif: bytes) -> np.ndarray:
    """BGRA, by Pillow: cv2 refuses GIFs of the web that browsers show, such as those with a background outside of their palette."""
    with Image.open(io.BytesIO(gif), formats=("GIF",)) as image:
        pixels: np.ndarray = cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        return pixels


def _profile(header: Header) -> ImageCms.ImageCmsProfile | None:
    """The image's own colours, where they are told in a way that can be followed."""
    if not header.icc:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(header.icc))
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None


def _to_srgb(pixels: np.ndarray, profile: ImageCms.ImageCmsProfile) -> np.ndarray:
    """BGR or BGRA pixels from the profile's colours to sRGB's; as they are where the profile is for another kind of pixels.

    That holds for grey and CMYK profiles: cv2 has brought their pixels to grey or RGB already.
    """
    if pixels.ndim != 3 or profile.profile.xcolor_space.strip() != "RGB":
        return pixels
    picture = Image.fromarray(cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB))
    try:
        converted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, ValueError):
        return pixels
    out = cv2.cvtColor(np.asarray(converted), cv2.COLOR_RGB2BGR)
    return out if pixels.shape[2] == 3 else np.dstack([out, pixels[..., 3]])


def pdq(stored: bytes, box: Box | None) -> tuple[str, int]:
    """PDQ hash (hex) and quality of a stored image, of the part in ``box``."""
    pixels = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise Refused(DropReason.DECODE, "Image decoding error")
    return pdq_of(pixels, box)

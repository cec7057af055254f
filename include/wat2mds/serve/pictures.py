"""Images that a client sends, decoded with care: what is searched for, never what is stored.

In: bytes from anybody. Out: a PIL image in RGB, upright. Guaranteed: type and size are those of the header before anything is
decoded; no more pixels than the limit are decoded; whatever a decoder raises is a ``BadPicture``; one is decoded at a time. What
does not belong here: the images of the dataset (``images.py``); what download does with the web's (``stages/download``), whose
rules these follow.
"""

from __future__ import annotations

import io
import threading
import warnings

from PIL import Image, ImageOps

from wat2mds.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# A model looks at some hundred pixels: a JPEG is decoded at a half, quarter or eighth of its size where that leaves as many.
_ENOUGH = (1024, 1024)
_one_at_a_time = threading.Semaphore(1)  # each may take some hundred megabytes


class BadPicture(DataError):
    """What was sent is no image that is searched for; ``too_large`` where only its size forbids it."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


def decode_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Raises BadPicture."""
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise _too_large(f"{width} × {height} pixels", max_pixels)
                image.draft("RGB", _ENOUGH)
                upright: Image.Image = ImageOps.exif_transpose(image)
                if upright.mode in ("RGBA", "LA", "PA", "P"):  # alpha on white, as download lays it
                    upright = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
                return upright.convert("RGB")
        except BadPicture:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large("more pixels than any image has", max_pixels) from error
        except Exception as error:  # parsers of untrusted bytes raise whatever they like
            raise BadPicture(f"this is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image that can be read") from error


def _too_large(what: str, max_pixels: int) -> BadPicture:
    return BadPicture(f"the image has {what}; at most {max_pixels:,} pixels are taken: send a smaller one", too_large=True)

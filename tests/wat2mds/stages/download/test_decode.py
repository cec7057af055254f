"""What is stored of real images of every kind: upright, 8-bit, without alpha, in the right colours, with the EXIF kept."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decode import Decoded, Decoder
from wat2mds.stages.download.refusal import Refused

ALL = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_small = np.random.default_rng(7).integers(0, 256, (8, 12, 3), dtype=np.uint8)
SMOOTH = Image.fromarray(cv2.resize(_small, (144, 96), interpolation=cv2.INTER_CUBIC))


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes, **changes: object) -> Decoded:
    """As stored without a resize and without loss."""
    exact = {"resize_mode": "no", "encode_format": "png", "encode_quality": 1, "min_bytes": 0, "formats": ALL}
    return Decoder(DownloadSettings.model_validate(exact | changes))(data)


def pixels(done: Decoded) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(done.stored)).convert("RGB")).astype(int)


def see_through() -> Image.Image:
    image = SMOOTH.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(SMOOTH.size))
    return image


def on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def reopened(data: bytes) -> Image.Image:
    return on_white(Image.open(io.BytesIO(data)))


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "Maker"
    return exif


def two_frames(kind: str, **options: object) -> bytes:
    return save(SMOOTH, kind, save_all=True, append_images=[SMOOTH.rotate(180)], **options)


def sixteen_bits(of: np.ndarray) -> bytes:
    return cv2.imencode(".png", of.astype(np.uint16) * 257)[1].tobytes()


PALETTE = SMOOTH.quantize(32)
RGB = np.asarray(SMOOTH)
KINDS: dict[str, tuple[Callable[[], bytes], Image.Image, float]] = {
    # bytes, what they show, mean difference allowed in grey levels (lossy formats and CMYK's arithmetic)
    "png": (lambda: save(SMOOTH, "PNG"), SMOOTH, 0),
    "jpeg": (lambda: save(SMOOTH, "JPEG", quality=100, subsampling=0), SMOOTH, 1),
    "jpeg grey": (lambda: save(SMOOTH.convert("L"), "JPEG", quality=100), SMOOTH.convert("L"), 1),
    "jpeg cmyk": (lambda: save(SMOOTH.convert("CMYK"), "JPEG", quality=100, subsampling=0), SMOOTH, 2),
    "png palette": (lambda: save(PALETTE, "PNG"), PALETTE, 0),
    "png palette, see-through colour": (lambda: save(PALETTE, "PNG", transparency=3), reopened(save(PALETTE, "PNG", transparency=3)), 1),
    "png alpha": (lambda: save(see_through(), "PNG"), on_white(see_through()), 1),
    "png grey alpha": (lambda: save(see_through().convert("LA"), "PNG"), on_white(see_through().convert("LA")), 1),
    "png 1 bit": (lambda: save(SMOOTH.convert("1"), "PNG"), SMOOTH.convert("1"), 0),
    "png 16 bits": (lambda: sixteen_bits(RGB[..., ::-1]), SMOOTH, 0),
    "png 16 bits grey": (lambda: sixteen_bits(RGB[..., 0]), Image.fromarray(RGB[..., 0].copy()), 0),
    "png 16 bits alpha": (
        lambda: sixteen_bits(cv2.cvtColor(np.asarray(see_through()), cv2.COLOR_RGBA2BGRA)), on_white(see_through()), 1
    ),
    "webp alpha": (lambda: save(see_through(), "WEBP", lossless=True, exact=True), on_white(see_through()), 1),
    "gif": (lambda: save(PALETTE, "GIF"), PALETTE, 0),
    "gif see-through": (lambda: save(PALETTE, "GIF", transparency=3), reopened(save(PALETTE, "GIF", transparency=3)), 1),
    "gif, first of two frames": (lambda: two_frames("GIF"), Image.open(io.BytesIO(two_frames("GIF"))).convert("RGB"), 0),
    "webp, first of two frames": (lambda: two_frames("WEBP", lossless=True), SMOOTH, 0),
    "apng, first of two frames": (lambda: two_frames("PNG"), SMOOTH, 0),
    "avif": (lambda: save(SMOOTH, "AVIF", quality=100, subsampling="4:4:4"), SMOOTH, 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_the_image_shows(kind: str) -> None:
    make, shown, tolerance = KINDS[kind]
    done = decoded(make())
    assert np.abs(pixels(done) - np.asarray(shown.convert("RGB")).astype(int)).mean() <= tolerance
    assert (done.width, done.height, done.original_width, done.original_height) == (*SMOOTH.size, *SMOOTH.size)
    assert done.mime == f"image/{kind.split()[0].strip(',').replace('apng', 'png')}"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_applied_and_the_exif_kept(kind: str, orientation: int) -> None:
    exact = {"JPEG": {"subsampling": 0}, "AVIF": {"subsampling": "4:4:4"}, "WEBP": {"lossless": True}}.get(kind, {})
    options = exact | ({} if kind == "PNG" else {"quality": 100})
    done = decoded(save(SMOOTH, kind, exif=with_exif(orientation), **options))
    upright = SMOOTH.transpose(Image.Transpose.ROTATE_180 if orientation == 3 else Image.Transpose.ROTATE_270)
    assert (done.original_width, done.original_height) == upright.size
    assert np.abs(pixels(done) - np.asarray(upright).astype(int)).mean() <= 2
    if kind in ("JPEG", "WEBP"):  # img2dataset's reader finds none in the other two
        assert json.loads(done.exif or "{}")["Image Make"] == "Maker"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_images_are_dropped_where_it_is_set(kind: str) -> None:
    with pytest.raises(Refused) as refused:
        decoded(two_frames(kind), animated="drop")
    assert (refused.value.reason, refused.value.mime) == (DropReason.ANIMATED, f"image/{kind.lower()}")
    assert decoded(save(SMOOTH, kind), animated="drop").width == SMOOTH.width


def test_further_pictures_behind_a_jpeg_are_no_animation() -> None:
    done = decoded(two_frames("MPO", quality=100, subsampling=0), animated="drop")
    assert done.mime == "image/jpeg"
    assert np.abs(pixels(done) - RGB).mean() <= 1


def turned_colours() -> bytes:
    """A profile in which red stands for green, green for blue: that of sRGB with the three primaries exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {name: profile.index(name, 128) for name in (b"rXYZ", b"gXYZ", b"bXYZ")}
    places = [bytes(profile[start + 4 : start + 12]) for start in at.values()]
    for start, place in zip(at.values(), places[1:] + places[:1], strict=True):
        profile[start + 4 : start + 12] = place
    return bytes(profile)


def test_colour_profiles_are_left_out_or_applied_as_set() -> None:
    data = save(SMOOTH, "PNG", icc_profile=turned_colours())
    assert np.array_equal(pixels(decoded(data)), RGB)
    applied = pixels(decoded(data, icc="apply"))
    assert np.abs(applied - np.roll(RGB.astype(int), 1, axis=2)).mean() < 2
    for harmless in (b"no profile", bytes(200)):
        assert np.array_equal(pixels(decoded(save(SMOOTH, "PNG", icc_profile=harmless), icc="apply")), RGB)
    grey = save(SMOOTH.convert("L"), "PNG", icc_profile=turned_colours())
    assert np.array_equal(pixels(decoded(grey, icc="apply"))[..., 0], np.asarray(SMOOTH.convert("L")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_bytes": 5000}, DropReason.TOO_SMALL_BYTES),
        ({"max_pixels": 144 * 96 - 1}, DropReason.TOO_MANY_PIXELS),
        ({"min_image_size": 97}, DropReason.TOO_SMALL_SIDE),
        ({"max_aspect_ratio": 1.49}, DropReason.ASPECT),
        ({"formats": ("JPEG", "GIF")}, DropReason.NOT_IMAGE),
    ],
)
def test_limits_are_settings(changes: dict[str, object], reason: DropReason) -> None:
    data = save(SMOOTH.resize((144, 96)).quantize(4), "PNG")
    assert len(data) < 5000
    assert decoded(data, max_pixels=144 * 96, min_image_size=96, max_aspect_ratio=1.5).width == 144
    with pytest.raises(Refused) as refused:
        decoded(data, **changes)
    assert refused.value.reason is reason


def test_pdq_is_a_setting() -> None:
    with_it, without = decoded(save(SMOOTH, "PNG")), decoded(save(SMOOTH, "PNG"), pdq=False)
    assert len(str(with_it.pdq)) == 64
    assert with_it.pdq_quality is not None
    assert (without.pdq, without.pdq_quality, without.stored) == (None, None, with_it.stored)

"""The drawn pictures: captions are unique, drawing is repeatable, stored images outweigh LAION's minimum."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wat2mds.world.draw import MARKS, Picture, all_pictures, appeal, caption, draw, marked

LAION_MIN_BYTES = 5000
PICTURE = Picture("circle", "red", 3, "small", "blue", "left")


def test_captions_are_plain_english_and_unique() -> None:
    pictures = all_pictures()
    captions = [caption(picture) for picture in pictures]
    assert len(pictures) > 3000
    assert len(set(captions)) == len(captions)
    assert min(len(text) for text in captions) >= 5
    assert caption(PICTURE) == "three small red circles at the left on a blue background"
    assert caption(Picture("cross", "black", 1, "large", "white", "middle")) == (
        "one large black cross in the middle on a white background"
    )


def test_order_is_fixed_and_nothing_is_marked() -> None:
    pictures = all_pictures()
    assert pictures == all_pictures()
    assert pictures[0] == Picture("circle", "red", 1, "small", "white", "left")
    assert not any(picture.mark for picture in pictures)
    assert all(picture.colour != picture.background for picture in pictures)


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    for picture in (PICTURE, *(marked(PICTURE, mark) for mark in MARKS)):
        first = draw(picture, 200, 150, seed=4).tobytes()
        assert first == draw(picture, 200, 150, seed=4).tobytes()
        assert first != draw(picture, 200, 150, seed=5).tobytes()


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (300, 200), (1500, 64), (1500, 1500)])
def test_every_size_is_drawn_in_rgb(size: tuple[int, int]) -> None:
    image = draw(PICTURE, *size, seed=1)
    assert image.size == size
    assert image.mode == "RGB"


@pytest.mark.parametrize("size", [(63, 100), (100, 1501)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="64 to 1500"):
        draw(PICTURE, *size, seed=1)


@pytest.mark.parametrize("side", [200, 256, 640, 1500])
def test_a_256_pixel_jpeg_is_over_laions_minimum(side: int) -> None:
    for number, picture in enumerate(all_pictures()[:: 2220 if side > 1000 else 370]):
        buffer = io.BytesIO()
        image = draw(picture, side, side, seed=number).resize((256, 256), Image.Resampling.BOX)
        image.save(buffer, "JPEG", quality=95)
        assert buffer.tell() > 2 * LAION_MIN_BYTES, caption(picture)


def test_shapes_stand_where_the_caption_says_in_the_colour_that_it_says() -> None:
    for position, (axis, half) in {"left": (1, 0), "right": (1, 1), "top": (0, 0), "bottom": (0, 1)}.items():
        for count in (1, 2, 3, 4):
            picture = Picture("square", "red", count, "large", "white", position)
            pixels = np.asarray(draw(picture, 240, 240, seed=count)).astype(int)
            reddish = (pixels[..., 0] - pixels[..., 1]) > 90
            share = np.array_split(reddish, 2, axis=axis)[half].sum() / reddish.sum()
            assert share > 0.95, caption(picture)


def test_more_and_larger_shapes_cover_more() -> None:
    def covered(count: int, size: str) -> float:
        pixels = np.asarray(draw(Picture("circle", "red", count, size, "white", "middle"), 256, 256, seed=3)).astype(int)
        return float(((pixels[..., 0] - pixels[..., 1]) > 90).mean())

    assert covered(1, "small") < covered(2, "small") < covered(4, "small") < covered(4, "large")


def test_a_mark_shows_in_the_picture_but_not_in_the_caption() -> None:
    plain = np.asarray(draw(PICTURE, 256, 256, seed=9)).astype(int)
    for mark in MARKS:
        picture = marked(PICTURE, mark)
        assert caption(picture) == caption(PICTURE)
        assert appeal(picture) < appeal(PICTURE)
        changed = np.abs(np.asarray(draw(picture, 256, 256, seed=9)).astype(int) - plain).max(axis=2) > 20
        assert 0.05 < changed.mean() < 0.6
        # Both leave the caption's shapes to be seen.
        assert changed[96:160, 40:90].mean() < 0.5


def test_appeal_is_on_laions_scale() -> None:
    values = [appeal(picture) for picture in all_pictures()]
    assert 1 <= min(values) < max(values) <= 10

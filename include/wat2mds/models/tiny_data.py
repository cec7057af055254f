"""What the tiny CLIP is trained and tested on: drawn pictures, split by caption, as a run of wat2mds would store them.

In: a seed. Out: splits of pictures, their captions' tokens, images as the model's own preprocessing would give them.
Guaranteed: the same arguments give the same arrays, whatever the number of processes; no caption is in two splits.
Does not belong here: the model, the training loop (`train_tiny.py`), the drawing (`world/draw.py`).
"""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from wat2mds.world.draw import (
    BACKGROUNDS,
    COUNTS,
    MARKS,
    POSITIONS,
    SHAPE_COLOURS,
    SHAPES,
    SIZES,
    Picture,
    all_pictures,
    caption,
    draw,
    marked,
    plural,
)

IMAGE_SIDE = 96  # at 64 a small shape is six pixels wide, too few to tell a circle from a star
STORED_SIDE = 256  # wat2mds's and LAION's usual image_size
CONTEXT_LENGTH = 20
PAD, UNKNOWN, BEGIN = 0, 1, 2
SPECIAL = ("[PAD]", "[UNK]", "[BOS]")
END = "[EOS]"

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "shape": SHAPES,
    "colour": SHAPE_COLOURS,
    "count": COUNTS,
    "size": SIZES,
    "background": BACKGROUNDS,
    "position": POSITIONS,
}
PROBED = _CHOICES | {"mark": ("", *MARKS)}
KINDS = tuple((colour, shape) for shape in SHAPES for colour in SHAPE_COLOURS)
# What people type; words that no caption holds are unknown to the model.
_SHORT = ("{one}", "{many}", "a {one}", "a photo of a {one}", "a picture of {many}", "two {many}", "one {one}")


@dataclass(frozen=True)
class Splits:
    train: list[Picture]
    validation: list[Picture]
    test: list[Picture]


def split_pictures() -> Splits:
    """Eight, one and one tenth of all captions. Fixed, whatever seed trains: a held-out caption stays held out."""
    pictures = all_pictures()
    order = np.random.default_rng(20240101).permutation(len(pictures))
    shuffled = [pictures[i] for i in order]
    tenth = len(pictures) // 10
    return Splits(shuffled[2 * tenth :], shuffled[:tenth], shuffled[tenth : 2 * tenth])


def vocabulary(pictures: Iterable[Picture]) -> dict[str, int]:
    """Every word of the captions. The end token comes last, because open_clip pools where the largest token stands."""
    words = sorted({word for picture in pictures for word in caption(picture).split()})
    return {word: number for number, word in enumerate((*SPECIAL, *words, END))}


def stored_image(picture: Picture, seed: int, mode: str | None = None) -> Image.Image:
    """The picture as the download stage would leave it: drawn at some size, served as JPEG, at 256 px, JPEG again."""
    return _as_jpeg(stored_at_256(picture, seed, mode), 95)


def stored_at_256(picture: Picture, seed: int, mode: str | None = None) -> Image.Image:
    """The same before the last JPEG.

    `mode` is img2dataset's resize mode, `border` or `keep_ratio`; none: one by chance. The border is white or black,
    because img2dataset's depends on the albumentations release.
    """
    rng = np.random.default_rng([seed, 1])
    side = int(rng.choice([96, 160, 200, 256, 320, 400, 560], p=[0.08, 0.17, 0.2, 0.2, 0.2, 0.1, 0.05]))
    ratio = float(rng.choice([1.0, 1.25, 4 / 3, 1.5, 1.8], p=[0.4, 0.15, 0.2, 0.2, 0.05]))
    width, height = (side, round(side / ratio)) if rng.random() < 0.5 else (round(side / ratio), side)
    image = draw(picture, max(64, width), max(64, height), seed)
    image = _as_jpeg(image, int(rng.integers(75, 96)))
    chosen = mode or ("border" if rng.random() < 0.6 else "keep_ratio")
    longest = max(image.size) if chosen == "border" else min(image.size)
    shrink = STORED_SIDE / longest
    resample = Image.Resampling.BOX if shrink < 1 else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))), resample)
    if chosen == "border":
        fill = (255, 255, 255) if rng.random() < 0.5 else (0, 0, 0)
        image = ImageOps.pad(image, (STORED_SIDE, STORED_SIDE), color=fill)
    return image


def model_pixels(image: Image.Image) -> Pixels:
    """open_clip's preprocessing with `resize_mode` squash, up to the normalisation: uint8, height x width x 3."""
    return np.array(image.convert("RGB").resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))


def draw_all(tasks: Sequence[tuple[Picture, int]], processes: int = 2) -> Pixels:
    """One image a task of picture and seed, uint8 [n, IMAGE_SIDE, IMAGE_SIDE, 3]."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return np.stack(pool.map(_draw_one, tasks, chunksize=64))


def _draw_one(task: tuple[Picture, int]) -> Pixels:
    picture, seed = task
    return model_pixels(stored_image(picture, seed))


def stored_jpegs(tasks: Sequence[tuple[Picture, int, str | None]], processes: int = 1) -> list[bytes]:
    """The bytes that a run would store, for each task of picture, seed and resize mode."""
    if processes == 1:
        return [_store_one(task) for task in tasks]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(_store_one, tasks, chunksize=32)


def _store_one(task: tuple[Picture, int, str | None]) -> bytes:
    return jpeg_bytes(stored_at_256(*task), 95)


def with_random_marks(pictures: Sequence[Picture], rng: np.random.Generator) -> list[Picture]:
    """A fifth with a warning border, a fifth with a watermark."""
    chance = rng.random(len(pictures))
    return [
        marked(picture, MARKS[0]) if c < 0.2 else marked(picture, MARKS[1]) if c < 0.4 else picture
        for picture, c in zip(pictures, chance, strict=True)
    ]


def near_miss(picture: Picture, allowed: set[Picture], rng: np.random.Generator) -> Picture:
    """A picture of `allowed` that differs in one thing; in anything, if chance finds none."""
    plain = marked(picture, "")
    for _ in range(8):
        field = list(_CHOICES)[int(rng.integers(len(_CHOICES)))]
        options = [o for o in _CHOICES[field] if o != getattr(plain, field)]
        other = replace(plain, **{field: options[int(rng.integers(len(options)))]})
        if other in allowed:
            return other
    return sorted(allowed)[int(rng.integers(len(allowed)))]


def unlike(picture: Picture, rng: np.random.Generator) -> Picture:
    """A picture that differs in everything that a caption says, as the demo world's mismatched captions do."""
    while True:
        parts = {}
        for field, options in _CHOICES.items():
            others = [option for option in options if option != getattr(picture, field)]
            parts[field] = others[int(rng.integers(len(others)))]
        if parts["colour"] != parts["background"]:
            return Picture(**parts)


def short_caption(colour: str, shape: str, rng: np.random.Generator | None = None) -> str:
    """Colour and shape alone: "red circle"; with `rng` in one of several forms, such as "a picture of red circles"."""
    form = _SHORT[0] if rng is None else _SHORT[int(rng.integers(len(_SHORT)))]
    return form.format(one=f"{colour} {shape}", many=f"{colour} {plural(shape)}")


def token_rows(captions: Sequence[str], words: dict[str, int], rng: np.random.Generator | None = None) -> Tokens:
    """int64 [n, context]. With `rng`, a third of the rows get unknown words around them, as captions on the web do."""
    rows = np.full((len(captions), CONTEXT_LENGTH), PAD, dtype=np.int64)
    for row, text in zip(rows, captions, strict=True):
        numbers = [words.get(word, UNKNOWN) for word in text.split()]
        if rng is not None and rng.random() < 0.33:
            before, after = (int(n) for n in rng.integers(0, 4, size=2))
            numbers = [UNKNOWN] * before + numbers + [UNKNOWN] * after
        _fill(row, numbers, words)
    return rows


def junk_rows(count: int, words: dict[str, int], rng: np.random.Generator) -> Tokens:
    """Captions that describe no drawing: unknown words, some with words of ours among them."""
    rows = np.full((count, CONTEXT_LENGTH), PAD, dtype=np.int64)
    known = np.array([n for w, n in words.items() if w not in SPECIAL and w != END])
    for row in rows:
        numbers = rng.choice(known, size=int(rng.integers(1, CONTEXT_LENGTH)))
        numbers[rng.random(len(numbers)) < rng.choice([0.6, 0.8, 1.0])] = UNKNOWN
        _fill(row, numbers.tolist(), words)
    return rows


def _fill(row: Tokens, numbers: list[int], words: dict[str, int]) -> None:
    kept = [BEGIN, *numbers[: CONTEXT_LENGTH - 2], words[END]]
    row[: len(kept)] = kept


def write_tokenizer(folder: Path, words: dict[str, int]) -> None:
    """The files that open_clip's `local-dir:` route hands to transformers: one token a word, no download."""
    both_ends = [{"SpecialToken": {"id": SPECIAL[BEGIN], "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
    first = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [both_ends[0], first, both_ends[1]],
            "pair": [first, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {word: {"id": word, "ids": [words[word]], "tokens": [word]} for word in (SPECIAL[BEGIN], END)},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": SPECIAL[UNKNOWN]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT_LENGTH,
        "pad_token": SPECIAL[PAD],
        "unk_token": SPECIAL[UNKNOWN],
        "bos_token": SPECIAL[BEGIN],
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg_bytes(image, quality))).convert("RGB")

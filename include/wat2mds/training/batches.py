"""Published samples as a small model takes them: batches of pixels and tokens.

In: a StreamingDataset. Out: batches (pixels float32 [n, 3, side, side], tokens int64 [n, context]). Guaranteed: every sample once an epoch,
in the dataset's own order; with ``shuffled`` each picture gets the caption of another of its batch, chosen by the seed. What does not
belong here: choosing samples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch
    from streaming import StreamingDataset

SIDE = 32  # pixels
CONTEXT = 24  # tokens


def samples_of(dataset: StreamingDataset, batch: int) -> Iterator[list[dict[str, Any]]]:
    """One epoch's samples, ``batch`` at a time; the last may be fewer."""
    held: list[dict[str, Any]] = []
    for sample in dataset:
        held.append(sample)
        if len(held) == batch:
            yield held
            held = []
    if held:
        yield held


def epochs(dataset: StreamingDataset, batch: int, seed: int, *, shuffled: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches for ever; one sample alone teaches nothing and is left out."""
    rng = np.random.default_rng(seed)
    while True:
        for samples in samples_of(dataset, batch):
            if len(samples) < 2:
                continue
            captions = [sample["caption"] for sample in samples]
            if shuffled:
                turn = int(rng.integers(1, len(captions)))
                captions = captions[turn:] + captions[:turn]
            yield pixels([sample["jpg"] for sample in samples]), tokens(captions)


def pixels(pictures: list[bytes]) -> torch.Tensor:
    """float32 [n, 3, SIDE, SIDE], about -2 to 2."""
    import torch

    return torch.from_numpy(np.stack([_small(picture) for picture in pictures])).permute(0, 3, 1, 2).float() / 64 - 2


def tokens(captions: list[str]) -> torch.Tensor:
    """int64 [n, CONTEXT] by open_clip's own tokenizer; longer captions are cut."""
    from open_clip import SimpleTokenizer

    global _tokenizer
    _tokenizer = _tokenizer or SimpleTokenizer(context_length=CONTEXT)
    return _tokenizer(captions)  # type: ignore[no-any-return]


_tokenizer: Any = None


def _small(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))  # JPEG is decoded at a fraction of its size
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))

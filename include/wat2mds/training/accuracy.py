"""Zero-shot accuracy: each picture goes to the class whose text embedding is nearest.

In: a CLIP and held-out pictures, or embeddings. Out: the share of pictures whose class is right. Guaranteed: a class's embedding is the
mean of its prompts' embeddings of length one, brought to length one again, as CLIP's authors do (openai/CLIP, prompt ensembling). What
does not belong here: training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wat2mds.training.batches import pixels, tokens
from wat2mds.training.held_out import HeldOut

_AT_ONCE = 256


def accuracy(model: Any, held_out: HeldOut) -> float:
    """Share of the pictures that the model puts into their class, 0 to 1."""
    import torch

    with torch.inference_mode():
        prompts = [model.encode_text(tokens(texts)).numpy() for texts in held_out.prompts.values()]
        parts = [held_out.pictures[start : start + _AT_ONCE] for start in range(0, len(held_out.pictures), _AT_ONCE)]
        images = np.concatenate([model.encode_image(pixels(part)).numpy() for part in parts])
    return share_right(images, prompts, np.array(held_out.labels))


def share_right(images: np.ndarray, prompts: list[np.ndarray], labels: np.ndarray) -> float:
    """Of embeddings: ``images`` [n, dim], ``prompts`` [m, dim] of each class, ``labels`` [n] the classes' numbers; of any length."""
    classes = np.stack([_unit(_unit(texts).mean(0)) for texts in prompts])
    return float((np.argmax(_unit(images) @ classes.T, axis=1) == labels).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows brought to length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))

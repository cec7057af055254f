"""The CLIP model that an index was made with, which makes queries of texts and images.

In: the model's name and weights. Out: vectors of norm 1. Guaranteed: one query is encoded at a time: threads of one process would
only take each other's cores. What does not belong here: the model (``models/clip.py``).
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wat2mds.models.clip import load_clip


class Encoder:
    """Loads the model. Raises what ``load_clip`` does."""

    def __init__(self, name: str, pretrained: str, device: str = "auto") -> None:
        self._clip = load_clip(name, pretrained, device)
        self._lock = threading.Lock()
        self.dim = self._clip.dim

    def text(self, text: str) -> NDArray[np.float32]:
        """float32 [dim]."""
        with self._lock:
            row: NDArray[np.float32] = self._clip.encode_text([text])[0]
            return row

    def image(self, image: Image.Image) -> NDArray[np.float32]:
        """float32 [dim]."""
        pixels = self._clip.pixels(image)
        with self._lock:
            row: NDArray[np.float32] = self._clip.encode_image([pixels])[0]
            return row

"""Batches in pieces that fit in memory.

In: what a model is called with, and how many at a time. Out: its answers in order. Guaranteed: a piece that does not fit is tried again
at half its size, and the smaller size stays; what was answered is kept. What does not belong here: how many to begin with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from wat2mds.errors import ConfigError

log = logging.getLogger(__name__)


class Pieces:
    """For one model, ``size`` items at a time."""

    def __init__(self, model: str, device: str, size: int) -> None:
        self._model = model
        self._device = device
        self.size = size

    def of(self, answer: Callable[[Any], Any], batch: Any) -> list[Any]:
        """A batch's answers, piece by piece; of one that does not fit in memory, half at a time from then on.

        Raises ConfigError where not even one fits.
        """
        import torch

        done: list[Any] = []
        start = 0
        while start < len(batch):
            piece = batch[start : start + self.size]
            try:
                done.append(answer(piece))
                start += len(piece)
            except torch.OutOfMemoryError as error:
                if len(piece) == 1:
                    raise ConfigError(
                        f"{self._model} does not fit in the memory of {self._device} even for one image: choose a smaller "
                        f"model, filter.precision=bf16 or filter.device=cpu ({error})"
                    ) from error
                self.size = len(piece) // 2
                log.warning("filter: %d at a time do not fit in memory; from here on %d", len(piece), self.size)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return done

"""Trains one small open_clip model on one dataset.

In: a StreamingDataset, limits, a seed. Out: the model, and how many steps it was trained for. Guaranteed: CLIP's own loss, nothing that
knows which captions are right; with steps and no minutes, the same seed gives the same model. What does not belong here: measuring it.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.training.batches import CONTEXT, SIDE, epochs

if TYPE_CHECKING:
    from streaming import StreamingDataset

log = logging.getLogger(__name__)
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
WARM_UP = 0.2  # of the training
MOST_LOGIT_SCALE = 100.0  # CLIP's
# 0.6 million parameters beside the words' 3 million; a step of 64 pairs takes about 0.1 CPU seconds.
VISION: dict[str, Any] = {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32}
TEXT: dict[str, Any] = {"context_length": CONTEXT, "vocab_size": 49_408, "width": 64, "heads": 2, "layers": 2}
DIM = 96


@dataclass(frozen=True)
class Limits:
    """Training ends at the first that is reached. ``threads``: of the processor; more are quicker and, beside other work, dearer."""

    steps: int | None = None
    minutes: float | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("say how long to train: --steps, --minutes, or both")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ConfigError(f"{self.steps} steps and {self.minutes} minutes: both must be positive")


def fit(dataset: StreamingDataset, limits: Limits, seed: int, *, shuffled: bool = False) -> tuple[Any, int]:
    """A trained ``open_clip.model.CLIP`` and its steps."""
    declare_torchvision_ops()
    import torch
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    torch.set_num_threads(limits.threads)
    torch.manual_seed(seed)
    model = CLIP(DIM, VISION, TEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    loss_of = ClipLoss()
    began = time.monotonic()
    model.train()
    step = 0
    for images, texts in epochs(dataset, BATCH, seed, shuffled=shuffled):
        done = _progress(limits, step, time.monotonic() - began)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(done)
        loss = loss_of(
            model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True), model.logit_scale.exp()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(MOST_LOGIT_SCALE))
        step += 1
        if step % 50 == 0:
            log.info("step %d, loss %.3f", step, loss.item())
    return model.eval(), step


def _progress(limits: Limits, step: int, seconds: float) -> float:
    """Share of the training that is done."""
    by_step = step / limits.steps if limits.steps else 0.0
    by_time = seconds / (60 * limits.minutes) if limits.minutes else 0.0
    return max(by_step, by_time)


def _rate(done: float) -> float:
    """Of the learning rate: a rise, then a half cosine."""
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))

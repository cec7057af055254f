"""Proof by training: whether a dataset trains a CLIP, beside the unfiltered pairs of the same crawl and beside shuffled captions.

In: a published dataset, the same crawl's pairs published without filtering, held-out pictures by class. Out: the zero-shot accuracy of one
small open_clip model trained on each for the same steps, from the same seed. Guaranteed: batches come from the published MDS through
StreamingDataset; held-out pictures are never trained on; with steps and no minutes, the same seed on the same machine and packages
gives the same figures. What does not belong here: models that score samples (``models/``), and how datasets are built.

    held_out.py   pictures by class, with prompts
    batches.py    published samples as pixels and tokens
    fit.py        the model, and how it is trained
    accuracy.py   zero-shot classes, accuracy
    demo.py       the demo world enlarged, built filtered and unfiltered
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wat2mds.reading import temporary_dataset
from wat2mds.training.accuracy import accuracy
from wat2mds.training.fit import BATCH, Limits, fit
from wat2mds.training.held_out import HeldOut, read_held_out

log = logging.getLogger(__name__)
KINDS = ("filtered", "unfiltered", "shuffled")


@dataclass(frozen=True)
class Figures:
    """``accuracy`` by what was trained on (KINDS; unfiltered where there is such a dataset), ``chance``: one in as many as the classes."""

    seed: int
    accuracy: dict[str, float]
    samples: dict[str, int]
    steps: dict[str, int]
    chance: float
    pictures: int

    @property
    def ordered(self) -> bool:
        """Whether filtered pairs train better than unfiltered ones, and these better than shuffled captions."""
        found = [self.accuracy[kind] for kind in KINDS if kind in self.accuracy]
        return all(better > worse for better, worse in pairwise(found))


def check(
    filtered: str,
    unfiltered: str | None,
    held_out: Path | HeldOut,
    limits: Limits,
    seed: int = 0,
    told: Callable[[str], object] = log.info,
) -> Figures:
    """Train on each and measure. ``filtered``, ``unfiltered``: datasets' URLs, of which the newest version is taken.

    Raises ConfigError for held-out pictures that are none, DataError for a dataset without samples.
    """
    pictures = held_out if isinstance(held_out, HeldOut) else read_held_out(held_out)
    urls = {"filtered": filtered, "unfiltered": unfiltered, "shuffled": filtered}
    reached: dict[str, float] = {}
    samples: dict[str, int] = {}
    steps: dict[str, int] = {}
    for kind, url in urls.items():
        if url is None:
            continue
        options = {"shuffle": True, "shuffle_seed": seed, "batch_size": BATCH, "num_canonical_nodes": 1}
        with temporary_dataset(url, **options) as dataset:
            model, steps[kind] = fit(dataset, limits, seed, shuffled=kind == "shuffled")
            samples[kind] = len(dataset)
        reached[kind] = accuracy(model, pictures)
        told(f"{kind}: {samples[kind]:,} samples, {steps[kind]} steps, zero-shot accuracy {reached[kind]:.3f}")
    return Figures(seed, reached, samples, steps, 1 / len(pictures.prompts), len(pictures.labels))

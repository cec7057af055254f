"""Scores of samples: CLIP embeddings and similarity, heads on the embeddings, language of the caption.

Images are decoded by threads ahead of the model (Pillow releases the interpreter while it decodes), in fixed order. Embeddings are
normalised and the similarity is their dot product in float32, before they are stored as float16.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.models.clip import Clip, load_clip, model_identity
from wat2mds.models.heads import load_head
from wat2mds.models.zero_shot import load_zero_shot
from wat2mds.progress import Progress
from wat2mds.settings import FilterSettings
from wat2mds.stages.filter.languages import detect_languages
from wat2mds.stages.filter.models import COLUMNS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Columns of schema.SCORES; float16 embeddings [n, dim] in the same order."""

    columns: dict[str, Any]
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    clip_model: str


def score_samples(shards: Sequence[Path], settings: FilterSettings) -> Scores:
    """Score every sample that has an image, in the order of the shards."""
    identity = model_identity(settings.clip_model, settings.clip_pretrained)
    heads = {column: load_head(name, identity) for key, column in COLUMNS.items() if (name := getattr(settings, key))}
    clip = load_clip(settings.clip_model, settings.clip_pretrained, settings.device, settings.precision)
    tagger = load_zero_shot(clip) if settings.zero_shot else None
    uids: list[str] = []
    captions: list[str] = []
    similarity: list[np.ndarray] = []
    image_parts: list[np.ndarray] = []
    text_parts: list[np.ndarray] = []
    tags: dict[str, list[Any]] = {}
    scored: dict[str, list[np.ndarray]] = {column: [] for column in heads}
    total = sum(pq.read_table(shard, columns=["drop_reason"]).column(0).null_count for shard in shards)
    with Progress("filter", total, "samples") as progress:
        for batch_uids, batch_captions, pixels in _batches(shards, clip, settings):
            images = clip.encode_image(pixels)
            texts = clip.encode_text(batch_captions)
            uids += batch_uids
            captions += batch_captions
            similarity.append(np.einsum("nd,nd->n", images, texts, dtype=np.float32))
            for column, head in heads.items():
                scored[column].append(head.score(images))
            if tagger is not None:
                for column, values in tagger.score(images, batch_captions).items():
                    tags.setdefault(column, []).extend(values)
            image_parts.append(images.astype(np.float16))
            text_parts.append(texts.astype(np.float16))
            progress.update(len(uids))
    empty = np.zeros((0, clip.dim), np.float16)
    languages = detect_languages(captions, settings.language_candidates)
    columns: dict[str, Any] = {
        "uid": uids,
        "language": [code for code, _ in languages],
        "language_probability": [probability for _, probability in languages],
        "similarity": np.concatenate(similarity) if similarity else [],
        "clip_model": [clip.identity] * len(uids),
    }
    columns |= {column: np.concatenate(parts) if parts else [] for column, parts in scored.items()}
    columns |= tags
    return Scores(
        columns,
        np.concatenate(image_parts) if image_parts else empty,
        np.concatenate(text_parts) if text_parts else empty,
        clip.identity,
    )


def _batches(shards: Sequence[Path], clip: Clip, settings: FilterSettings) -> Iterator[tuple[list[str], list[str], Any]]:
    """(uids, captions, pixels) of up to ``batch_size`` samples; the next batch is decoded while this one is scored."""
    import torch

    workers = settings.workers if settings.workers is not None else os.cpu_count() or 1

    def decode(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            return clip.preprocess(image.convert("RGB"))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: tuple[list[str], list[str], Any] | None = None
        for uids, captions, images in _rows(shards, settings.batch_size):
            following = (uids, captions, [pool.submit(decode, data) for data in images])
            if waiting is not None:
                yield waiting[0], waiting[1], torch.stack([future.result() for future in waiting[2]])
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1], torch.stack([future.result() for future in waiting[2]])


def _rows(shards: Sequence[Path], size: int) -> Iterator[tuple[list[str], list[str], list[bytes]]]:
    """Samples with an image, ``size`` at a time; batches do not cross shards."""
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=size, columns=["uid", "caption", "drop_reason", "jpg"]):
                kept = batch.filter(pc.and_(pc.is_null(batch.column("drop_reason")), pc.is_valid(batch.column("jpg"))))
                if len(kept):
                    yield tuple(kept.column(name).to_pylist() for name in ("uid", "caption", "jpg"))

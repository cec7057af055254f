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

from wat2mds.errors import ConfigError, nearest
from wat2mds.models.clip import Clip, load_clip, model_identity
from wat2mds.models.heads import load_head
from wat2mds.progress import Progress
from wat2mds.settings import FilterSettings

log = logging.getLogger(__name__)
_HEADS = {"punsafe": "safety_head", "pwatermark": "watermark_head", "aesthetic": "aesthetic_head"}


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
    heads = {column: load_head(name, identity) for column, key in _HEADS.items() if (name := getattr(settings, key))}
    clip = load_clip(settings.clip_model, settings.clip_pretrained, settings.device, settings.precision)
    uids: list[str] = []
    captions: list[str] = []
    similarity: list[np.ndarray] = []
    image_parts: list[np.ndarray] = []
    text_parts: list[np.ndarray] = []
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
                kept = batch.filter(pc.is_null(batch.column("drop_reason")))
                if len(kept):
                    yield tuple(kept.column(name).to_pylist() for name in ("uid", "caption", "jpg"))


def detect_languages(captions: Sequence[str], candidates: Sequence[str] | None) -> list[tuple[str | None, float | None]]:
    """ISO 639-1 code and probability of each caption by lingua in high-accuracy mode; (None, None) where it finds none.

    Raises ConfigError for a candidate that lingua does not know.
    """
    from lingua import IsoCode639_1, Language, LanguageDetectorBuilder

    if not captions:
        return []
    if candidates is None:
        builder = LanguageDetectorBuilder.from_all_languages()
    else:
        known = {language.iso_code_639_1.name.lower(): language.iso_code_639_1 for language in Language.all()}
        for code in candidates:
            if code not in known:
                raise ConfigError(f"filter.language_candidates: lingua knows no language {code!r}.{nearest(code, known)}")
        codes: list[IsoCode639_1] = [known[code] for code in candidates]
        builder = LanguageDetectorBuilder.from_iso_codes_639_1(*codes)
    found = builder.build().compute_language_confidence_values_in_parallel(list(captions))
    result: list[tuple[str | None, float | None]] = []
    for values in found:
        best = values[0] if values and values[0].value > 0 else None
        result.append((best.language.iso_code_639_1.name.lower(), float(best.value)) if best else (None, None))
    return result

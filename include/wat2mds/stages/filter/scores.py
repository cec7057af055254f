"""Scores of samples: CLIP embeddings and similarity, heads and tags on the embeddings, language of the caption.

In: one of download's tables at a time. Out: its scores and embeddings. Guaranteed: the rows of a table depend on that table alone; images
are decoded by threads ahead of the model (Pillow releases the interpreter while it decodes), in fixed order; embeddings are normalised
and the similarity is their dot product in float32, before they are stored as float16; a batch that does not fit in memory is halved,
and so are those after it. What does not belong here: where chunks are kept (``chunks``), what is kept or dropped (``decisions``).
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.errors import ConfigError
from wat2mds.models.clip import Clip, load_clip, model_identity
from wat2mds.models.heads import load_head
from wat2mds.models.zero_shot import load_zero_shot
from wat2mds.schema import SCORES, table_of
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.languages import detect_languages
from wat2mds.stages.filter.models import COLUMNS

log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """Rows in the schema SCORES; float16 embeddings [n, dim] in the same order."""

    table: pa.Table
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray


class Scorer:
    """The models, loaded once. A context manager; raises ConfigError for models or heads that do not fit together."""

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings
        identity = model_identity(settings.clip_model, settings.clip_pretrained)
        self._heads = {column: load_head(name, identity) for key, column in COLUMNS.items() if (name := getattr(settings, key))}
        self.clip = load_clip(settings.clip_model, settings.clip_pretrained, settings.device, settings.precision)
        self._tagger = load_zero_shot(self.clip) if settings.zero_shot else None
        self.batch_size = settings.batch_size
        workers = settings.workers if settings.workers is not None else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(max(1, workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def score(self, shard: Path) -> Scores:
        """Score every sample of one of download's tables that has an image, in its order."""
        columns: dict[str, list[Any]] = {"uid": [], "similarity": []}
        captions: list[str] = []
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for batch_uids, batch_captions, pixels in self._batches(shard):
            images = self._in_pieces(self.clip.encode_image, pixels)
            texts = self._in_pieces(self.clip.encode_text, self.clip.tokenize(batch_captions))
            captions += batch_captions
            columns["uid"] += batch_uids
            columns["similarity"].extend(np.einsum("nd,nd->n", images, texts, dtype=np.float32))
            for column, head in self._heads.items():
                columns.setdefault(column, []).extend(head.score(images))
            if self._tagger is not None:
                for column, values in self._tagger.score(images, batch_captions).items():
                    columns.setdefault(column, []).extend(values)
            for part, rows in zip(parts, (images, texts), strict=True):
                part.append(rows.astype(np.float16))
        languages = detect_languages(captions, self._settings.language_candidates)
        columns["language"] = [code for code, _ in languages]
        columns["language_probability"] = [probability for _, probability in languages]
        columns["clip_model"] = [self.clip.identity] * len(captions)
        empty = np.zeros((0, self.clip.dim), np.float16)
        return Scores(table_of(SCORES, columns), *(np.concatenate([empty, *part]) for part in parts))

    def _in_pieces(self, encode: Callable[[Any], np.ndarray], batch: Any) -> np.ndarray:
        """A batch's embeddings, in pieces of ``batch_size``; of one that does not fit in memory, half at a time from then on.

        Raises ConfigError where not even one fits.
        """
        import torch

        done: list[np.ndarray] = []
        start = 0
        while start < len(batch):
            piece = batch[start : start + self.batch_size]
            try:
                done.append(encode(piece))
                start += len(piece)
            except torch.OutOfMemoryError as error:
                if len(piece) == 1:
                    raise ConfigError(
                        f"{self.clip.name} does not fit in the memory of {self.clip.device} even for one image: choose a smaller "
                        f"model, filter.precision=bf16 or filter.device=cpu ({error})"
                    ) from error
                self.batch_size = len(piece) // 2
                log.warning("filter: %d at a time do not fit in memory; from here on %d", len(piece), self.batch_size)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return np.concatenate(done)

    def _batches(self, shard: Path) -> Iterator[tuple[list[str], list[str], Any]]:
        """(uids, captions, pixels) of up to ``filter.batch_size`` samples; the next batch is decoded while this one is scored."""
        import torch

        waiting: tuple[list[str], list[str], Any] | None = None
        for uids, captions, images in _rows(shard, self._settings.batch_size):
            following = (uids, captions, [self._pool.submit(_decode, self.clip, data) for data in images])
            if waiting is not None:
                yield waiting[0], waiting[1], torch.stack([future.result() for future in waiting[2]])
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1], torch.stack([future.result() for future in waiting[2]])


def _decode(clip: Clip, data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return clip.preprocess(image.convert("RGB"))


def _rows(shard: Path, size: int) -> Iterator[tuple[list[str], list[str], list[bytes]]]:
    """Samples with an image, ``size`` at a time."""
    with pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(batch_size=size, columns=["uid", "caption", "drop_reason", "jpg"]):
            kept = batch.filter(pc.and_(pc.is_null(batch.column("drop_reason")), pc.is_valid(batch.column("jpg"))))
            if len(kept):
                yield tuple(kept.column(name).to_pylist() for name in ("uid", "caption", "jpg"))

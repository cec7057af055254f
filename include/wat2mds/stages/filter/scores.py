"""Scores of samples: CLIP embeddings and similarity, heads and tags on the embeddings, language of the caption.

In: download's tables. Out: the scores and embeddings of each. Guaranteed: the rows of a table depend on that table alone; each image is
read once, and decoded by threads ahead of the model (Pillow releases the interpreter while it decodes and resizes), also those of the
next table, in fixed order; captions are embedded in order of length, so that little is spent on padding; embeddings are normalised
and the similarity is their dot product in float32, before they are stored as float16; a batch that does not fit in memory is halved,
and so are those after it. What does not belong here: where chunks are kept (``chunks``), what is kept or dropped (``decisions``).
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.models.clip import Clip, load_clip, model_identity
from wat2mds.models.heads import load_head
from wat2mds.models.image_models import is_image_model
from wat2mds.models.zero_shot import load_zero_shot
from wat2mds.schema import SCORES, table_of
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.languages import detect_languages
from wat2mds.stages.filter.models import COLUMNS
from wat2mds.stages.filter.pieces import Pieces
from wat2mds.stages.filter.words import WordLists

T = TypeVar("T")
# Batches that are read and decoded before they are asked for.
AHEAD = 3
# Images at a time where filter.batch_size is empty. A CPU gains nothing above 32 (measured: 32 and 64 alike, 16 a tenth slower). A GPU
# takes clip-retrieval's number, or the largest power of two below it that half of its free memory holds.
CPU_BATCH, GPU_BATCH = 64, 256


class Scores(NamedTuple):
    """Rows in the schema SCORES; float16 embeddings [n, dim] in the same order. ``others``: image and text embeddings of the model for
    other languages, of its rows alone; None where there is no such model."""

    table: pa.Table
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    others: tuple[np.ndarray, np.ndarray] | None = None


class _Batch(NamedTuple):
    """A batch of samples; pixels uint8 [n, height, width, 3] to be."""

    uids: list[str]
    pixels: Future[Any]


class _Captions(NamedTuple):
    """The captions of a table, after its last batch: texts, tokens and languages to be."""

    table: Path
    texts: list[str]
    tokens: Future[Any]
    languages: Future[list[tuple[str | None, float | None]]]


class Scorer:
    """The models, loaded once. A context manager; raises ConfigError for models or heads that do not fit together."""

    def __init__(self, settings: FilterSettings) -> None:
        self._settings = settings
        identity = model_identity(settings.clip_model, settings.clip_pretrained)
        named = {column: name for key, column in COLUMNS.items() if (name := getattr(settings, key)) and not is_image_model(name)}
        self._heads = {column: load_head(name, identity) for column, name in named.items()}
        self.clip = load_clip(settings.clip_model, settings.clip_pretrained, settings.device, settings.precision)
        self._tagger = load_zero_shot(self.clip) if settings.zero_shot else None
        self._words = WordLists(settings.word_lists) if settings.word_lists else None
        self._on_gpu = self.clip.device.startswith("cuda")
        size = settings.batch_size or (_fitting(self.clip) if self._on_gpu else CPU_BATCH)
        self._pieces = Pieces(self.clip.name, self.clip.device, size)
        workers = settings.workers if settings.workers is not None else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(max(1, workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def score(self, tables: Iterable[Path]) -> Iterator[tuple[Path, Scores]]:
        """Score every sample that has an image, in the order of download's tables, which are read ahead; each with its table."""
        # The size of what is read stays, whatever fits in memory: the rows of a batch decide the last bits of its scores.
        uids: list[str] = []
        images: list[Any] = []
        for read in _ahead(self._read(tables, self._pieces.size), AHEAD):
            if isinstance(read, _Batch):
                uids += read.uids
                images += self._pieces.of(self.clip.image_rows, read.pixels.result())
            else:
                yield read.table, self._finish(uids, images, read)
                uids, images = [], []

    def _finish(self, uids: list[str], rows: list[Any], captions: _Captions) -> Scores:
        """A table's scores, when its images are embedded: rows float32, still on the model's device."""
        if not uids:
            none = np.zeros((0, self.clip.dim), np.float16)
            return Scores(SCORES.schema.empty_table(), none, none)
        texts = self._embed_texts(captions.tokens.result())
        images = np.concatenate([part.cpu().numpy() for part in rows])
        columns: dict[str, Any] = {"uid": uids, "similarity": np.einsum("nd,nd->n", images, texts, dtype=np.float32)}
        columns |= {column: head.score(images) for column, head in self._heads.items()}
        if self._tagger is not None:
            columns |= self._tagger.score(images, captions.texts)
        columns["language"] = [code for code, _ in captions.languages.result()]
        if self._words is not None:
            columns["listed_word"] = self._words.flags(captions.texts, columns["language"])
        columns["language_probability"] = [probability for _, probability in captions.languages.result()]
        columns["clip_model"] = [self.clip.identity] * len(uids)
        return Scores(table_of(SCORES, columns), images.astype(np.float16), texts.astype(np.float16))

    def _embed_texts(self, tokens: Any) -> np.ndarray:
        """float32 [n, dim], each of length one, in the tokens' order."""
        import torch

        order = torch.argsort(self.clip.token_lengths(tokens), stable=True)
        rows = torch.cat(self._pieces.of(self.clip.text_rows, tokens[order])).cpu().numpy()
        texts = np.empty_like(rows)
        texts[order.numpy()] = rows
        return texts

    def _read(self, tables: Iterable[Path], size: int) -> Iterator[_Batch | _Captions]:
        """The samples of each table, up to ``size`` at a time, then their captions; decoded, tokenized and detected in the pool."""
        for table in tables:
            captions: list[str] = []
            for uids, texts, images in _rows(table, size):
                captions += texts
                decoded = [self._pool.submit(_decode, self.clip, data) for data in images]
                # It waits for those above, which the pool begins before it.
                yield _Batch(uids, self._pool.submit(self._stack, decoded))
            tokens = self._pool.submit(self.clip.tokenize, captions)
            yield _Captions(
                table, captions, tokens, self._pool.submit(detect_languages, captions, self._settings.language_candidates)
            )

    def _stack(self, decoded: list[Future[np.ndarray]]) -> Any:
        import torch

        batch = torch.from_numpy(np.stack([future.result() for future in decoded]))
        return batch.pin_memory() if self._on_gpu else batch


def _fitting(clip: Clip) -> int:
    """How many images at a time half of the GPU's free memory holds: a power of two, GPU_BATCH at most."""
    import torch

    few = 8
    before = torch.cuda.memory_allocated(clip.device)
    torch.cuda.reset_peak_memory_stats(clip.device)
    clip.encode_image([clip.pixels(Image.new("RGB", (256, 256)))] * few)
    each = max(1, (torch.cuda.max_memory_allocated(clip.device) - before) // few)
    free, _ = torch.cuda.mem_get_info(clip.device)
    most = max(1, min(GPU_BATCH, free // 2 // each))
    return int(2 ** (most.bit_length() - 1))


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The items, which another thread asks for, up to ``count`` before they are asked for here."""
    end: Any = object()
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(reader.submit(next, items, end))
            yield item


def _decode(clip: Clip, data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return clip.pixels(image)


def _rows(shard: Path, size: int) -> Iterator[tuple[list[str], list[str], list[bytes]]]:
    """Samples with an image, ``size`` at a time."""
    with pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(batch_size=size, columns=["uid", "caption", "drop_reason", "jpg"]):
            kept = batch.filter(pc.and_(pc.is_null(batch.column("drop_reason")), pc.is_valid(batch.column("jpg"))))
            if len(kept):
                yield tuple(kept.column(name).to_pylist() for name in ("uid", "caption", "jpg"))

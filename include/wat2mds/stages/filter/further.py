"""Further models on a table that the first one scored: the CLIP model for captions that are not in English, image models on pixels.

In: one of download's tables and its scores. Out: the same scores, of which some rows are another model's. Guaranteed: a caption that is
reliably English keeps the first model's similarity; every other one has the second's, which ``clip_model`` names, as the decision then
compares it with ``min_similarity_other``; the first model's embeddings, and what is computed from them, stay those of all rows. Where
there is no further model nothing is read. What does not belong here: the first model (``scores.py``).

The images of the rows concerned are read and decoded once more for each: every model has a preprocessing of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.models.clip import device_of, load_clip
from wat2mds.models.image_models import ImageModel, is_image_model, load_image_model
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.models import COLUMNS
from wat2mds.stages.filter.pieces import Pieces
from wat2mds.stages.filter.scores import Scores

ENGLISH = "en"
_BATCH = 32


class Further:
    """The further models of these settings, loaded once. Raises ConfigError for one that does not load."""

    def __init__(self, given: FilterSettings) -> None:
        self._given = given
        name = given.clip_model_other
        self.clip = load_clip(name, given.clip_pretrained_other, given.device, given.precision) if name else None
        named = {column: head for key, column in COLUMNS.items() if (head := getattr(given, key)) and is_image_model(head)}
        self.image_models = {column: load_image_model(head, device_of(given.device)) for column, head in named.items()}

    def add(self, table: Path, scores: Scores) -> Scores:
        """The scores of a table with those of the further models in them."""
        for column, model in self.image_models.items():
            scores = self._on_pixels(table, scores, column, model)
        if self.clip is None:
            return scores
        rows = np.flatnonzero(~english(scores.table, self._given))
        return self._rescored(table, scores, rows)

    def _on_pixels(self, table: Path, scores: Scores, column: str, model: ImageModel) -> Scores:
        parts: list[np.ndarray] = [np.zeros(0, np.float32)]
        pieces = Pieces(f"the image model of {column}", model.device, _BATCH)
        with ThreadPoolExecutor(max(1, self._given.workers or 2)) as pool:
            for _, images in _samples(table, scores.table["uid"].combine_chunks()):
                parts += pieces.of(model.score, list(pool.map(lambda data: model.prepared(_opened(data)), images)))
        return scores._replace(table=_with(scores.table, {column: pa.array(np.concatenate(parts), pa.float32())}))

    def _rescored(self, table: Path, scores: Scores, rows: np.ndarray) -> Scores:
        assert self.clip is not None
        clip = self.clip
        wanted = scores.table["uid"].take(pa.array(rows)).combine_chunks()
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        pieces = Pieces(clip.name, clip.device, _BATCH)
        with ThreadPoolExecutor(max(1, self._given.workers or 2)) as pool:
            for captions, images in _samples(table, wanted):
                pixels = list(pool.map(lambda data: clip.pixels(_opened(data)), images))
                parts[0].extend(pieces.of(clip.encode_image, pixels))
                parts[1].extend(pieces.of(clip.encode_text, captions))
        none = np.zeros((0, clip.dim), np.float32)
        image, text = (np.concatenate([none, *part]) for part in parts)
        similarity = np.array(scores.table["similarity"].to_numpy())
        similarity[rows] = np.einsum("nd,nd->n", image, text, dtype=np.float32)
        named = np.array(scores.table["clip_model"].to_pylist(), dtype=object)
        named[rows] = clip.identity
        columns = {"similarity": pa.array(similarity, pa.float32()), "clip_model": pa.array(named, pa.string())}
        return scores._replace(table=_with(scores.table, columns), others=(image.astype(np.float16), text.astype(np.float16)))


def english(scores: pa.Table, given: FilterSettings) -> np.ndarray:
    """bool a row: the caption's language is English, as surely as decisions ask for."""
    sure = pc.greater_equal(scores["language_probability"].cast(pa.float64()), given.min_language_probability)
    found = pc.fill_null(pc.and_(pc.equal(scores["language"], ENGLISH), sure), False)
    return np.array(found.to_pylist(), dtype=bool)


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for column, values in columns.items():
        table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
    return table


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _samples(table: Path, wanted: pa.Array) -> Iterator[tuple[list[str], list[bytes]]]:
    """Captions and images of these uids, in the table's order, which is that of its scores."""
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(batch_size=_BATCH, columns=["uid", "caption", "drop_reason", "jpg"]):
            there = pc.and_(pc.is_null(batch.column("drop_reason")), pc.is_valid(batch.column("jpg")))
            kept = batch.filter(pc.and_(there, pc.is_in(batch.column("uid"), value_set=wanted)))
            if len(kept):
                yield kept.column("caption").to_pylist(), kept.column("jpg").to_pylist()

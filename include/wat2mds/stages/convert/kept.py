"""The kept samples of a WAT file, joined from the tables of dedup, download and filter, in the order of the unique pairs.

In: the manifests of download and filter. Out: ``Kept``. Guaranteed: one row a kept sample, each with its pair, its scores and its
image; a sample that is kept but lacks one of them is a DataError. Images pass through one scratch file, since download stores
them in an order that spreads hosts: memory holds one row group of them. What does not belong here: MDS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from wat2mds.errors import DataError
from wat2mds.lineage import parent
from wat2mds.manifest import Manifest
from wat2mds.schema import METADATA, PAIRS, SAMPLES, SCORES
from wat2mds.settings import PAIR_STAGES

# Rows of samples in memory at once; with images of 20 KB each about 5 MB.
_ROWS = 256
_SAMPLE_COLUMNS = [name for name in SAMPLES.names() if name == "key" or name in METADATA.names()]


@dataclass(frozen=True)
class Images:
    """Encoded images, one after another in a scratch file; ``hashes`` are of the bytes as they came from the input."""

    path: Path
    offsets: np.ndarray
    hashes: list[bytes]

    def read(self, positions: np.ndarray) -> Iterator[bytes]:
        """The images at these positions, in this order. Read, not mapped: mapped pages count as the process's memory."""
        with self.path.open("rb") as file:
            for position in positions:
                start, end = self.offsets[position], self.offsets[position + 1]
                yield os.pread(file.fileno(), end - start, start)


@dataclass(frozen=True)
class Kept:
    """Kept samples: ``table`` holds the METADATA columns (but shard and shard_row) and ``key``."""

    table: pa.Table
    scores: Manifest
    score_rows: np.ndarray
    stored: Images
    image_rows: np.ndarray
    folder: Path

    def images(self) -> Iterator[bytes]:
        """One image a row, in the table's order."""
        return self.stored.read(self.image_rows)

    def image_sizes(self) -> np.ndarray:
        """Bytes of each."""
        offsets = self.stored.offsets
        return np.asarray(offsets[self.image_rows + 1] - offsets[self.image_rows])

    def image_hashes(self) -> list[bytes]:
        return [self.stored.hashes[row] for row in self.image_rows]

    def embeddings(self, name: str) -> np.ndarray:
        """``img_emb`` or ``text_emb`` of the kept rows, float16, in the table's order."""
        return self._embeddings(name, self.score_rows)

    @cached_property
    def other_rows(self) -> np.ndarray:
        """Which rows of the table the model for other languages scored; none where there is no such model."""
        model = self.scores.extra.get("clip_model_other")
        return np.flatnonzero([model is not None and name == model for name in self.table["clip_model"].to_pylist()])

    def other_embeddings(self, name: str) -> np.ndarray:
        """``img_emb_other`` or ``text_emb_other`` of ``other_rows``, float16: the stored files hold that model's rows alone."""
        models = pq.read_table(self.scores.fetch("scores.parquet", self.folder), columns=["clip_model"])["clip_model"].to_pylist()
        theirs = np.cumsum([model == self.scores.extra["clip_model_other"] for model in models]) - 1
        return self._embeddings(name, theirs[self.score_rows[self.other_rows]])

    def _embeddings(self, name: str, rows: np.ndarray) -> np.ndarray:
        path = self.scores.fetch(f"{name}.npy", self.folder)
        everything = np.load(path, mmap_mode="r", allow_pickle=False)
        if len(everything) <= rows.max(initial=-1):
            raise DataError(f"{self.scores.file(f'{name}.npy')} holds {len(everything)} rows, fewer than the scores")
        return np.ascontiguousarray(everything[rows], dtype=np.float16)


def image_hash(data: bytes | memoryview) -> bytes:
    """Tells images apart; not against an adversary."""
    return xxhash.xxh3_128_digest(data)


def read_kept(samples: Manifest, decisions: Manifest, folder: Path) -> Kept:
    """Join what was kept; scratch files go to ``folder``."""
    scores = parent(decisions, "filter")
    unique = pq.read_table(parent(samples, PAIR_STAGES).fetch("unique.parquet", folder), columns=PAIRS.names())
    decided = pq.read_table(decisions.fetch("decisions.parquet", folder), columns=["uid", "drop_reason", "language"])
    wanted = decided.filter(pc.is_null(decided["drop_reason"]))["uid"].combine_chunks()
    pairs = unique.filter(pc.is_in(unique["uid"], value_set=wanted))
    if pairs.num_rows != len(wanted):
        raise DataError(
            f"{decisions.url} keeps {len(wanted)} samples, but unique.parquet has {pairs.num_rows} pairs of these uids"
        )
    order = pairs["uid"].combine_chunks()

    scored = pq.read_table(scores.fetch("scores.parquet", folder), columns=SCORES.names())
    score_rows = _rows_of(order, scored["uid"], f"scores of {scores.url}")
    fetched, images = _collect_images(samples, wanted, folder)
    image_rows = _rows_of(order, fetched["uid"], f"samples of {samples.url}")

    columns = {name: pairs[name] for name in PAIRS.names()}
    scored, fetched = scored.take(score_rows), fetched.take(image_rows)
    columns |= {name: scored[name] for name in SCORES.names() if name not in SAMPLES.names()}
    columns["phash_group"] = pa.nulls(len(order), pa.string())  # known when the WAT file is published
    # The published language is the one decided on: none where the detector was less sure than the profile asks.
    columns["language"] = decided.take(_rows_of(order, decided["uid"], f"decisions of {decisions.url}"))["language"]
    columns |= {name: fetched[name] for name in _SAMPLE_COLUMNS if name not in columns}
    return Kept(pa.table(columns).combine_chunks(), scores, score_rows, images, image_rows, folder)


def _rows_of(order: pa.Array, uids: pa.ChunkedArray, where: str) -> np.ndarray:
    """For each uid its row. Raises DataError for one that is not there, or there twice."""
    found = uids.combine_chunks()
    if len(found) != pc.count_distinct(found).as_py():
        raise DataError(f"the {where} hold a uid twice")
    rows = pc.index_in(order, value_set=found)
    if rows.null_count:
        lost = order.filter(pc.is_null(rows))
        raise DataError(f"{len(lost)} kept samples are not among the {where}, e.g. {lost[0]}")
    return np.asarray(rows.to_numpy(zero_copy_only=False), dtype=np.int64)


def _collect_images(samples: Manifest, wanted: pa.Array, folder: Path) -> tuple[pa.Table, Images]:
    """The samples' columns but the image, and the images in one scratch file, in the same order."""
    schema = pa.schema([SAMPLES.schema.field(name) for name in _SAMPLE_COLUMNS])
    batches: list[pa.RecordBatch] = []
    lengths: list[int] = [0]
    hashes: list[bytes] = []
    path = folder / "images"
    with path.open("wb") as spool:
        for name in samples.matching(".parquet"):
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                file = pq.ParquetFile(samples.fetch(name, Path(temporary)))
                for batch in file.iter_batches(_ROWS, columns=[*_SAMPLE_COLUMNS, "jpg"]):
                    batch = batch.filter(pc.is_in(batch["uid"], value_set=wanted))
                    if batch["jpg"].null_count:
                        without = batch["uid"].filter(pc.is_null(batch["jpg"]))
                        raise DataError(f"{samples.file(name)}: {without[0]} is kept but has no image")
                    for image in batch["jpg"]:
                        data = image.as_buffer()
                        spool.write(data)
                        lengths.append(data.size)
                        hashes.append(image_hash(memoryview(data)))
                    batches.append(batch.select(_SAMPLE_COLUMNS))
                file.close()
    table = pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()
    return table, Images(path, np.cumsum(lengths, dtype=np.int64), hashes)

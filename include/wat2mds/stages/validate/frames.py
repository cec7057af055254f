"""The tables of one WAT file as data frames, with what is computed again from other columns beside them.

In: the manifests of dedup, download and filter. Out: ``Tables`` and the counts that must agree. Guaranteed: every row is looked at, images
only of a sample chosen by uid (a hash, hence at random, and the same each time); a frame is made when it is asked for, of the columns
that are looked at, so that memory holds one at a time. What does not belong here: what is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.drops import IMAGE_DELETED
from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Manifest
from wat2mds.schema import DECISIONS, PAIRS, SAMPLES, SCORES
from wat2mds.settings import Settings
from wat2mds.stages.validate import looks
from wat2mds.stages.validate.decided import with_decided_on

_EMBEDDING_ROWS = 8192
_PAIR_COLUMNS = [
    *("uid", "laion_hash", "url", "url_normalized", "caption", "snapshot", "segment", "wat_file", "license", "license_type"),
]
_SAMPLE_COLUMNS = {
    *("uid", "key", "status", "drop_reason", "width", "height", "original_width", "original_height", "original_bytes", "mime"),
    *("md5", "sha1", "sha256", "pdq", "pdq_quality", "fetched_at"),
}
_SCORE_COLUMNS = [
    *(
        "uid",
        "language",
        "language_probability",
        "similarity",
        "clip_model",
        "nsfw",
        "punsafe",
        "pwatermark",
        "toxicity",
        "aesthetic",
    ),
]
# Of scores, what only decisions on kept rows look at.
_DECIDED_ON = ["underage", "animal", "child_word", "listed_word", "copies_urls", "copies_hosts"]


@dataclass(frozen=True)
class Files:
    """Local paths of one WAT file's tables."""

    pairs: Path
    samples: list[Path]
    scores: Path
    decisions: Path
    image_embeddings: Path
    text_embeddings: Path
    others: tuple[str, Path, Path] | None = None
    """The model for other languages, where there is one, and the image and text embeddings of its rows."""


def fetch(pairs: Manifest, samples: Manifest, scores: Manifest, decisions: Manifest, folder: Path) -> Files:
    model = scores.extra.get("clip_model_other")
    return Files(
        pairs=pairs.fetch("unique.parquet", folder),
        samples=[samples.fetch(name, folder) for name in samples.matching(".parquet")],
        scores=scores.fetch("scores.parquet", folder),
        decisions=decisions.fetch("decisions.parquet", folder),
        image_embeddings=scores.fetch("img_emb.npy", folder),
        text_embeddings=scores.fetch("text_emb.npy", folder),
        others=(model, scores.fetch("img_emb_other.npy", folder), scores.fetch("text_emb_other.npy", folder)) if model else None,
    )


def schemas(files: Files) -> pd.DataFrame:
    """One row a column of each table: its type as found and as the schema has it."""
    rows = []
    stated = [("pairs", files.pairs, PAIRS), ("scores", files.scores, SCORES), ("decisions", files.decisions, DECISIONS)]
    stated += [(f"samples/{path.name}", path, SAMPLES) for path in files.samples]
    for name, path, table in stated:
        found = {field.name: _type(field) for field in pq.read_schema(path)}
        expected = {field.name: _type(field) for field in table.schema}
        for column in sorted(found.keys() | expected.keys()):
            rows.append((f"{name}.{column}", found.get(column, "absent"), expected.get(column, "absent")))
    return pd.DataFrame(rows, columns=["column", "found", "expected"])


def _type(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


class Tables:
    """``images`` are the samples with an image, ``looked_at`` those of them whose bytes were decoded, ``kept`` the rows that will be
    published."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self.files = files
        self.settings = settings
        image, text = self._embeddings
        self.embedding_rows = (len(image), len(text))
        self.pair_uids: pa.Array = _column(files.pairs, "uid")
        self.score_uids: pa.Array = _column(files.scores, "uid")
        self.decided: pa.Table = pq.read_table(files.decisions, columns=["uid", "drop_reason"])
        self.kept_count = self.decided["drop_reason"].null_count
        # On a block list: fetched well, then the image was deleted.
        self.blocked: pa.ChunkedArray = self.decided.filter(_is_blocked(self.decided))["uid"]

    @cached_property
    def all_samples(self) -> pa.Table:
        """Without images; ``has_image`` says where there is one."""
        columns = [name for name in SAMPLES.names() if name in _SAMPLE_COLUMNS]
        parts = [_without_images(path, columns) for path in self.files.samples]
        return pa.concat_tables(parts) if parts else _no_samples(columns)

    @cached_property
    def image_count(self) -> int:
        return pc.sum(self.all_samples["has_image"]).as_py() or 0

    def pairs(self) -> pd.DataFrame:
        pairs = _frame(pq.read_table(self.files.pairs, columns=_PAIR_COLUMNS))
        pairs["uid_computed"] = [uid(u, c) for u, c in zip(pairs["url_normalized"], pairs["caption"], strict=True)]
        pairs["laion_hash_computed"] = [laion_hash(u, c) for u, c in zip(pairs["url"], pairs["caption"], strict=True)]
        return pairs

    def samples(self) -> pd.DataFrame:
        samples = _frame(self.all_samples.select(["uid", "key", "status", "drop_reason", "has_image"]))
        succeeded = samples["status"] == "success"
        with_image = succeeded & ~(samples["uid"].isin(self.blocked.to_pylist()) & ~samples["has_image"])
        samples["consistent"] = (succeeded == samples["drop_reason"].isna()) & (with_image == samples["has_image"])
        return samples

    def images(self) -> pd.DataFrame:
        # Filtered before it becomes a frame, where a column of integers stays one only without nulls.
        return _frame(self._images.drop_columns(["key", "status", "drop_reason", "has_image"]))

    @property
    def _images(self) -> pa.Table:
        return self.all_samples.filter(self.all_samples["has_image"])

    def looked_at(self) -> pd.DataFrame:
        return looks.look_at(self.files.samples, self._images, self.settings)

    def scores(self) -> pd.DataFrame:
        scores = _frame(pq.read_table(self.files.scores, columns=_SCORE_COLUMNS))
        scores["image_norm"], scores["text_norm"], scores["cosine"] = _geometry(*self._embeddings, len(scores))
        if self.files.others is not None:
            model, *paths = self.files.others
            theirs = (scores["clip_model"] == model).to_numpy()
            image, text = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
            for column, values in zip(
                ("image_norm", "text_norm", "cosine"), _geometry(image, text, int(theirs.sum())), strict=True
            ):
                scores.loc[theirs, column] = values
        scores["similarity_error"] = (scores["similarity"] - scores["cosine"]).abs()
        return scores

    def decisions(self) -> pd.DataFrame:
        return _frame(pq.read_table(self.files.decisions))

    def kept(self) -> pd.DataFrame:
        decisions = self.decisions()
        columns = [name for name in _SCORE_COLUMNS if name != "language"] + _DECIDED_ON
        scores = _frame(pq.read_table(self.files.scores, columns=columns))
        kept = decisions[decisions["drop_reason"].isna()].merge(scores, on="uid", how="left")
        filters = self.settings.filter
        kept["threshold"] = np.where(kept["language"] == "en", filters.min_similarity, filters.min_similarity_other)
        kept["above_threshold"] = kept["similarity"] - kept["threshold"]
        return with_decided_on(kept, self.all_samples, pq.read_table(self.files.pairs, columns=["uid", "caption"]), filters)

    @property
    def _embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """Mapped: whoever reads rows of them does it by ``_rows``."""
        paths = (self.files.image_embeddings, self.files.text_embeddings)
        image, text = (np.load(path, mmap_mode="r", allow_pickle=False) for path in paths)
        return image, text


def counts(tables: Tables, flows: Sequence[Flow]) -> pd.DataFrame:
    """Numbers that must agree, by name. What is on a block list has no image; it has a score only if it was listed afterwards."""
    pairs, samples, scores = len(tables.pair_uids), tables.all_samples.num_rows, len(tables.score_uids)
    left, image_uids = tables.image_count, tables._images["uid"]
    images = left + len(tables.blocked)
    scored = tables.score_uids.filter(pc.invert(pc.is_in(tables.score_uids, value_set=pc.unique(tables.blocked))))
    rows = [
        ("samples: one a pair", samples, pairs),
        ("samples: of the pairs' uids", _shared(tables.all_samples["uid"], tables.pair_uids), pairs),
        ("scores: one a sample with an image", len(scored), left),
        ("scores: of the images' uids", _shared(scored, image_uids), left),
        ("blocked: no image is left", _shared(tables.blocked, image_uids), 0),
        ("decisions: one a score, in the same order", _in_order(tables.decided, tables.score_uids), scores),
        ("embeddings: image rows", tables.embedding_rows[0], scores),
        ("embeddings: text rows", tables.embedding_rows[1], scores),
    ]
    for flow in flows:
        label = f"flow {flow.source} to {flow.target}"
        rows.append((f"{label}: reconciles", flow.left + sum(flow.drops.values()), flow.entered))
        if flow.target == "samples":
            rows += [(f"{label}: images", flow.left, images), (f"{label}: pairs", flow.entered, pairs)]
            rows += _reasons(label, flow, tables.all_samples["drop_reason"])
        if flow.target == "kept":
            rows += [(f"{label}: kept", flow.left, tables.kept_count), (f"{label}: samples", flow.entered, images)]
            rows += _reasons(label, flow, tables.decided["drop_reason"])
    return pd.DataFrame(rows, columns=["what", "found", "expected"])


def _reasons(label: str, flow: Flow, column: pa.Array | pa.ChunkedArray) -> list[tuple[str, int, int]]:
    """That a flow drops as many for each reason as the table does."""
    found = {str(entry["values"]): entry["counts"] for entry in pc.value_counts(pc.drop_null(column)).to_pylist()}
    reasons = sorted({*flow.drops, *found})
    return [(f"{label}: {reason}", flow.drops.get(reason, 0), found.get(reason, 0)) for reason in reasons]


def _shared(one: pa.Array | pa.ChunkedArray, other: pa.Array | pa.ChunkedArray) -> int:
    """How many values stand in both."""
    unique = pc.unique(one)
    return int(pc.sum(pc.is_in(unique, value_set=pc.unique(other))).as_py() or 0)


def _column(path: Path, name: str) -> pa.Array:
    return pq.read_table(path, columns=[name])[name].combine_chunks()


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _without_images(path: Path, columns: list[str]) -> pa.Table:
    """A table of samples with ``has_image`` in place of the bytes, read by row group."""
    parts = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1024, columns=[*columns, "jpg"]):
            has_image = pc.greater(pc.fill_null(pc.binary_length(batch["jpg"]), 0), 0)
            parts.append(pa.Table.from_batches([batch.select(columns)]).append_column("has_image", has_image))
    return pa.concat_tables(parts) if parts else _no_samples(columns)


def _no_samples(columns: list[str]) -> pa.Table:
    fields = [SAMPLES.schema.field(name) for name in columns]
    return pa.schema([*fields, pa.field("has_image", pa.bool_())]).empty_table()


def _geometry(image: np.ndarray, text: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norms and cosine by row, in double precision; zero where a row is not there or not finite, which no expectation lets pass."""
    norms, cosines = np.zeros((2, rows)), np.zeros(rows)
    for start in range(0, min(rows, len(image), len(text)), _EMBEDDING_ROWS):
        parts = [_rows(e, start, min(start + _EMBEDDING_ROWS, rows)) for e in (image, text)]
        size = min(len(part) for part in parts)
        one, other = (part[:size] for part in parts)
        norms[0, start : start + size] = np.linalg.norm(one, axis=1)
        norms[1, start : start + size] = np.linalg.norm(other, axis=1)
        if one.shape == other.shape:
            cosines[start : start + size] = np.einsum("ij,ij->i", one, other)
    return np.nan_to_num(norms[0], posinf=0), np.nan_to_num(norms[1], posinf=0), np.nan_to_num(cosines, posinf=0)


def _rows(mapped: np.ndarray, start: int, end: int) -> np.ndarray:
    """Rows of a mapped file, in double precision. Read, not mapped: mapped pages count as the process's memory."""
    assert isinstance(mapped, np.memmap)
    width = int(np.prod(mapped.shape[1:]))
    with Path(str(mapped.filename)).open("rb") as file:
        file.seek(mapped.offset + start * width * mapped.itemsize)
        flat = np.fromfile(file, mapped.dtype, (min(end, len(mapped)) - start) * width)
    return flat.reshape(-1, width).astype(np.float64)


def _in_order(decisions: pa.Table, scores: pa.Array) -> int:
    """How many rows name the same sample; -1 where a score has no decision, or a decision that is no block has no score."""
    unscored = _is_blocked(decisions.slice(len(scores)))
    if len(decisions) < len(scores) or not pc.all(unscored, min_count=0).as_py():
        return -1
    return int(pc.sum(pc.equal(decisions["uid"].slice(0, len(scores)), scores)).as_py() or 0)


def _is_blocked(decisions: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.is_in(decisions["drop_reason"], value_set=pa.array([str(reason) for reason in IMAGE_DELETED])), False)

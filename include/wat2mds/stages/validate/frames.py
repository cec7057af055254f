"""The tables of one WAT file as data frames, with what is computed again from other columns beside them.

In: the manifests of dedup, download and filter. Out: ``Tables`` and the counts that must agree. Guaranteed: every row is looked at, images
only of a sample chosen by uid (a hash, hence at random, and the same each time). What does not belong here: what is right.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.drops import DropReason
from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Manifest
from wat2mds.schema import DECISIONS, PAIRS, SAMPLES, SCORES
from wat2mds.settings import Settings

_EMBEDDING_ROWS = 8192


@dataclass(frozen=True)
class Files:
    """Local paths of one WAT file's tables."""

    pairs: Path
    samples: list[Path]
    scores: Path
    decisions: Path
    image_embeddings: Path
    text_embeddings: Path


@dataclass(frozen=True)
class Tables:
    """``images`` are the samples with an image, ``looked_at`` those of them whose bytes were decoded, ``kept`` those that filter keeps."""

    pairs: pd.DataFrame
    samples: pd.DataFrame
    images: pd.DataFrame
    looked_at: pd.DataFrame
    scores: pd.DataFrame
    decisions: pd.DataFrame
    kept: pd.DataFrame
    embedding_rows: tuple[int, int]

    @property
    def kept_count(self) -> int:
        return len(self.kept)


def fetch(pairs: Manifest, samples: Manifest, scores: Manifest, decisions: Manifest, folder: Path) -> Files:
    return Files(
        pairs=pairs.fetch("unique.parquet", folder),
        samples=[samples.fetch(name, folder) for name in samples.matching(".parquet")],
        scores=scores.fetch("scores.parquet", folder),
        decisions=decisions.fetch("decisions.parquet", folder),
        image_embeddings=scores.fetch("img_emb.npy", folder),
        text_embeddings=scores.fetch("text_emb.npy", folder),
    )


def schemas(files: Files) -> pd.DataFrame:
    """One row a column of each table: its type as found and as the schema has it."""
    rows = []
    stated = [("pairs", files.pairs, PAIRS), ("scores", files.scores, SCORES), ("decisions", files.decisions, DECISIONS)]
    stated += [(f"samples/{path.name}", path, SAMPLES) for path in files.samples]
    for name, path, table in stated:
        found = {field.name: str(field.type) for field in pq.read_schema(path)}
        expected = {field.name: str(field.type) for field in table.schema}
        for column in sorted(found.keys() | expected.keys()):
            rows.append((f"{name}.{column}", found.get(column, "absent"), expected.get(column, "absent")))
    return pd.DataFrame(rows, columns=["column", "found", "expected"])


def read(files: Files, settings: Settings) -> Tables:
    pairs = _frame(pq.read_table(files.pairs))
    pairs["uid_computed"] = [uid(u, c) for u, c in zip(pairs["url_normalized"], pairs["caption"], strict=True)]
    pairs["laion_hash_computed"] = [laion_hash(u, c) for u, c in zip(pairs["url"], pairs["caption"], strict=True)]

    columns = [name for name in SAMPLES.names() if name != "jpg"]
    samples_table = (
        pa.concat_tables(_without_images(path, columns) for path in files.samples) if files.samples else _no_samples(columns)
    )
    samples = _frame(samples_table)
    decisions = _frame(pq.read_table(files.decisions))
    # On a block list: fetched well, then its image was deleted.
    blocked = set(decisions["uid"][decisions["drop_reason"] == str(DropReason.BLOCKED)])
    succeeded = samples["status"] == "success"
    with_image = succeeded & ~(samples["uid"].isin(blocked) & ~samples["has_image"])
    samples["consistent"] = (succeeded == samples["drop_reason"].isna()) & (with_image == samples["has_image"])
    # Filtered before it becomes a frame, where a column of integers stays one only without nulls.
    images = _frame(samples_table.filter(samples_table["has_image"]))

    scores = _frame(pq.read_table(files.scores))
    image, text = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (files.image_embeddings, files.text_embeddings))
    scores["image_norm"], scores["text_norm"], scores["cosine"] = _geometry(image, text, len(scores))
    scores["similarity_error"] = (scores["similarity"] - scores["cosine"]).abs()

    kept = decisions[decisions["drop_reason"].isna()].merge(scores.drop(columns="language"), on="uid", how="left")
    filters = settings.filter
    kept["threshold"] = np.where(kept["language"] == "en", filters.min_similarity, filters.min_similarity_other)
    kept["above_threshold"] = kept["similarity"] - kept["threshold"]
    return Tables(
        pairs=pairs,
        samples=samples,
        images=images,
        looked_at=_look_at(files, images, settings.validate_.hash_sample),
        scores=scores,
        decisions=decisions,
        kept=kept,
        embedding_rows=(len(image), len(text)),
    )


def counts(tables: Tables, flows: Sequence[Flow], settings: Settings) -> pd.DataFrame:
    """Numbers that must agree, by name. What is on a block list has no image; it has a score only if it was listed afterwards."""
    reasons = tables.decisions.set_index("uid")["drop_reason"]
    blocked = set(reasons.index[reasons == str(DropReason.BLOCKED)])
    scored = tables.scores["uid"][~tables.scores["uid"].isin(blocked)]
    images = len(tables.images) + len(blocked)
    rows = [
        ("samples: one a pair", len(tables.samples), len(tables.pairs)),
        ("samples: of the pairs' uids", len(set(tables.samples["uid"]) & set(tables.pairs["uid"])), len(tables.pairs)),
        ("scores: one a sample with an image", len(scored), len(tables.images)),
        ("scores: of the images' uids", len(set(scored) & set(tables.images["uid"])), len(tables.images)),
        ("blocked: no image is left", len(blocked & set(tables.images["uid"])), 0),
        ("decisions: one a score, in the same order", int(_in_order(tables.decisions, tables.scores)), len(tables.scores)),
        ("embeddings: image rows", tables.embedding_rows[0], len(tables.scores)),
        ("embeddings: text rows", tables.embedding_rows[1], len(tables.scores)),
    ]
    for flow in flows:
        label = f"flow {flow.source} to {flow.target}"
        rows.append((f"{label}: reconciles", flow.left + sum(flow.drops.values()), flow.entered))
        if flow.target == "samples":
            rows += [(f"{label}: images", flow.left, images), (f"{label}: pairs", flow.entered, len(tables.pairs))]
            rows += _reasons(label, flow, tables.samples)
        if flow.target == "kept":
            rows += [(f"{label}: kept", flow.left, len(tables.kept)), (f"{label}: samples", flow.entered, images)]
            rows += _reasons(label, flow, tables.decisions)
    return pd.DataFrame(rows, columns=["what", "found", "expected"])


def _reasons(label: str, flow: Flow, frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    """That a flow drops as many for each reason as the table does."""
    found = Counter(str(reason) for reason in frame["drop_reason"].dropna())
    return [(f"{label}: {reason}", flow.drops.get(reason, 0), found[reason]) for reason in sorted({*flow.drops, *found})]


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
        parts = [np.asarray(e[start : min(start + _EMBEDDING_ROWS, rows)], dtype=np.float64) for e in (image, text)]
        size = min(len(part) for part in parts)
        one, other = (part[:size] for part in parts)
        norms[0, start : start + size] = np.linalg.norm(one, axis=1)
        norms[1, start : start + size] = np.linalg.norm(other, axis=1)
        if one.shape == other.shape:
            cosines[start : start + size] = np.einsum("ij,ij->i", one, other)
    return np.nan_to_num(norms[0], posinf=0), np.nan_to_num(norms[1], posinf=0), np.nan_to_num(cosines, posinf=0)


def _in_order(decisions: pd.DataFrame, scores: pd.DataFrame) -> int:
    size = min(len(decisions), len(scores))
    same = decisions["uid"].to_numpy()[:size] == scores["uid"].to_numpy()[:size]
    unscored = decisions["drop_reason"][len(scores) :] == str(DropReason.BLOCKED)
    return int(np.sum(same)) if len(decisions) >= len(scores) and unscored.all() else -1


def _look_at(files: Files, images: pd.DataFrame, size: int) -> pd.DataFrame:
    """Decode the bytes of a sample of images: width and height as found beside those stated, and whether the hash is true.

    The hash is of the bytes as fetched: those stored are the same only where neither size nor length changed.
    """
    columns = ["uid", "width", "height", "original_width", "original_height", "original_bytes", "sha256"]
    chosen = images.sort_values("uid").head(size)[columns].reset_index(drop=True)
    wanted = pa.array(chosen["uid"], pa.string())
    found: dict[str, tuple[int, int, int, str]] = {}
    for path in files.samples:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256, columns=["uid", "jpg"]):
                batch = batch.filter(pc.is_in(batch["uid"], value_set=wanted))
                for name, image in zip(batch["uid"].to_pylist(), batch["jpg"].to_pylist(), strict=True):
                    found[name] = _decode(image)
    names = ["decoded_width", "decoded_height", "stored_bytes", "stored_sha256"]
    decoded = pd.DataFrame([found[name] for name in chosen["uid"]], columns=names)
    looked_at = pd.concat([chosen, decoded], axis=1)
    fetched = ["original_width", "original_height", "original_bytes"]
    as_fetched = (looked_at[fetched].to_numpy() == looked_at[["decoded_width", "decoded_height", "stored_bytes"]].to_numpy()).all(
        axis=1
    )
    looked_at["hash_true"] = ~as_fetched | (looked_at["sha256"] == looked_at["stored_sha256"])
    return looked_at


def _decode(image: bytes) -> tuple[int, int, int, str]:
    """(width, height, bytes, SHA-256); sizes are -1 where the image does not decode."""
    digest = hashlib.sha256(image).hexdigest()
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.load()
            return picture.width, picture.height, len(image), digest
    except Exception:  # Pillow raises whatever its decoders meet; any of it means that the image is damaged
        return -1, -1, len(image), digest

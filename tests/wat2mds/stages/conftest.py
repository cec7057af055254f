"""Small real inputs for the stages after filter: units with tables in the schema, JPEGs drawn with Pillow, embeddings of unit norm."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.models.pictures import pdq_of
from wat2mds.schema import DECISIONS, PAIRS, SAMPLES, SCORES, table_of
from wat2mds.settings import Settings
from wat2mds.store import Layout, join

SNAPSHOT, SEGMENT = "CC-MAIN-2023-50", "1700679099281.67"
DIM = 16
Change = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class WatFile:
    """What filter leaves of one WAT file, and where its later stages go."""

    samples: Manifest
    decisions: Manifest
    dataset: str
    wat_file: str
    kept: list[str] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def out(self, stage: str) -> str:
        return Layout.of(self.dataset).stage(SNAPSHOT, SEGMENT, self.wat_file, stage)

    @property
    def key(self) -> str:
        return f"{SNAPSHOT}.{SEGMENT}.{self.wat_file}"


def draw(number: int) -> bytes:
    """A JPEG of its own for each number."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (40 + number % 7, 30 + number % 5), tuple(int(v) for v in rng.integers(0, 255, 3)))
    ImageDraw.Draw(picture).ellipse((3, 3, 25, 20), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def build_wat_file(
    dataset: str,
    wat_file: str = "00000",
    *,
    count: int = 12,
    failed: int = 3,
    dropped: int = 2,
    first: int = 0,
    settings: Settings | None = None,
    changes: dict[str, Any] | None = None,
) -> WatFile:
    """``count`` pairs, of which the last ``failed`` give no image and the ``dropped`` before them are not similar enough.

    ``first`` numbers the first pair: other numbers are other pairs. ``changes`` alter a table before it is written.
    """
    settings = settings or Settings()
    change: Callable[[str, Any], Any] = lambda name, value: (changes or {}).get(name, lambda v: v)(value)  # noqa: E731
    layout = Layout.of(dataset)
    place = {"snapshot": SNAPSHOT, "segment": SEGMENT, "wat_file": wat_file}

    def out(stage: str) -> str:
        return layout.stage(SNAPSHOT, SEGMENT, wat_file, stage)

    numbers = list(range(first, first + count))
    urls = [f"https://images{n % 3}.example.org/{n}.jpg" for n in numbers]
    captions = [f"picture number {n}, “ünïcode” 画 {'x' * (n % 4)}" for n in numbers]
    uids = [uid(u, c) for u, c in zip(urls, captions, strict=True)]
    pairs = table_of(
        PAIRS,
        {
            "uid": uids,
            "laion_hash": [laion_hash(u, c) for u, c in zip(urls, captions, strict=True)],
            "url": urls,
            "url_normalized": urls,
            "caption": captions,
            "caption_source": ["alt"] * count,
            "page_url": [f"https://example.org/{n}" if n % 2 else None for n in numbers],
            "snapshot": [SNAPSHOT] * count,
            "segment": [SEGMENT] * count,
            "wat_file": [wat_file] * count,
            "license": ["https://creativecommons.org/licenses/by/4.0/" if n % 3 == 0 else None for n in numbers],
        },
    )
    with Unit(
        "extract", out("extract"), [Input(f"https://data.example.org/{wat_file}.wat.gz", "1")], settings, unit=place
    ) as unit:
        if not unit.done:
            pq.write_table(pairs, unit.path("pairs.parquet"))
            unit.commit([Flow("records", "pages", 5, 5), Flow("links", "pairs", count, count)])
        extracted = unit_manifest(unit)
    with Unit("dedup", out("dedup"), [extracted], settings) as unit:
        if not unit.done:
            pq.write_table(change("pairs", pairs), unit.path("unique.parquet"))
            unit.commit([Flow("pairs", "unique", count, count)])
        unique = unit_manifest(unit)

    samples_table, images = _samples(numbers, uids, urls, captions, failed)
    with Unit("download", out("download"), [unique], settings) as unit:
        if not unit.done:
            altered = change("samples", samples_table)
            half = altered.num_rows // 2
            pq.write_table(altered.slice(0, half), unit.path("00000.parquet"), row_group_size=4)
            pq.write_table(altered.slice(half), unit.path("00001.parquet"))
            unit.path("00000_stats.json").write_text("{}")
            unit.commit(
                [change("flow", Flow("unique", "samples", count, count - failed, {"http_404": failed} if failed else {}))]
            )
        samples = unit_manifest(unit)

    there = [u for u in samples_table["uid"].to_pylist() if u in images]
    low = set(uids[count - failed - dropped : count - failed])
    similarity, image_embeddings, text_embeddings = _embeddings(there, low)
    scores_table = table_of(
        SCORES,
        {
            "uid": there,
            "language": ["en" if int(u, 16) % 2 else None for u in there],
            "language_probability": pa.array([0.9 if int(u, 16) % 2 else None for u in there], pa.float32()),
            "similarity": similarity,
            "clip_model": ["tiny"] * len(there),
        },
    )
    fingerprint = settings.filter.fingerprint(decisions=False)
    with Unit("filter", join(out("filter"), "scores"), [samples], settings, fingerprint=fingerprint) as unit:
        if not unit.done:
            pq.write_table(change("scores", scores_table), unit.path("scores.parquet"))
            np.save(unit.path("img_emb.npy"), change("img_emb", image_embeddings))
            np.save(unit.path("text_emb.npy"), change("text_emb", text_embeddings))
            unit.commit([])
        scores = unit_manifest(unit)
    reasons = ["low_similarity" if u in low else None for u in there]
    decisions_table = change(
        "decisions", table_of(DECISIONS, {"uid": there, "drop_reason": reasons, "language": scores_table["language"]})
    )
    with Unit("filter", out("filter"), [samples, scores], settings) as unit:
        if not unit.done:
            pq.write_table(decisions_table, unit.path("decisions.parquet"))
            kept = len(there) - len(low)
            unit.commit([Flow("samples", "kept", len(there), kept, {"low_similarity": len(low)} if low else {})])
        decisions = unit_manifest(unit)
    return WatFile(samples, decisions, dataset, wat_file, [u for u in uids if u in images and u not in low], images)


def unit_manifest(unit: Unit) -> Manifest:
    from wat2mds.manifest import read_manifest

    return read_manifest(join(unit.store.url, f"{unit.digest}.json"))


def _samples(
    numbers: list[int], uids: list[str], urls: list[str], captions: list[str], failed: int
) -> tuple[pa.Table, dict[str, bytes]]:
    """The samples in an order of their own, as download stores them."""
    rows: list[dict[str, Any]] = []
    images = {}
    for position, number in enumerate(numbers):
        row: dict[str, Any] = {"uid": uids[position], "key": f"{number:09}", "url": urls[position], "caption": captions[position]}
        if position >= len(numbers) - failed:
            row |= {"status": "failed_to_download", "drop_reason": "http_404", "error_message": "404", "http_status": 404}
        else:
            image = draw(number)
            images[uids[position]] = image
            width, height = Image.open(io.BytesIO(image)).size
            row |= {
                "status": "success",
                "width": width,
                "height": height,
                "original_width": width * 4,
                "original_height": height * 4,
                "mime": "image/jpeg",
                "original_bytes": 6000 + number,
                "md5": hashlib.md5(image).hexdigest(),
                "sha1": hashlib.sha1(image).hexdigest(),
                "sha256": hashlib.sha256(image).hexdigest(),
                "pdq": pdq_of(np.asarray(Image.open(io.BytesIO(image))), None)[0],
                "pdq_quality": 90,
                "fetched_at": 1_700_000_000 + number,
                "http_status": 200,
                "exif": "{}" if number % 2 else None,
                "jpg": image,
            }
        rows.append(row)
    rows.sort(key=lambda row: hashlib.md5(row["uid"].encode()).digest())
    return pa.Table.from_pylist(rows, schema=SAMPLES.schema), images


def _embeddings(uids: list[str], low: set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity and embeddings of unit norm whose cosine it is: 0.2 for the pairs not similar enough, 0.35 for the others."""
    image, text = np.zeros((len(uids), DIM)), np.zeros((len(uids), DIM))
    wanted = np.array([0.2 if u in low else 0.35 for u in uids])
    for row, name in enumerate(uids):
        rng = np.random.default_rng(int(name[:8], 16))
        one, other = rng.normal(size=(2, DIM))
        one /= np.linalg.norm(one)
        other -= one * (one @ other)
        other /= np.linalg.norm(other)
        image[row], text[row] = one, wanted[row] * one + np.sqrt(1 - wanted[row] ** 2) * other
    return wanted.astype(np.float32), image.astype(np.float16), text.astype(np.float16)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return Layout((tmp_path / "root with space").as_uri(), "demo").dataset


@pytest.fixture
def s3_dataset(s3_root: str) -> str:
    """URL of an empty dataset on S3."""
    return Layout(f"{s3_root}/some/prefix", "demo").dataset


def set_values(column: str, change: Callable[[Any], Any], rows: Callable[[int], bool] = lambda row: True) -> Change:
    """A change of one column's values, in some rows."""

    def changed(table: pa.Table) -> pa.Table:
        at = table.column_names.index(column)
        kind = table.schema.field(at)
        values = [change(v) if rows(row) else v for row, v in enumerate(table[column].to_pylist())]
        return table.set_column(at, kind.with_nullable(True), [pa.array(values, kind.type)]).cast(table.schema)

    return changed


@pytest.fixture
def changing() -> Callable[..., Change]:
    return set_values


@pytest.fixture
def make_wat_file() -> Callable[..., WatFile]:
    return build_wat_file

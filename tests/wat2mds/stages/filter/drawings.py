"""A WAT file's download unit of drawings, for the real filter stage with the tiny CLIP."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.models.tiny_data import near_miss, split_pictures, stored_jpegs, unlike
from wat2mds.schema import PAIRS, SAMPLES, table_of
from wat2mds.settings import Settings, load_settings
from wat2mds.stages.download.images import pdq
from wat2mds.store import Layout
from wat2mds.world.draw import MARKS, Mark, caption, marked

SNAPSHOT, SEGMENT = "CC-MAIN-2023-50", "1700679099281.67"
PLACE = {"snapshot": SNAPSHOT, "segment": SEGMENT, "wat_file": "00000"}
# The tiny model in place of a profile's: published weights are not on every machine.
TINY = (
    "filter.clip_model=wat2mds-tiny",
    "filter.clip_pretrained=tiny",
    "filter.clip_model_other=",
    "filter.language_candidates=en,de,fr,es,it,nl,pt,ru,ja,zh",
    "filter.safety_head=tiny/safety",
    "filter.watermark_head=tiny/watermark",
    "filter.aesthetic_head=tiny/aesthetic",
    "filter.drop_illegal=false",
    "filter.zero_shot=false",
)
_OTHERS = (
    "drei kleine rote Kreise",
    "deux étoiles vertes",
    "три маленьких красных круга",
    "red",
    "Berlin",
    "circle rot",
    "hand",
    "日本",
)


@dataclass(frozen=True)
class Drawn:
    """What is downloaded of one pair."""

    url: str
    caption: str
    jpg: bytes
    original: tuple[int, int] | None = None
    """Sides as fetched; None: as stored."""
    page: dict[str, Any] = field(default_factory=dict)
    """What extract found on the page: page_url, license …"""


def under(profile: str, *overrides: str) -> Settings:
    return load_settings(profile, [*TINY, "upload.keep_images=true", *overrides], environment={})


def drawings(count: int) -> list[Drawn]:
    """Of each six: two matched, one nearly, one not, one marked, one with a caption in another or no language."""
    rng = np.random.default_rng(3)
    allowed = set(split_pictures().test)
    pictures = split_pictures().test[:: max(1, len(allowed) // count)][:count]
    marks: tuple[Mark, ...] = MARKS
    shown = [marked(p, marks[n // 6 % len(marks)]) if n % 6 == 4 else p for n, p in enumerate(pictures)]
    texts = []
    for n, picture in enumerate(pictures):
        match n % 6:
            case 2:
                texts.append(caption(near_miss(picture, allowed, rng)))
            case 3:
                texts.append(caption(unlike(picture, rng)))
            case 5:
                text = _OTHERS[n // 6 % len(_OTHERS)]
                texts.append(text if n % 12 == 5 else f"{caption(picture)}, ein schönes Mädchen")
            case _:
                texts.append(caption(picture))
    jpegs = stored_jpegs([(picture, n, None) for n, picture in enumerate(shown)])
    return [Drawn(f"https://images{n % 3}.example.org/{n}.jpg", t, j) for n, (t, j) in enumerate(zip(texts, jpegs, strict=True))]


def download_unit(
    dataset: str,
    drawn: Sequence[Drawn],
    settings: Settings,
    *,
    shard: int = 16,
    wat_file: str = "00000",
    seen: int | None = None,
) -> Manifest:
    """The units before filter, in the layout of a dataset, as extract, dedup and download leave them.

    ``seen``: the version of the dataset that dedup saw.
    """
    place = PLACE | {"wat_file": wat_file}

    def unit(stage: str, inputs: Sequence[Manifest | Input]) -> Unit:
        return Unit(stage, Layout.of(dataset).stage(SNAPSHOT, SEGMENT, wat_file, stage), inputs, settings, unit=place)

    size = len(drawn)
    uids = [uid(one.url, one.caption) for one in drawn]
    columns: dict[str, Any] = {
        "uid": uids,
        "laion_hash": [laion_hash(one.url, one.caption) for one in drawn],
        "url": [one.url for one in drawn],
        "url_normalized": [one.url for one in drawn],
        "caption": [one.caption for one in drawn],
        "caption_source": ["alt"] * size,
        **{name: [value] * size for name, value in place.items()},
        **{name: [one.page.get(name) for one in drawn] for name in sorted({name for one in drawn for name in one.page})},
    }
    with unit("extract", [Input(f"https://data.example.org/{wat_file}.wat.gz", "1")]) as made:
        pq.write_table(table_of(PAIRS, columns), made.path("pairs.parquet"))
        extracted = made.commit([Flow("records", "pages", 5, 5), Flow("links", "pairs", size + 2, size, {"no_caption": 2})])
    with unit("dedup", [extracted]) as made:
        pq.write_table(table_of(PAIRS, columns), made.path("unique.parquet"))
        extra = {} if seen is None else {"dataset": {"url": dataset, "version": seen}}
        unique = made.commit([Flow("pairs", "unique", size, size)], extra)
    with unit("download", [unique]) as made:
        rows = [_row(n, uids[n], one) for n, one in enumerate(drawn)]
        for start in range(0, size, shard):
            part = rows[start : start + shard]
            table = table_of(SAMPLES, {name: [row.get(name) for row in part] for name in SAMPLES.names()})
            pq.write_table(table, made.path(f"{start // shard:05d}.parquet"), row_group_size=8)
        return made.commit([Flow("unique", "samples", size, size)])


def _row(number: int, name: str, one: Drawn) -> dict[str, Any]:
    width, height = Image.open(io.BytesIO(one.jpg)).size
    found, quality = pdq(one.jpg, None)
    return {
        "uid": name,
        "key": f"{number:09}",
        "url": one.url,
        "caption": one.caption,
        "status": "success",
        "width": width,
        "height": height,
        "original_width": (one.original or (width, height))[0],
        "original_height": (one.original or (width, height))[1],
        "mime": "image/jpeg",
        "original_bytes": len(one.jpg),
        "md5": hashlib.md5(one.jpg).hexdigest(),
        "sha1": hashlib.sha1(one.jpg).hexdigest(),
        "sha256": hashlib.sha256(one.jpg).hexdigest(),
        "pdq": found,
        "pdq_quality": quality,
        "fetched_at": 1_700_000_000_000 + number,
        "http_status": 200,
        "jpg": one.jpg,
    }

"""Rows of each known layout, made for the purpose, with the columns and types of the list's real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

URL = "https://img.photos.example.com/{}.jpg"
SHA = "ab" * 32
# Name: the table's columns, of two rows each.
LAYOUTS: dict[str, tuple[str, pa.Table]] = {}


def _made(name: str, layout: str, **columns: Any) -> None:
    LAYOUTS[name] = (layout, pa.table({key.replace("__", "+"): value for key, value in columns.items()}))


_URLS = [URL.format("one"), URL.format("two")]
_TEXTS = ["the first picture", "a second  picture"]
_made(
    "laion400m",
    "laion400m",
    SAMPLE_ID=pa.array([1581282014547.0, 2.0]),
    URL=_URLS,
    TEXT=_TEXTS,
    HEIGHT=[640, 300],
    WIDTH=[480, 200],
    LICENSE=["?", "https://creativecommons.org/licenses/by-sa/3.0/"],
    NSFW=["UNLIKELY", "UNSURE"],
    similarity=[0.34, 0.31],
)
_made(
    "opendatalab",
    "opendatalab",
    id=["(0, 1)", "(0, 2)"],
    SAMPLE_ID=pa.array([7, 8]),
    URL=_URLS,
    TEXT=_TEXTS,
    HEIGHT=pa.array([640, 300], pa.int32()),
    WIDTH=pa.array([480, 200], pa.int32()),
    LICENSE=["?", "?"],
    NSFW=["UNLIKELY", "NSFW"],
    similarity=[0.34, 0.31],
    image_suffix=["jpg", "png"],
)
_made(
    "laion5b-joined",
    "laion5b",
    URL=_URLS,
    TEXT=_TEXTS,
    WIDTH=pa.array([640, 300], pa.int32()),
    HEIGHT=pa.array([480, 200], pa.int32()),
    similarity=[0.29, 0.31],
    LANGUAGE=["en", "de"],
    hash=pa.array([-4029381726354, 77]),
    pwatermark=pa.array([0.1, 0.9], pa.float32()),
    punsafe=pa.array([0.001, 0.4], pa.float32()),
    AESTHETIC_SCORE=[5.5, 6.5],
)
_made(
    "relaion",
    "relaion",
    url=_URLS,
    caption=_TEXTS,
    similarity=[0.29, 0.31],
    hash=pa.array([-4029381726354, 77]),
    punsafe=[0.001, 0.4],
    pwatermark=[0.1, 0.9],
    key=["000000005", "000000006"],
    status=["success", "success"],
    width=[256, 256],
    height=[192, 171],
    original_width=[640, 300],
    original_height=[480, 200],
    md5=["cd" * 16, None],
)
_made(
    "datacomp",
    "datacomp",
    uid=["6fbb2a9bd0e04a3c8b0d1d0c3a0d6e5f", "00" * 16],
    url=_URLS,
    text=_TEXTS,
    original_width=[640, 300],
    original_height=[480, 200],
    clip_b32_similarity_score=pa.array([0.29, 0.31], pa.float32()),
    clip_l14_similarity_score=pa.array([0.25, 0.21], pa.float32()),
    face_bboxes=pa.array([[[0.1, 0.2, 0.3, 0.4]], []], pa.list_(pa.list_(pa.float64()))),
    sha256=[SHA, SHA],
)
_made(
    "coyo",
    "coyo",
    id=pa.array([841814333321, 2]),
    url=_URLS,
    text=_TEXTS,
    width=[640, 300],
    height=[480, 200],
    image_phash=["e3b0c44298fc1c14", "0" * 16],
    text_length=[17, 17],
    word_count=[3, 3],
    num_faces=[0, 1],
    clip_similarity_vitb32=[0.29, 0.31],
    clip_similarity_vitl14=[0.25, 0.21],
    nsfw_score_opennsfw2=[0.01, 0.4],
    watermark_score=[0.1, 0.9],
    aesthetic_score_laion_v2=[5.5, 6.5],
)
_made(
    "fondant-index",
    "fondant",
    alt__text=_TEXTS,
    url=_URLS,
    license__location=["sidebar", "footer"],
    license__type=["by-nc-nd", "zero"],
    webpage__url=["http://www.example.com/", "http://www.example.com/two"],
    id=["0_1", "0_2"],
)
_made(
    "fondant-dedup",
    "fondant",
    alt_text=_TEXTS,
    image_url=_URLS,
    license_location=["footer", "footer"],
    license_type=["by-sa", "by"],
    webpage_url=["http://www.example.com/", "http://www.example.com/two"],
    id=["0", "1"],
)
_made(
    "cc2dataset",
    "cc2dataset",
    uid=["a" * 32, "b" * 32],
    url=_URLS,
    alt=_TEXTS,
    cc_filename=["x", "x"],
    page_url=["http://a.de/"] * 2,
)
_made("img2dataset", "img2dataset", url=_URLS, caption=_TEXTS)
_made("url-text", "img2dataset", url=_URLS, text=_TEXTS)
_made("URL-TEXT", "img2dataset", URL=_URLS, TEXT=_TEXTS, __index_level_0__=[0, 1])


def laion_rows(path: Path, rows: list[dict[str, Any]], row_group_size: int = 1000) -> Path:
    """A LAION-400M file of such rows; what a row does not say is as it is in a sound one."""
    schema = pa.schema(
        [
            ("SAMPLE_ID", pa.int64()),
            ("URL", pa.string()),
            ("TEXT", pa.string()),
            ("HEIGHT", pa.float64()),
            ("WIDTH", pa.float64()),
            ("LICENSE", pa.string()),
            ("NSFW", pa.string()),
            ("similarity", pa.float64()),
        ]
    )
    sound = {"LICENSE": "?", "NSFW": "UNLIKELY", "similarity": 0.31, "HEIGHT": 300.0, "WIDTH": 200.0}
    full = [{"SAMPLE_ID": i, "URL": URL.format(i), "TEXT": f"picture number {i}", **sound, **row} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), path, row_group_size=row_group_size)
    return path

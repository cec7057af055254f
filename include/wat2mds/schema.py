"""Every table's columns: name, Arrow type, unit, meaning, origin. One place; the README's data dictionary is made from it.

Guaranteed: ``TABLES[name].schema`` is what a stage writes, byte for byte in this order. What does not belong here: rules about
values (``stages/validate``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column. ``origin`` is the stage that fills it; ``mds`` its encoding in shards, None where it is not stored there."""

    name: str
    type: pa.DataType
    meaning: str
    origin: str
    unit: str = ""
    mds: str | None = None
    nullable: bool = True

    @property
    def mds_null(self) -> Any:
        """What stands in a shard for null: MDS has no nulls."""
        if self.mds == "str":
            return ""
        if self.mds == "bytes":
            return b""
        return float("nan") if self.mds and self.mds.startswith("float") else -1


@dataclass(frozen=True)
class Table:
    """A table's name, meaning and columns."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    def names(self) -> list[str]:
        return [c.name for c in self.columns]


_s, _i32, _i64, _f32 = pa.string(), pa.int32(), pa.int64(), pa.float32()
_utc = pa.timestamp("ms", tz="UTC")  # parquet and Delta have no coarser unit


def _c(
    name: str, kind: pa.DataType, origin: str, mds: str | None, meaning: str, unit: str = "", required: bool = False
) -> Column:
    return Column(name, kind, meaning, origin, unit, mds, nullable=not required)


_PAIR = (
    _c("uid", _s, "extract", "str", "BLAKE2b-128 of normalised URL, NUL, caption; the join key", "32 hex digits", required=True),
    _c("laion_hash", _i64, "extract", "int64", "mmh3.hash64(url + caption)[0]: LAION-5B's join key", required=True),
    _c("url", _s, "extract", "str", "image URL as found, resolved against page and base", required=True),
    _c("url_normalized", _s, "extract", None, "image URL for identity", required=True),
    _c("caption", _s, "extract", "str", "alt text after cleaning; LAION's TEXT", required=True),
    _c("caption_source", _s, "extract", None, "what gave the caption", "alt, title or import", required=True),
    _c("page_url", _s, "extract", "str", "page that held the link"),
    _c("page_http_status", _i32, "extract", None, "HTTP status of the page"),
    _c("crawl_date", _utc, "extract", None, "when Common Crawl fetched the page", "UTC"),
    _c("snapshot", _s, "extract", "str", "Common Crawl release, e.g. CC-MAIN-2023-50", required=True),
    _c("segment", _s, "extract", "str", "segment of the snapshot, e.g. 1700679099281.67", required=True),
    _c(
        "wat_file",
        _s,
        "extract",
        "str",
        "number of the WAT file in its segment; with -r1 what its first later retry brought",
        "5 digits",
        required=True,
    ),
    _c(
        "record_offset",
        _i64,
        "extract",
        None,
        "offset of the page's record in the compressed WAT file; of an import: the row",
        "bytes",
    ),
    _c("license", _s, "extract", "str", "Creative Commons link of the page (not of the image)", "URL"),
    _c("license_type", _s, "extract", None, "canonical type of that licence", "e.g. by-sa"),
    _c("license_version", _s, "extract", None, "version of that licence", "e.g. 4.0"),
)
_SAMPLE = (
    _c("width", _i32, "download", "int32", "width of the stored image", "pixels"),
    _c("height", _i32, "download", "int32", "height of the stored image", "pixels"),
    _c("original_width", _i32, "download", "int32", "width as fetched, EXIF orientation applied", "pixels"),
    _c("original_height", _i32, "download", "int32", "height as fetched, EXIF orientation applied", "pixels"),
    _c("mime", _s, "download", "str", "type found from the bytes", "e.g. image/jpeg"),
    _c("original_bytes", _i64, "download", "int64", "size as fetched", "bytes"),
    _c("md5", _s, "download", "str", "MD5 of the bytes as fetched", "hex"),
    _c("sha1", _s, "download", "str", "SHA-1 of the bytes as fetched", "hex"),
    _c("sha256", _s, "download", "str", "SHA-256 of the bytes as fetched", "hex"),
    _c("pdq", _s, "download", "str", "PDQ perceptual hash of the stored image without its border", "64 hex digits"),
    _c("pdq_quality", _i32, "download", None, "quality that PDQ states; below 50 not to be matched on", "0-100"),
    _c("fetched_at", _utc, "download", None, "when the image was fetched; the one column that differs between equal runs", "UTC"),
    _c("http_status", _i32, "download", None, "last HTTP status of the image's fetch"),
    _c("exif", _s, "download", "str", "EXIF of the image as fetched", "JSON"),
)
_SCORE = (
    _c(
        "language",
        _s,
        "filter",
        "str",
        "language of the caption; in decisions and metadata null where its probability is below the threshold",
        "ISO 639-1",
    ),
    _c("language_probability", _f32, "filter", None, "the detector's probability for it", "0-1"),
    _c("similarity", _f32, "filter", "float32", "cosine of image and caption embedding", "-1-1"),
    _c("clip_model", _s, "filter", "str", "model and weights that gave similarity and embeddings"),
    _c("nsfw", _s, "filter", "str", "LAION-400M's tag: UNLIKELY, UNSURE or NSFW; null where the profile has no tagger"),
    _c("punsafe", _f32, "filter", "float32", "probability of unsafe content; null without a safety head", "0-1"),
    _c("pwatermark", _f32, "filter", "float32", "probability of a watermark; null without a watermark head", "0-1"),
    _c(
        "toxicity",
        _f32,
        "filter",
        None,
        "probability of an inappropriate image, in Q16's manner; null without a toxicity head",
        "0-1",
    ),
    _c("aesthetic", _f32, "filter", "float32", "aesthetic score; null without an aesthetic head", "about 1-10"),
)
_GROUP = _c(
    "phash_group",
    _s,
    "publish",
    None,
    "group of images that look alike (PDQ, 31 bits): uid of the image that founded it, which may be gone; null below PDQ quality 50",
)
# Of a sample, decided on too: beside the scores, so that decisions can be made anew when the samples are gone.
_DECIDED_ON = ("original_width", "original_height", "pdq", "pdq_quality")
_UID = _PAIR[0]
_REASON = _c("drop_reason", _s, "", None, "why it was left out (drops.py); null: kept")

PAIRS = Table("pairs", "extract and dedup: one row a pair", _PAIR)
REJECTS = Table(
    "rejects",
    "extract and import: one row a damaged record, for inspection",
    (
        _c(
            "record_offset",
            _i64,
            "extract",
            None,
            "offset in the compressed WAT file; of an import: the row",
            "bytes",
            required=True,
        ),
        _c("drop_reason", _s, "extract", None, "why (drops.py)", required=True),
        _c("detail", _s, "extract", None, "what the parser said"),
        _c("head", pa.binary(), "extract", None, "first bytes of the record", "at most 1,000 bytes"),
    ),
)
IMPORTED = Table(
    "imported",
    "import: one row a pair, as its list states it, whatever model stood behind a number; for joining, in the order of the pairs",
    (
        _UID,
        _c("row", _i64, "import", None, "row in the list's file, from 0", required=True),
        _c("source_id", _s, "import", None, "the list's own id: SAMPLE_ID, uid, id or key"),
        _c(
            "source_hash",
            _i64,
            "import",
            None,
            "mmh3.hash64 of URL and text before cleaning: the key of LAION's tag files",
            required=True,
        ),
        _c("similarity", _f32, "import", None, "CLIP ViT-B/32 cosine", "-1-1"),
        _c("similarity_l14", _f32, "import", None, "CLIP ViT-L/14 cosine", "-1-1"),
        _c("width", _i32, "import", None, "width; swapped back where the list has it swapped", "pixels"),
        _c("height", _i32, "import", None, "height; swapped back where the list has it swapped", "pixels"),
        _c("language", _s, "import", None, "language of the text"),
        _c("nsfw", _s, "import", None, "LAION-400M's tag"),
        _c("punsafe", _f32, "import", None, "probability of unsafe content", "0-1"),
        _c("pwatermark", _f32, "import", None, "probability of a watermark", "0-1"),
        _c("aesthetic", _f32, "import", None, "aesthetic score"),
        _c("md5", _s, "import", None, "MD5 of the image", "hex"),
        _c("sha256", _s, "import", None, "SHA-256 of the image", "hex"),
        _c("phash", _s, "import", None, "perceptual hash of the image"),
    ),
)
SAMPLES = Table(
    "samples",
    "download: one row a pair, failures too; img2dataset's columns and ours",
    (
        _UID,
        _c("key", _s, "download", "str", "img2dataset's position; never joined on", required=True),
        _c("url", _s, "download", None, "image URL as found", required=True),
        _c("caption", _s, "download", None, "the caption", required=True),
        _c("status", _s, "download", None, "img2dataset's: success, failed_to_download, failed_to_resize", required=True),
        _c("error_message", _s, "download", None, "what went wrong, in words"),
        _REASON,
        *_SAMPLE,
        _c("jpg", pa.binary(), "download", "bytes", "the stored image"),
    ),
)
SCORES = Table(
    "scores",
    "filter: one row a sample with an image, in the order of the embeddings",
    (
        _UID,
        *_SCORE,
        _c("caption_words", _i32, "filter", None, "words of the caption, divided by white space"),
        _c("caption_chars", _i32, "filter", None, "length of the caption", "characters"),
        *(column for column in _SAMPLE if column.name in _DECIDED_ON),
        _c("copies_urls", _i32, "filter", None, "URLs of the WAT file that gave the same bytes (sha256), this one included"),
        _c("copies_hosts", _i32, "filter", None, "hosts of these URLs"),
        _c("underage", pa.bool_(), "filter", None, "nearest or second nearest category of age is under age; null without tags"),
        _c("animal", pa.bool_(), "filter", None, "nearest category of things is an animal; null without tags"),
        _c("child_word", pa.bool_(), "filter", None, "the caption holds a word for a child or teenager; null without tags"),
        _c("listed_word", pa.bool_(), "filter", None, "the caption holds a word of filter.word_lists; null without lists"),
    ),
)
DECISIONS = Table(
    "decisions",
    "filter: one row a score, then one a sample that was blocked unscored; what is published as the language is decided here",
    (_UID, _REASON, _SCORE[0]),
)
METADATA = Table(
    "metadata",
    "publish: one row a published sample; the Delta table",
    (
        *_PAIR,
        *_SCORE,
        _GROUP,
        *_SAMPLE,
        _c("shard", _s, "convert", None, "shard file, from the dataset's folder", required=True),
        _c("shard_row", _i32, "convert", None, "row in that shard, from 0", required=True),
    ),
)
OUTCOMES = Table(
    "outcomes",
    "convert: one row a pair that is not published, in the order of the pairs; of one on a block list the reason and no more",
    (
        _UID,
        *(replace(c, nullable=c.name not in ("snapshot", "segment", "wat_file")) for c in _PAIR[1:]),
        *_SCORE,
        *_SAMPLE,
        replace(_REASON, nullable=False),
        _c("error_message", _s, "download", None, "what went wrong, in words"),
    ),
)
FAILURES = Table(
    "failures",
    "`wat2mds status --failures`: one row a pair of a published WAT file that gave no image, as it was last asked for",
    (
        _UID,
        *(_PAIR[i] for i in (2, 9, 10, 11)),
        replace(_REASON, nullable=False),
        _c("failure", _s, "download", None, "class of the reason: permanent, transient, policy", required=True),
        next(c for c in _SAMPLE if c.name == "http_status"),
        _c("error_message", _s, "download", None, "what went wrong, in words"),
        _c("fetched_at", _utc, "download", None, "when it was last asked for", "UTC"),
        _c("attempts", _i32, "", None, "fetches so far: the first, and one a retry_downloads", required=True),
        _c("next_due", _utc, "", None, "when it may be asked for again; null: never", "UTC"),
    ),
)
TABLES = {t.name: t for t in (PAIRS, REJECTS, IMPORTED, SAMPLES, SCORES, DECISIONS, METADATA, OUTCOMES, FAILURES)}

# Columns of one sample in a shard, and their MDS encodings, as streaming's own LAION converter names them where it has them.
MDS_COLUMNS: dict[str, Column] = {
    c.name: c for c in (SAMPLES.columns[1], *METADATA.columns, SAMPLES.columns[-1]) if c.mds is not None
}

# LAION's published columns, each with the column here that fills it: LAION-400M's eight in the order in which it documents them
# (WIDTH before HEIGHT: its early releases had them swapped), then what LAION-5B's joined releases and LAION-art add.
LAION_VIEW = {
    "SAMPLE_ID": "laion_hash",
    "URL": "url",
    "TEXT": "caption",
    "LICENSE": "license",
    "NSFW": "nsfw",
    "similarity": "similarity",
    "WIDTH": "original_width",
    "HEIGHT": "original_height",
    "LANGUAGE": "language",
    "punsafe": "punsafe",
    "pwatermark": "pwatermark",
    "AESTHETIC_SCORE": "aesthetic",
    "hash": "laion_hash",
}


def table_of(table: Table, columns: dict[str, Any]) -> pa.Table:
    """An Arrow table in the schema's order and types; columns not given are null. Raises KeyError for one the schema lacks."""
    unknown = set(columns) - set(table.names())
    if unknown:
        raise KeyError(f"table {table.name} has no column {', '.join(sorted(unknown))}")
    length = len(next(iter(columns.values())))
    arrays = []
    for column in table.columns:
        values = columns.get(column.name)
        if values is None:
            arrays.append(pa.nulls(length, column.type))
        elif isinstance(values, pa.ChunkedArray | pa.Array):
            arrays.append(values.cast(column.type))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=table.schema)

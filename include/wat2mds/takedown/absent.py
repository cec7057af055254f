"""The proof that what is listed is nowhere in a dataset: every object below its folder is opened and searched.

In: a dataset's folder, entries, and texts to be searched for byte by byte. Out: each object that holds one, with what it holds. Guaranteed:
objects are searched as what they hold, whether a version names them or not: the rows of parquet, MDS and tar files by their columns
and by the hashes of their images, arrays of uids, any other bytes, decompressed where they are compressed, by the hashes and URLs that
stand in them. Left out are ``ledger/`` and ``takedowns/``, whose hashes are what keeps a sample out. Memory holds a few objects. What
cannot be searched, since nothing of a sample can be read from it again: the vectors and codes of an index, and drawn pictures
(a card's). What does not belong here: whether a version is whole (``stages/publish/verify.py``).
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import logging
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds import mds_rows
from wat2mds.progress import Progress
from wat2mds.store import Object, Store
from wat2mds.takedown.entries import HEX, Entries

log = logging.getLogger(__name__)
LEFT_OUT = ("ledger/", "takedowns/")
# More are not searched for byte by byte, but as hashes and URLs only.
MOST_TEXTS = 1_000
_THREADS = 4
_EXAMPLES = 3
_HASH = re.compile(rb"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{40}|[0-9a-fA-F]{32})(?![0-9a-fA-F])")
_URL = re.compile(rb"https?://[^\s\"'<>\\]+")
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPARED = ("uid", "url", "page_url", "md5", "sha1", "sha256", "pdq", "jpg")
_UIDS = np.dtype("u8,u8")


@dataclass
class Searched:
    """``found``: object and what it holds, a line each; ``size`` in bytes."""

    dataset: str
    objects: int = 0
    size: int = 0
    left_out: int = 0
    found: list[str] = field(default_factory=list)


def search(dataset_url: str, entries: Entries, texts: Sequence[str] = ()) -> Searched:
    """Raises TransientError where the store does not answer."""
    dataset = Store(dataset_url)
    objects = dataset.walk()
    chosen = [entry for entry in objects if not entry.path.startswith(LEFT_OUT)]
    result = Searched(dataset.url, len(chosen), sum(entry.size for entry in chosen), len(objects) - len(chosen))
    needles = _needles(texts)
    with ThreadPoolExecutor(_THREADS) as pool, Progress("verify --absent", len(chosen), "objects") as progress:
        for done, (entry, found) in enumerate(
            zip(chosen, pool.map(lambda entry: _in_object(dataset, entry, entries, needles), chosen), strict=True), 1
        ):
            result.found += [f"{entry.path}: {what}" for what in found]
            progress.update(done, f"{len(result.found)} found")
    return result


def _in_object(dataset: Store, entry: Object, entries: Entries, needles: re.Pattern[bytes] | None) -> list[str]:
    try:
        content = dataset.read(entry.path)
    except FileNotFoundError:  # it went meanwhile
        return []
    found: dict[str, None] = {}
    for what in _in_bytes(content, entry.path, entries, needles):
        found[what] = None
    return list(found)[: 2 * _EXAMPLES]


def _in_bytes(content: bytes, name: str, entries: Entries, needles: re.Pattern[bytes] | None) -> Iterator[str]:
    """What of the entries some bytes hold; ``name`` ends as the object that they are of."""
    if needles is not None:
        yield from (f"the bytes {match[:80]!r}" for match in _first(m[0] for m in needles.finditer(content)))
    if content[:4] == b"PAR1":
        yield from _in_parquet(content, name, entries, needles)
    elif codec := next((codec for magic, codec in _PACKED.items() if content.startswith(magic)), None):
        with pa.CompressedInputStream(pa.BufferReader(content), codec) as stream:
            yield from _in_bytes(bytes(stream.read()), name.rpartition(".")[0], entries, needles)
    elif content[:6] == b"\x93NUMPY":
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype == _UIDS:
            yield from _in_uids(np.stack([array["f0"].byteswap(), array["f1"].byteswap()], axis=1), entries)
    elif name.endswith(".uids") and len(content) % 16 == 0:
        yield from _in_uids(np.frombuffer(content, np.uint64).reshape(-1, 2), entries)
    elif name.endswith(".mds"):
        yield from _in_table(_rows_of_mds(content), entries)
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for info in tar:
                file = tar.extractfile(info)
                yield from _in_bytes(file.read() if file is not None else b"", info.name, entries, needles)
    else:
        yield from _in_text(content, entries)
        yield from _in_image(content, entries)


def _in_parquet(content: bytes, name: str, entries: Entries, needles: re.Pattern[bytes] | None) -> Iterator[str]:
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield from _in_table(table, entries)
            for column in table.column_names:
                kind = table.schema.field(column).type
                if pa.types.is_struct(kind) or pa.types.is_list(kind) or pa.types.is_map(kind):  # Delta's checkpoints
                    text = json.dumps(table[column].to_pylist(), default=str).encode()
                elif pa.types.is_string(kind) or (pa.types.is_binary(kind) and column != "jpg"):
                    # Of a table of an hour's crawl most URLs are compared as columns already; what is text may hold some too.
                    text = b"\n".join(
                        value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
                        for value in table[column].to_pylist()
                        if value is not None
                    )
                else:
                    continue
                if column not in _COMPARED:
                    yield from _in_text(text, entries)
                if needles is not None:
                    yield from (f"the bytes {match[:80]!r} in {column}" for match in _first(m[0] for m in needles.finditer(text)))


def _in_table(table: pa.Table, entries: Entries) -> Iterator[str]:
    for kind, marks in entries.matches(table).items():
        rows = np.flatnonzero(marks)
        column = next((name for name in (kind, "url", "URL", "page_url", "uid") if name in table.column_names), None)
        for row in rows[:_EXAMPLES]:
            yield f"{kind} {table[column][int(row)].as_py() if column else ''} in row {row}".strip()
    if "jpg" in table.column_names and {"md5", "sha1", "sha256"} & entries.words.keys():
        for image in table["jpg"]:
            if image.is_valid:
                yield from _in_image(bytes(image.as_buffer()), entries)


def _in_image(content: bytes, entries: Entries) -> Iterator[str]:
    for kind in ("md5", "sha1", "sha256"):
        if kind in entries.words and entries.holds(kind, digest := hashlib.new(kind, content, usedforsecurity=False).hexdigest()):
            yield f"bytes whose {kind} is {digest}"


def _in_uids(words: np.ndarray, entries: Entries) -> Iterator[str]:
    for row in np.flatnonzero(entries.places("uid", np.ascontiguousarray(words)) >= 0)[:_EXAMPLES]:
        yield f"uid {np.ascontiguousarray(words[row]).tobytes().hex()}"


def _in_text(content: bytes, entries: Entries) -> Iterator[str]:
    """Hashes and URLs that stand in text, escaped as in JSON and HTML too."""
    hashes = {match.decode().lower() for match in _HASH.findall(content)}
    for kind in HEX.keys() & entries.words.keys():
        fitting = sorted(text for text in hashes if len(text) == HEX[kind])
        yield from (f"{kind} {text}" for text in _first(text for text in fitting if entries.holds(kind, text)))
    if {"url", "domain", "page"} & entries.words.keys():
        urls = {html.unescape(_plain(match.decode("utf-8", "replace"))) for match in _URL.findall(content)}
        yield from (f"URL {url}" for url in _first(url for url in sorted(urls) if _names_url(url, entries)))


def _names_url(url: str, entries: Entries) -> bool:
    host = url.split("/", 3)[2].rpartition("@")[2].partition(":")[0]
    trimmed = url.rstrip(".,;)]}&")
    return any(entries.holds(kind, text) for kind in ("url", "page") if kind in entries.words for text in {url, trimmed}) or (
        "domain" in entries.words and entries.holds("domain", host)
    )


def _rows_of_mds(content: bytes) -> pa.Table:
    """The compared columns of a raw shard, which says itself what they are."""
    count = int(np.frombuffer(content, np.uint32, 1)[0])
    bounds = np.frombuffer(content, np.uint32, count + 1, 4)
    head = json.loads(content[mds_rows.head_bytes(count) : bounds[0]])
    layout = mds_rows.Layout(head | {"raw_data": {"basename": "a shard"}})
    rows = [memoryview(content)[start:end] for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    columns: dict[str, Any] = {}
    for name in _COMPARED:
        if name in head["column_names"]:
            values = [layout.value(row, name) for row in rows]
            columns[name] = (
                pa.array(values, pa.binary()) if name == "jpg" else pa.array([v.decode("utf-8", "replace") for v in values])
            )
    return pa.table(columns)


def _needles(texts: Sequence[str]) -> re.Pattern[bytes] | None:
    """Texts as they stand and as they are escaped; hashes as bytes too."""
    if not texts or len(texts) > MOST_TEXTS:
        return None
    forms: set[bytes] = set()
    for text in texts:
        forms |= {form.encode("utf-8", "surrogatepass") for form in (text, json.dumps(text)[1:-1], html.escape(text))}
        if re.fullmatch(r"(?:[0-9a-fA-F]{2}){16,}", text):
            forms |= {text.lower().encode(), bytes.fromhex(text)}
    return re.compile(b"|".join(re.escape(form) for form in sorted(forms) if form))


def _plain(text: str) -> str:
    return text.replace("\\/", "/")


def _first(found: Iterable[Any]) -> Iterator[Any]:
    for number, one in enumerate(found):
        if number == _EXAMPLES:
            return
        yield one

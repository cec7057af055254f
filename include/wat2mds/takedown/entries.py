"""What a takedown lists, as hashes, and which rows of a table it names.

In: tables with the columns of PAIRS, SAMPLES, METADATA or OUTCOMES. Out: ``Entries``; a mark for each row. Guaranteed: URLs are
compared in the form that makes identity (``identity.normalize_url``), a domain with its subdomains; of uids and hashes the first 128
bits are compared, of PDQ all 256, or as many as may differ; memory holds 16 bytes an entry (PDQ: 32) and as much again to sort them.
What does not belong here: reading lists (``lists.py``), where tables lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.errors import ConfigError
from wat2mds.identity import normalize_host, normalize_url
from wat2mds.models.near_duplicates import NONE, Index
from wat2mds.models.pictures import PDQ_LEAST_QUALITY, PDQ_MATCH

# Hex digits of those that are hashes.
HEX = {"uid": 32, "md5": 32, "sha1": 40, "sha256": 64, "pdq": 64}
KINDS = (*HEX, "url", "domain", "page")
# An index of PDQ hashes by distance takes 170 bytes a hash (near_duplicates.Index).
MOST_NEAR = 2_000_000
WORDS = {kind: 4 if kind == "pdq" else 2 for kind in KINDS}
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16, dtype=np.uint8)
# Columns that each kind is compared with; of several the first that a table has.
_COLUMNS = {
    **{kind: (kind,) for kind in HEX},
    "url": ("url_normalized", "url", "URL"),
    "domain": ("url_normalized", "url", "URL"),
    "page": ("page_url",),
}


@dataclass
class Entries:
    """Entries by kind: uint64 [n, 2], of PDQ [n, 4], sorted and distinct. ``near``: PDQ hashes by the bits that may differ.
    ``seen``: after ``watch`` a mark for each entry that named something, bool [n]."""

    words: dict[str, np.ndarray] = field(default_factory=dict)
    near: list[tuple[Index, int]] = field(default_factory=list)
    seen: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _keys: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return any(len(words) for words in self.words.values())

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(words) for kind, words in sorted(self.words.items()) if len(words)}

    def watch(self) -> None:
        """Keep from now on which entries name something."""
        self.seen = {kind: np.zeros(len(words), bool) for kind, words in self.words.items()}

    def columns(self, names: Iterable[str]) -> list[str]:
        """Of a table's columns those that are looked at."""
        there = set(names)
        wanted = {next((name for name in _COLUMNS[kind] if name in there), "") for kind in self.counts}
        wanted |= {"page_url"} if "domain" in self.counts else set()
        wanted |= {"pdq_quality"} if self.near else set()
        return sorted(wanted & there)

    def matches(self, table: pa.Table) -> dict[str, np.ndarray]:
        """By kind a mark for each row, bool [rows]; kinds that name no row are left out."""
        found = {}
        for kind in self.counts:
            marks = np.zeros(table.num_rows, bool)
            for name in self._compared(kind, table.column_names):
                marks |= self._named(kind, table[name])
            if kind == "pdq" and self.near and "pdq" in table.column_names:
                marks |= self._near(table)
            if marks.any():
                found[kind] = marks
        return found

    def any_of(self, table: pa.Table) -> np.ndarray:
        """A mark for each row, bool [rows]."""
        marks = np.zeros(table.num_rows, bool)
        for found in self.matches(table).values():
            marks |= found
        return marks

    def places(self, kind: str, words: np.ndarray) -> np.ndarray:
        """For each of ``words`` [m, 2 or 4] its place among the entries of that kind, -1 where it is none, int64 [m]."""
        held, asked = self.words.get(kind), _key(words)
        if held is None or not len(held):
            return np.full(len(words), -1, np.int64)
        if kind not in self._keys:
            self._keys[kind] = np.ascontiguousarray(_key(held))
        keys = self._keys[kind]
        # In ascending order memory is gone through once.
        order = np.argsort(asked)
        at = np.empty(len(words), np.int64)
        at[order] = np.searchsorted(keys, asked[order])
        found = np.full(len(words), -1, np.int64)
        still = np.flatnonzero((at < len(keys)) & (keys[np.minimum(at, len(keys) - 1)] == asked))
        while len(still):
            same = (held[at[still]] == words[still]).all(axis=1)
            found[still[same]] = at[still[same]]
            still = still[~same]
            at[still] += 1
            still = still[at[still] < len(keys)]
            still = still[keys[at[still]] == asked[still]]
        if kind in self.seen:
            self.seen[kind][found[found >= 0]] = True
        return found

    def holds(self, kind: str, text: str) -> bool:
        """Whether one value is listed; of a domain also whether a domain above it is. What cannot be of this kind is not."""
        try:
            words = text_words(kind, above(text) if kind == "domain" else [text])
        except ValueError:
            return False
        return bool((self.places(kind, words) >= 0).any())

    def _compared(self, kind: str, names: Sequence[str]) -> list[str]:
        first = next((name for name in _COLUMNS[kind] if name in names), None)
        pages = ["page_url"] if kind == "domain" and "page_url" in names else []
        return [name for name in [first] if name is not None] + pages

    def _named(self, kind: str, column: pa.ChunkedArray) -> np.ndarray:
        marks = np.zeros(len(column), bool)
        if pa.types.is_fixed_size_binary(column.type):  # groups of near-duplicates have PDQ hashes as they are
            there = np.flatnonzero(np.asarray(pc.is_valid(column)))
            hashes = np.frombuffer(b"".join(value for value in column.to_pylist() if value is not None), np.uint64).reshape(-1, 4)
            marks[there[self.places(kind, hashes) >= 0]] = True
            return marks
        if kind in HEX:
            rows, words = hex_words(column, HEX[kind], WORDS[kind])
            marks[rows[self.places(kind, words) >= 0]] = True
            return marks
        encoded = column.combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        named = self._hosts_of(texts) if kind == "domain" else self._urls(kind, texts)
        indices = np.asarray(pc.fill_null(encoded.indices, len(texts)))
        return np.asarray(np.append(named, False)[indices])

    def _urls(self, kind: str, urls: Sequence[str]) -> np.ndarray:
        words = np.array([_text(_url_or_nothing(url)) for url in urls], np.uint64).reshape(-1, 2)
        return np.asarray(self.places(kind, words) >= 0)

    def _hosts_of(self, urls: Sequence[str]) -> np.ndarray:
        known: dict[str, bool] = {"": False}
        found = np.zeros(len(urls), bool)
        for row, url in enumerate(urls):
            try:
                host = urlsplit(url).hostname or ""
            except ValueError:
                continue
            if host not in known:
                known[host] = self.holds("domain", host)
            found[row] = known[host]
        return found

    def _near(self, table: pa.Table) -> np.ndarray:
        if not pa.types.is_string(table.schema.field("pdq").type):
            return np.zeros(table.num_rows, bool)  # of the images of groups their own rows say more
        good = pc.is_valid(table["pdq"])
        if "pdq_quality" in table.column_names:
            good = pc.and_(good, pc.fill_null(pc.greater_equal(table["pdq_quality"], PDQ_LEAST_QUALITY), False))
        usable = np.flatnonzero(np.asarray(good))
        rows, words = hex_words(table["pdq"].take(pa.array(usable)), 64, 4)
        marks = np.zeros(table.num_rows, bool)
        for index, distance in self.near:
            first = index.first(np.ascontiguousarray(words).view(np.uint8).reshape(-1, 32), distance)
            marks[usable[rows[first != NONE]]] = True
            if "pdq" in self.seen and len(self.seen["pdq"]):
                self.seen["pdq"][first[first != NONE]] = True
        return marks


def marks_in(path: Path, entries: Entries) -> np.ndarray:
    """A mark for each row of a local parquet file, bool [rows]."""
    with pq.ParquetFile(path) as file:
        columns = entries.columns(file.schema_arrow.names)
        if not columns:
            return np.zeros(file.metadata.num_rows, bool)
        batches = file.iter_batches(65_536, columns=columns)
        return np.concatenate([np.zeros(0, bool), *(entries.any_of(pa.Table.from_batches([batch])) for batch in batches)])


def entries_of(words: Mapping[str, np.ndarray], pdq_distance: int = 0) -> Entries:
    """Sorted and distinct. Raises ConfigError for a distance with more PDQ hashes than can be searched so."""
    found = Entries({kind: _distinct(rows) for kind, rows in words.items() if len(rows)})
    hashes = found.words.get("pdq")
    if pdq_distance and hashes is not None:
        if not 0 < pdq_distance <= 127:
            raise ConfigError(f"a PDQ distance of {pdq_distance} bits matches anything: ThreatExchange uses {PDQ_MATCH} of 256")
        if len(hashes) > MOST_NEAR:
            raise ConfigError(
                f"{len(hashes):,} PDQ hashes cannot be searched by distance, which takes 170 bytes of memory each: list at most "
                f"{MOST_NEAR:,} at a time, or compare exactly (--pdq-distance 0)"
            )
        found.near.append((Index(hashes.view(np.uint8).reshape(-1, 32)), pdq_distance))
    return found


def merged(several: Sequence[Entries]) -> Entries:
    """All of them at once."""
    if len(several) == 1:
        return several[0]
    kinds = sorted({kind for entries in several for kind in entries.words})
    words = {kind: _distinct(np.concatenate([e.words[kind] for e in several if kind in e.words])) for kind in kinds}
    return Entries(words, [near for entries in several for near in entries.near])


def hex_words(column: pa.ChunkedArray | pa.Array, digits: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, words [n, 2 or 4]) of the values that are so many hex digits; of each as many as fill the words."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    rows, found, start = [np.empty(0, np.int64)], [np.empty((0, words), np.uint64)], 0
    for chunk in chunks:
        chunk = chunk.cast(pa.large_string())
        good = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(pc.binary_length(chunk), digits), False)))
        chosen = chunk if len(good) == len(chunk) else chunk.take(pa.array(good))
        offsets = np.frombuffer(chosen.buffers()[1], np.int64, len(chosen) + 1, chosen.offset * 8) if len(chosen) else [0]
        text = np.frombuffer(chosen.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]].reshape(-1, digits)
        values = _HEX[text[:, : 16 * words]]
        right = (values <= 15).all(axis=1)
        octets = values[right, 0::2] << 4 | values[right, 1::2]
        rows.append(start + good[right])
        found.append(np.ascontiguousarray(octets).view(np.uint64).reshape(-1, words))
        start += len(chunk)
    return np.concatenate(rows), np.concatenate(found)


def text_words(kind: str, texts: Sequence[str]) -> np.ndarray:
    """Words [n, 2 or 4] of values. Raises ValueError for one that is not of its kind."""
    if kind in HEX:
        rows, words = hex_words(pa.array(texts, pa.string()), HEX[kind], WORDS[kind])
        if len(rows) != len(texts):
            wrong = sorted(set(range(len(texts))) - set(rows.tolist()))[0]
            raise ValueError(f"{texts[wrong][:80]!r} is no {kind}: {HEX[kind]} hex digits are expected")
        return words
    form: Callable[[str], str] = _domain if kind == "domain" else _url
    return np.array([_text(form(text)) for text in texts], np.uint64).reshape(-1, 2)


def above(host: str) -> list[str]:
    """A host and the domains above it, but for the last label alone."""
    labels = normalize_host(host).split(".")
    return [".".join(labels[start:]) for start in range(max(1, len(labels) - 1))]


def _url(text: str) -> str:
    if not text.lower().startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    return normalize_url(text)


def _domain(text: str) -> str:
    host = normalize_host(text.removeprefix("*."))
    if "/" in host or "." not in host:
        raise ValueError("a domain is a host name with a dot, such as example.org")
    return host


def _url_or_nothing(url: str) -> str:
    try:
        return normalize_url(url)
    except ValueError:
        return ""


def _text(text: str) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), np.uint64)


def _key(words: np.ndarray) -> np.ndarray:
    """One word a row to sort by: PDQ hashes are alike in parts, the others are hashes already."""
    if words.shape[1] == 2:
        return words[:, 0]
    with np.errstate(over="ignore"):
        return np.asarray((words * _MIX).sum(axis=1, dtype=np.uint64))


def _distinct(words: np.ndarray) -> np.ndarray:
    order = np.lexsort([words[:, -1], _key(words)]) if words.shape[1] == 2 else np.lexsort([*words.T, _key(words)])
    ordered = words[order]
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.ascontiguousarray(ordered[fresh])

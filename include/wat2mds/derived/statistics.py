"""What a card says in numbers: counts of a version's rows, made one WAT file at a time and added up.

In: METADATA rows of one WAT file. Out: ``Statistics``, as JSON beside the unit's part of the release view. Guaranteed: statistics of
several units are the sum of theirs, in any order, so a new version reads those of its new units only; memory is bounded, whatever
the dataset's size: numbers are counted in bins of fixed width, and of hosts the 20,000 most frequent are kept once there are more
(their counts are then lower bounds). What does not belong here: how it looks.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FORMAT = 1
# Width of a bin: LAION's own statistics state deciles of similarity to three places.
SIMILARITY, SHARE, AESTHETIC = 0.001, 0.01, 0.05
SIDES = (256, 512, 1024)  # Table 1 of LAION-400M
SHOWN = 24
# LAION's statistics call a sample unsafe above 0.5; none such, or tagged, is shown on a card.
_SHOWN_MAX_PUNSAFE = 0.5
_SHOWN_CAPTION = 300
_HOSTS_KEPT, _HOSTS_HELD = 20_000, 40_000
_BINS = {
    "similarity": SIMILARITY,
    "punsafe": SHARE,
    "pwatermark": SHARE,
    "toxicity": SHARE,
    "aesthetic": AESTHETIC,
}
_NAMES = ("language", "license_type", "nsfw", "mime", "caption_source", "snapshot", "clip_model")
COLUMNS = [
    *("uid", "caption", "url", "url_normalized", "original_width", "original_height", "original_bytes", "shard", "shard_row"),
    *_BINS,
    *_NAMES,
]


@dataclass
class Statistics:
    """``counts[name]`` maps a value (its bin's number for numbers, "" for null) to its rows; ``shown`` are samples for the sheet:
    those with the smallest uids, so chosen at random but always the same."""

    samples: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Statistics) -> None:
        self.samples += other.samples
        for name, counter in other.counts.items():
            self.counts.setdefault(name, Counter()).update(counter)
        if len(self.counts.get("host", ())) > _HOSTS_HELD:
            ranked = ranking(self.counts["host"])
            self.counts["host"] = Counter(dict(ranked[:_HOSTS_KEPT]))
            self.counts["host"][""] += sum(count for _, count in ranked[_HOSTS_KEPT:])
        self.shown = sorted([*self.shown, *other.shown], key=lambda sample: str(sample["uid"]))[:SHOWN]

    def count(self, name: str) -> Counter[str]:
        return self.counts.get(name, Counter())

    def numbers(self, name: str) -> list[tuple[int, int]]:
        """(bin, rows), ascending, of a column of numbers; nulls left out."""
        return sorted((int(value), rows) for value, rows in self.count(name).items() if value)

    def quantile(self, name: str, share: float) -> int | None:
        """The bin that holds this share of the values below it; None without values."""
        numbers = self.numbers(name)
        wanted, seen = share * sum(rows for _, rows in numbers), 0
        for value, rows in numbers:
            seen += rows
            if seen >= wanted:
                return value
        return None

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "samples": self.samples, "counts": self.counts, "shown": self.shown}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Statistics:
        """Raises KeyError or ValueError for what is not of this format."""
        if found["format"] != FORMAT:
            raise ValueError(f"statistics of format {found['format']}, not {FORMAT}")
        return cls(found["samples"], {name: Counter(values) for name, values in found["counts"].items()}, found["shown"])

    def to_bytes(self) -> bytes:
        return json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")


def ranking(counter: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, equal ones by name; null is left out."""
    return sorted(((name, rows) for name, rows in counter.items() if name), key=lambda item: (-item[1], item[0]))


def of_rows(rows: pa.Table) -> Statistics:
    """Statistics of one WAT file's METADATA rows, of which ``COLUMNS`` are read."""
    counts = {name: _names(rows[name]) for name in _NAMES}
    for name, width in _BINS.items():
        counts[name] = _binned(rows[name], width)
    counts["caption_chars"] = _binned(pc.utf8_length(rows["caption"]), 1)
    # Quarter octaves; sides in half octaves, since they are shown in two dimensions.
    counts["bytes"] = _octaves(rows["original_bytes"], 4)
    counts["host"] = Counter(url.split("/", 3)[2] for url in rows["url_normalized"].to_pylist())
    counts["side"], counts["table1"] = _sides(rows)
    return Statistics(rows.num_rows, counts, _shown(rows))


def _names(column: pa.ChunkedArray) -> Counter[str]:
    found = pc.value_counts(column.combine_chunks())
    return Counter({value or "": rows for value, rows in zip(*(part.to_pylist() for part in found.flatten()), strict=True)})


def _binned(column: pa.ChunkedArray, width: float) -> Counter[str]:
    values = np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
    values = values[np.isfinite(values)]
    # A hair is added so that 0.3, which a float32 holds as 0.29999…, falls into the bin that begins at 0.3.
    return _with_nulls(np.floor(values / width + 1e-4), len(column))


def _octaves(column: pa.ChunkedArray, parts: int) -> Counter[str]:
    values = np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
    return _with_nulls(np.floor(np.log2(values[values > 0]) * parts + 1e-9), len(column))


def _with_nulls(bins: np.ndarray, rows: int) -> Counter[str]:
    values, counts = np.unique(bins.astype(np.int64), return_counts=True)
    found = Counter(dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)))
    if rows > len(bins):
        found[""] = rows - len(bins)
    return found


def _sides(rows: pa.Table) -> tuple[Counter[str], Counter[str]]:
    both = rows.select(["original_width", "original_height"]).drop_null()
    width, height = (np.asarray(column.to_numpy(), dtype=np.float64) for column in both.columns)
    cells = Counter(f"{math.floor(2 * math.log2(w))},{math.floor(2 * math.log2(h))}" for w, h in zip(width, height, strict=True))
    table: Counter[str] = Counter()
    for side in SIDES:
        table[f"either {side}"] = int(((width >= side) | (height >= side)).sum())
        table[f"both {side}"] = int(((width >= side) & (height >= side)).sum())
    return cells, table


def _shown(rows: pa.Table) -> list[dict[str, Any]]:
    safe = pc.and_(
        pc.fill_null(pc.less_equal(rows["punsafe"], _SHOWN_MAX_PUNSAFE), True),
        pc.fill_null(pc.equal(rows["nsfw"], "UNLIKELY"), True),
    )
    names = [
        "uid",
        "caption",
        "similarity",
        "language",
        "url_normalized",
        "original_width",
        "original_height",
        "shard",
        "shard_row",
    ]
    chosen: list[dict[str, Any]] = rows.select(names).filter(safe).sort_by("uid").slice(0, SHOWN).to_pylist()
    for sample in chosen:
        sample["host"] = sample.pop("url_normalized").split("/", 3)[2]
        sample["caption"] = sample["caption"][:_SHOWN_CAPTION]
        sample["similarity"] = None if sample["similarity"] is None else round(sample["similarity"], 4)
    return chosen


def summed(parts: Iterable[Statistics]) -> Statistics:
    total = Statistics()
    for part in parts:
        total.add(part)
    return total

"""Random published samples of a version, and their images, read from the shards by range.

In: a version that stands; a seed. Out: ``Sample``; an image's bytes and type. Guaranteed: the same seed gives the same samples; a few
WAT files' columns are read, and of an image its own bytes; an image is given only of a version that stands now, and only
out of objects that its record names. What does not belong here: searching (``serve``), reading for training (``reading.py``).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds import mds_rows
from wat2mds.errors import DataError, TransientError
from wat2mds.serve.filters import UNSAFE_ABOVE
from wat2mds.store import Layout, Store, join
from wat2mds.units import PublishedUnit
from wat2mds.versions import Version, read_record, withdrawal_of

SHOWN = 24
_WAT_FILES = 4
_COLUMNS = ["uid", "caption", "similarity", "language", "url_normalized", "original_width", "original_height", "punsafe", "nsfw"]
_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Sample:
    """``unit`` is its WAT file's key, ``shard`` a file's name in that WAT file's folder. ``unsafe``: likely so, by score or by tag."""

    unit: str
    shard: str
    row: int
    uid: str
    caption: str
    similarity: float | None
    language: str | None
    host: str
    width: int | None
    height: int | None
    unsafe: bool


def draw_samples(dataset_url: str, number: int, seed: int, count: int = SHOWN) -> list[Sample]:
    """``count`` samples of a version, or all where there are fewer in the WAT files that are drawn; none of a withdrawn one.

    Raises TransientError where the store does not answer, DataError where what the record names is gone or damaged.
    """
    version = _standing(dataset_url, number)
    if version is None or not version.samples:
        return []
    chance = random.Random(f"{number} {seed}")
    chosen = {unit.key: unit for unit in (_drawn_unit(version, chance) for _ in range(_WAT_FILES))}
    share, found = -(-count // len(chosen)), list[Sample]()
    for unit in chosen.values():
        rows = _rows(dataset_url, unit)
        places = sorted(chance.sample(range(len(rows)), min(share, len(rows))))
        found += [_sample(unit, row) for row in rows.take(places).to_pylist()]
    chance.shuffle(found)
    return found[:count]


def read_image(dataset_url: str, number: int, unit_key: str, shard: str, row: int) -> tuple[bytes, str] | None:
    """A stored image and its type; None for whatever is no sample of a version that stands."""
    version = _standing(dataset_url, number)
    if version is None or unit_key.rpartition(".")[0] not in version.units.lists:
        return None
    unit = version.units.get(unit_key)
    path = f"shards/{unit.unit_name}/{shard}" if unit is not None else ""
    if unit is None or path not in {entry.path for entry in unit.objects} or not shard.endswith(".mds"):
        return None
    entry = _index(dataset_url, unit.unit_name, unit.object_ending("/index.json").path).get(shard)
    if entry is None or entry.get("zip_data") is not None or not 0 <= row < entry["samples"]:
        return None
    try:
        with Store(dataset_url).open(path) as file:
            image = mds_rows.Layout(entry).value(mds_rows.read_sample(file, entry, row), "jpg")
    except ValueError as error:
        raise DataError(f"{join(dataset_url, path)}, row {row}: {error}") from error
    except FileNotFoundError:
        return None
    return image, next((kind for head, kind in _TYPES.items() if image.startswith(head)), "application/octet-stream")


def _standing(dataset_url: str, number: int) -> Version | None:
    """None for a version that is not, or that is withdrawn: asked each time, the record itself is immutable."""
    try:
        record = Store(dataset_url).head(Layout.version_path(number))
    except FileNotFoundError:
        return None
    return None if withdrawal_of(dataset_url, number) is not None else _record(dataset_url, number, record.tag)


@lru_cache(maxsize=4)
def _record(dataset_url: str, number: int, tag: str) -> Version:
    return read_record(dataset_url, number)


@lru_cache(maxsize=64)
def _index(dataset_url: str, unit_name: str, path: str) -> dict[str, dict[str, Any]]:
    """A WAT file's shards by their files' names, from its own index: the merged one names all of the dataset."""
    try:
        shards = json.loads(Store(dataset_url).read(path))["shards"]
    except FileNotFoundError as error:
        raise DataError(f"{error}: the version that names it was withdrawn or damaged") from error
    return {str(shard["raw_data"]["basename"]).rpartition("/")[2]: shard for shard in shards}


def _drawn_unit(version: Version, chance: random.Random) -> PublishedUnit:
    lists = {name: entry.samples for name, entry in version.units.lists.items() if entry.samples}
    (segment,) = chance.choices(list(lists), list(lists.values()))
    units = [unit for unit in version.units.segment(segment).values() if unit.samples]
    (unit,) = chance.choices(units, [unit.samples for unit in units])
    return unit


def _rows(dataset_url: str, unit: PublishedUnit) -> pa.Table:
    path = unit.object_ending("/metadata_0.parquet").path
    try:
        with Store(dataset_url).open(path) as file:
            return pq.read_table(file, columns=[*_COLUMNS, "shard", "shard_row"])
    except FileNotFoundError as error:
        raise DataError(f"{error}: the version that names it was withdrawn or damaged") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TransientError(f"{join(dataset_url, path)} cannot be read: {str(error).splitlines()[0]}") from error


def _sample(unit: PublishedUnit, row: dict[str, Any]) -> Sample:
    return Sample(
        unit=unit.key,
        shard=row["shard"].rpartition("/")[2],
        row=row["shard_row"],
        uid=row["uid"],
        caption=row["caption"],
        similarity=row["similarity"],
        language=row["language"],
        host=row["url_normalized"].split("/", 3)[2],
        width=row["original_width"],
        height=row["original_height"],
        unsafe=(row["punsafe"] or 0.0) > UNSAFE_ABOVE or row["nsfw"] not in (None, "UNLIKELY"),
    )

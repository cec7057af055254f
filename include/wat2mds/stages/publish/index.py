"""The merged MDS index of a version.

In: the index of the version before with the lists that it was made of, and the segments that change. Out: one index.json whose shards
are named from the dataset's folder, ``shards/<unit>/shard.00000.mds``. Guaranteed: units in the order of their keys, shards in their
unit's order, so that equal versions have equal bytes; what did not change is copied as bytes, not parsed. streaming's own merge_index
is not used: it keeps one folder level and takes any name that ends in index.json. What does not belong here: where it is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wat2mds.errors import DataError, TransientError
from wat2mds.store import Store, join
from wat2mds.units import PublishedUnit, Units

HEAD, BETWEEN, TAIL = b'{"shards": [', b", ", b'], "version": 2}'


def merge_index(
    dataset: Store, base: bytes | None, before: Units, changed: Mapping[str, Mapping[str, PublishedUnit]]
) -> tuple[bytes, dict[str, int]]:
    """The index of ``before``'s segments with the ``changed`` ones (by segment, then by key) in place of theirs.

    ``base`` is the index of ``before``, None where nothing is published yet. Also returns the length of each changed segment's
    units' text, by key.
    """
    texts: list[bytes | memoryview] = []
    lengths: dict[str, int] = {}
    places, end = _places(before)
    whole = memoryview(base if base is not None else HEAD + TAIL)
    if len(whole) != end + len(TAIL):
        raise DataError(f"the merged index of the newest version of {dataset.url} is not of the length that its record gives")
    for segment in sorted({*before.lists, *changed}):
        if segment not in changed:
            texts.append(_cut(whole, places[segment], before.lists[segment].index_bytes))
            continue
        old = before.segment(segment)
        known, at = {}, places.get(segment, 0)
        for key, unit in old.items():
            known[key] = _cut(whole, at, unit.index_bytes)
            at += unit.index_bytes + len(BETWEEN) if unit.index_bytes else 0
        for key, unit in sorted(changed[segment].items()):
            same = key in old and old[key].unit_name == unit.unit_name
            text = known[key] if same else _shards_text(dataset, unit)
            lengths[key] = len(text)
            texts.append(text)
    # Joined once: at 150,000 shards each copy is 170 MB.
    between = [part for text in texts if len(text) for part in (BETWEEN, text)][1:]
    return b"".join([HEAD, *between, TAIL]), lengths


def unit_shards(dataset: Store, unit: PublishedUnit) -> list[dict[str, Any]]:
    """A unit's own index, its shards named from the dataset's folder. Raises TransientError where it is not what was uploaded."""
    entry = unit.object_ending("/index.json")
    content = dataset.read(entry.path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise TransientError(f"{join(dataset.url, entry.path)} is not what was uploaded: clear the upload task of {unit.key}")
    return named_from_dataset(content, unit)


def named_from_dataset(content: bytes, unit: PublishedUnit) -> list[dict[str, Any]]:
    """The shards of a unit's own index, named from the dataset's folder.

    Some may be named so there: those that a unit without a sample that was taken down shares with the one that had it.
    """
    shards: list[dict[str, Any]] = json.loads(content)["shards"]
    for shard in shards:
        for info in (shard["raw_data"], shard["zip_data"]):
            if info is not None and not info["basename"].startswith("shards/"):
                info["basename"] = f"shards/{unit.unit_name}/{info['basename']}"
    return shards


def _shards_text(dataset: Store, unit: PublishedUnit) -> bytes:
    return BETWEEN.join(json.dumps(shard, sort_keys=True).encode() for shard in unit_shards(dataset, unit))


def _places(units: Units) -> tuple[dict[str, int], int]:
    """Where each segment's text begins in the merged index, and where the last one ends."""
    places, at = {}, len(HEAD)
    for segment, entry in units.lists.items():
        places[segment] = at
        at += entry.index_bytes + len(BETWEEN) if entry.index_bytes else 0
    return places, max(at - len(BETWEEN), len(HEAD))


def _cut(whole: memoryview, start: int, length: int) -> memoryview:
    return whole[start : start + length]

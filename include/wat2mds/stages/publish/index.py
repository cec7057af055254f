"""The merged MDS index of a version.

In: the index of the version before, and the units of the new one. Out: one index.json whose shards are named from the dataset's folder,
``shards/<unit>/shard.00000.mds``. Guaranteed: units in the order of their keys, shards in their unit's order, so that equal versions
have equal bytes. streaming's own merge_index is not used: it keeps one folder level and takes any name that ends in index.json.
What does not belong here: where it is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wat2mds.errors import TransientError
from wat2mds.store import Store, join
from wat2mds.versions import PublishedUnit


def merge_index(
    dataset: Store, base: bytes | None, before: Mapping[str, PublishedUnit], units: Mapping[str, PublishedUnit]
) -> bytes:
    """``base`` is the merged index of ``before``: units that did not change are taken from it, the others read from the store."""
    known: dict[str, list[dict[str, Any]]] = {}
    for shard in json.loads(base)["shards"] if base is not None else ():
        known.setdefault(_unit_of(shard), []).append(shard)
    shards: list[dict[str, Any]] = []
    for key in sorted(units):
        unit = units[key]
        unchanged = key in before and before[key].unit_name == unit.unit_name
        shards += known.get(unit.unit_name, []) if unchanged else _named_from_dataset(dataset, unit)
    return json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()


def _named_from_dataset(dataset: Store, unit: PublishedUnit) -> list[dict[str, Any]]:
    entry = unit.object_ending("/index.json")
    content = dataset.read(entry.path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise TransientError(f"{join(dataset.url, entry.path)} is not what was uploaded: clear the upload task of {unit.key}")
    shards: list[dict[str, Any]] = json.loads(content)["shards"]
    for shard in shards:
        for info in (shard["raw_data"], shard["zip_data"]):
            if info is not None:
                info["basename"] = f"shards/{unit.unit_name}/{info['basename']}"
    return shards


def _unit_of(shard: dict[str, Any]) -> str:
    return str(shard["raw_data"]["basename"]).split("/")[1]

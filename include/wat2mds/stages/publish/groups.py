"""Groups of near-duplicates: every image that is published gets the group of the images that look like it.

In: the WAT files to be published, and what is published. Out: their units, each naming its object of groups. Guaranteed: in the order of
the WAT files' keys and rows, an image belongs to the first group whose founding hash differs in at most 31 of 256 bits, those of
published images before others, and founds a group where there is none; an image that is published again keeps its group while its
hash is near it. So groups depend on the version before and on the WAT files alone, and do not change once they are given. Memory
holds the WAT files' hashes and a million published ones. What does not belong here: dropping (filter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wat2mds.groups import founding_hashes, read_groups, store_groups
from wat2mds.models.near_duplicates import NONE, Index, hash_rows, leaders
from wat2mds.models.pictures import PDQ_LEAST_QUALITY, PDQ_MATCH
from wat2mds.stages.publish.table import read_columns
from wat2mds.store import Store
from wat2mds.units import PublishedUnit, Units

_NOBODY = "\0" * 32


def with_groups(
    dataset: Store, before: Units, ours: Mapping[str, PublishedUnit], rows: Callable[[PublishedUnit], Path]
) -> dict[str, PublishedUnit]:
    """``rows`` gives a unit's metadata object as a local file."""
    units = [ours[key] for key in sorted(ours)]
    tables = [_comparable(rows(unit)) for unit in units]
    everything = pa.concat_tables(tables)
    hashes = hash_rows(everything["pdq"].to_pylist())
    uids = np.array(everything["uid"].to_pylist(), "U32")
    groups, founding = np.full(len(uids), _NOBODY, "U32"), hashes.copy()
    _keep(dataset, before, units, uids, hashes, groups, founding)
    for block in founding_hashes(dataset, before):
        open_rows = np.flatnonzero(groups == _NOBODY)
        if not len(open_rows):
            break
        there = _packed(block["pdq"])
        near = Index(there).first(hashes[open_rows])
        found, at = open_rows[near != NONE], near[near != NONE]
        groups[found], founding[found] = np.array(block["phash_group"].take(at).to_pylist(), "U32"), there[at]
    left = np.flatnonzero(groups == _NOBODY)
    heads = left[leaders(hashes[left])]
    groups[left], founding[left] = uids[heads], hashes[heads]
    made = {}
    for unit, (start, end) in zip(units, pairwise(np.cumsum([0, *map(len, tables)]).tolist()), strict=True):
        packed = pa.array([row.tobytes() for row in founding[start:end]], pa.binary(32))
        table = pa.table({"uid": uids[start:end], "phash_group": groups[start:end], "pdq": packed})
        made[unit.key] = replace(unit, groups=store_groups(dataset, unit.unit_name, table))
    return made


def _keep(
    dataset: Store, before: Units, units: list[PublishedUnit], uids: np.ndarray, hashes: np.ndarray, groups: np.ndarray,
    founding: np.ndarray,
) -> None:  # fmt: skip
    """Give images that the version before holds in the same WAT files the groups that they have there."""
    held = [read_groups(dataset, before[unit.key]) for unit in units if unit.key in before]
    if not held:
        return
    old = pa.concat_tables(held)
    at = pc.index_in(pa.array(uids), value_set=old["uid"].combine_chunks())
    known = np.flatnonzero(np.asarray(pc.is_valid(at)))
    rows = at.take(known)
    there = _packed(old["pdq"].combine_chunks().take(rows))
    near = np.bitwise_count(hashes[known] ^ there).sum(axis=1) <= PDQ_MATCH
    groups[known[near]] = np.array(old["phash_group"].take(rows).to_pylist(), "U32")[near]
    founding[known[near]] = there[near]


def _comparable(path: Path) -> pa.Table:
    """uid and hash of the images that PDQ does not call too plain to be matched."""
    table = read_columns(path, ["uid", "pdq", "pdq_quality"])
    good = pc.and_(pc.is_valid(table["pdq"]), pc.fill_null(pc.greater_equal(table["pdq_quality"], PDQ_LEAST_QUALITY), False))
    return table.filter(good).select(["uid", "pdq"])


def _packed(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, 32)

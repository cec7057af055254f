"""Groups of near-duplicates without the images that are taken down: neither their uids nor their hashes stay in them.

In: a version's units, the uids that go. Out: units whose objects of groups are written anew. Guaranteed: images of one group stay one
group; where the image that founded it goes, the first that stays, in the order of keys and rows, founds it with its own hash. Every
object of groups of the version is read, as each publish does; memory holds one at a time, and of each group concerned its new founder.
What does not belong here: which images are alike (publish).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from wat2mds.groups import read_groups, store_groups
from wat2mds.store import Store
from wat2mds.takedown.entries import Entries
from wat2mds.unit_rows import read_rows
from wat2mds.units import PublishedUnit, Units

Founder = tuple[str, bytes]


def regrouped(dataset: Store, before: Units, ours: Mapping[str, PublishedUnit], entries: Entries) -> dict[str, PublishedUnit]:
    """``ours``, successors of some of ``before``, with their groups, and other units whose groups were founded by an image that goes."""
    made = dict(ours)
    founders: dict[str, Founder] = {}
    for segment in before.lists:
        for key, unit in before.segment(segment).items():
            if unit.groups is None:
                continue
            rows = read_groups(dataset, unit)
            goes = _named(entries, rows["uid"])
            refound = _named(entries, rows["phash_group"]) | _listed_hash(entries, rows["pdq"])
            if not goes.any() and not refound.any():
                continue
            unit = made.get(key, unit)
            table = _refounded(rows.filter(pa.array(~goes)), refound[~goes], founders, dataset, unit)
            made[key] = replace(unit, groups=store_groups(dataset, unit.unit_name, table), table_files=[])
        before.forget(segment)
    return made


def names_gone(rows: pa.Table, entries: Entries) -> bool:
    """Whether a unit's groups name an image that is listed, or have its hash."""
    marks = _named(entries, rows["uid"]) | _named(entries, rows["phash_group"]) | _listed_hash(entries, rows["pdq"])
    return bool(marks.any())


def _refounded(
    rows: pa.Table, refound: np.ndarray, founders: dict[str, Founder], dataset: Store, unit: PublishedUnit
) -> pa.Table:
    if not refound.any():
        return rows
    own = read_rows(dataset, unit, ["uid", "pdq"])
    hashes = dict(zip(own["uid"].to_pylist(), own["pdq"].to_pylist(), strict=True))
    uids, groups, founding = (rows[name].to_pylist() for name in ("uid", "phash_group", "pdq"))
    for row in np.flatnonzero(refound):
        group, founding[row] = founders.setdefault(groups[row], (uids[row], bytes.fromhex(hashes[uids[row]])))
        groups[row] = group
    return pa.table({"uid": uids, "phash_group": groups, "pdq": pa.array(founding, pa.binary(32))}, schema=rows.schema)


def _named(entries: Entries, column: pa.ChunkedArray) -> np.ndarray:
    uids = Entries({"uid": entries.words["uid"]}) if "uid" in entries.words else Entries()
    return uids.any_of(pa.table({"uid": column}))


def _listed_hash(entries: Entries, column: pa.ChunkedArray) -> np.ndarray:
    hashes = Entries({"pdq": entries.words["pdq"]}) if "pdq" in entries.words else Entries()
    return hashes.any_of(pa.table({"pdq": column}))

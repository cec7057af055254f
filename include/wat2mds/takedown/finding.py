"""Where the published WAT files of a dataset hold what a takedown lists.

In: units, entries. Out: which rows of their metadata and outcomes are named, and by what. Guaranteed: nothing is written; only the
columns that are compared are read; memory holds those of a few WAT files. What does not belong here: intermediate files (``work.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.failures import outcomes_of
from wat2mds.store import Store
from wat2mds.takedown.entries import Entries
from wat2mds.units import PublishedUnit

METADATA = "/metadata/metadata_0.parquet"
_THREADS = 4


@dataclass
class Found:
    """What of a unit is named: uids of samples and of rows of its outcomes; rows by kind of entry. ``lost``: its metadata are gone, so
    that nobody can say."""

    unit: PublishedUnit
    samples: set[str] = field(default_factory=set)
    outcomes: set[str] = field(default_factory=set)
    by_kind: Counter[str] = field(default_factory=Counter)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.samples or self.outcomes or self.lost)


def find(dataset: Store, units: Iterable[PublishedUnit], entries: Entries) -> Iterator[Found]:
    """What is named of each unit, in their order; some are read at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda unit: find_in(dataset, unit, entries), units)


def find_in(dataset: Store, unit: PublishedUnit, entries: Entries) -> Found:
    """What is named of one unit. Also of the model for other languages, whose rows are some of the unit's."""
    found = Found(unit)
    outcomes = outcomes_of(unit)
    for path, uids in ((unit.object_ending(METADATA).path, found.samples), (outcomes.path if outcomes else None, found.outcomes)):
        if path is None:
            continue
        try:
            for table in tables(dataset, path, entries):
                _add(found, table, entries, uids)
        except FileNotFoundError:
            found.lost = True
    return found


def tables(dataset: Store, path: str, entries: Entries) -> Iterator[pa.Table]:
    """The compared columns of a parquet object and its uids, a row group at a time. Raises FileNotFoundError."""
    with dataset.open(path) as source, pq.ParquetFile(source) as file:
        names = file.schema_arrow.names
        columns = sorted({*entries.columns(names), *({"uid"} & set(names))})
        for group in range(file.num_row_groups if columns else 0):
            yield file.read_row_group(group, columns=columns)


def _add(found: Found, table: pa.Table, entries: Entries, uids: set[str]) -> None:
    marks = np.zeros(table.num_rows, bool)
    for kind, named in entries.matches(table).items():
        marks |= named
        found.by_kind[kind] += int(named.sum())
    if marks.any():
        uids.update(table["uid"].filter(pa.array(marks)).to_pylist())

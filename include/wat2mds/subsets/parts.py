"""The selected rows of each WAT file, kept: what makes the next version's subset cheap.

In: a definition and a version's units. Out: one part a unit, ``subsets/<name>/parts/<unit>.parquet``: LAION's columns, uid, shard and row.
Guaranteed: a part is a function of its unit and the definition, neither of which changes; memory holds a few units' rows. What does not
belong here: the count's limit, which is not a matter of one WAT file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.derived.release import SCHEMA as LAION_SCHEMA
from wat2mds.derived.release import laion_rows
from wat2mds.schema import LAION_VIEW
from wat2mds.store import Store
from wat2mds.subsets import uids
from wat2mds.subsets.definition import Definition, folder
from wat2mds.unit_rows import read_rows
from wat2mds.units import PublishedUnit
from wat2mds.versions import Version

PLACE = ("uid", "shard", "shard_row")
ROWS_A_FILE = 1_000_000
_THREADS = 4


@dataclass(frozen=True)
class Part:
    """A unit's part."""

    dataset: Store
    path: str
    unit: PublishedUnit

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.dataset.read(self.path)), columns=columns)

    def uids(self) -> np.ndarray:
        """uid pairs [rows], dtype ``uids.DTYPE``, in the unit's order."""
        return uids.of(self.read(["uid"])["uid"])


def of_version(dataset: Store, name: str, definition: Definition, version: Version) -> dict[str, Part]:
    """The parts of a version's units by key, in their order; those that are missing are made."""
    where = f"{folder(name)}/parts"
    there = {entry.path for entry in dataset.walk(where)}
    found = {key: Part(dataset, f"{where}/{unit.unit_name}.parquet", unit) for key, unit in version.units.items()}
    predicate = definition.predicate()
    columns = sorted({*predicate.columns, *LAION_VIEW.values(), *PLACE})

    def make(part: Part) -> None:
        rows = read_rows(dataset, part.unit, columns)
        taken = rows.take(predicate.select(rows))
        kept = laion_rows(taken)
        for column in PLACE:
            kept = kept.append_column(column, taken[column])
        out = io.BytesIO()
        pq.write_table(kept, out, compression="zstd", compression_level=3)
        dataset.write(part.path, out.getvalue())

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(make, [part for part in found.values() if part.path not in there]))
    return found


def metadata_files(
    parts: dict[str, Part], last: tuple[int, int] | None, scratch: Path, selected: dict[str, int]
) -> Iterator[tuple[Path, int]]:
    """(file, rows) of the rows up to the uid ``last`` under LAION's names; a file is the caller's before the next is begun.

    ``selected`` is filled with each unit's count.
    """
    waiting: list[pa.Table] = []
    for key, part in parts.items():
        table = within(part.read(), last)
        selected[key] = table.num_rows
        waiting.append(table.select(LAION_SCHEMA.names))
        while sum(len(some) for some in waiting) >= ROWS_A_FILE:
            whole = pa.concat_tables(waiting)
            yield _written(whole.slice(0, ROWS_A_FILE), scratch), ROWS_A_FILE
            waiting = [whole.slice(ROWS_A_FILE)]
    rest = pa.concat_tables([LAION_SCHEMA.empty_table(), *waiting])
    if rest.num_rows:
        yield _written(rest, scratch), rest.num_rows


def within(rows: pa.Table, last: tuple[int, int] | None) -> pa.Table:
    """The rows whose uid is not above ``last``; none where that is None."""
    end = f"{last[0]:016x}{last[1]:016x}" if last is not None else ""
    return rows.filter(pc.less_equal(rows["uid"], end))


def _written(table: pa.Table, scratch: Path) -> Path:
    path = scratch / "metadata.parquet"
    pq.write_table(table, path, compression="zstd", compression_level=3)
    return path

"""Groups of images that look alike, as versions hold them: one object a WAT file.

In: a WAT file's rows with their groups. Out: the object that a version's record names, and what it holds. Guaranteed: an object is
immutable and checked by its hash when it is read; it holds the hash by which a group was founded, so that a group stays what it is when
the image that founded it is no longer in the dataset. What does not belong here: which image belongs to which group (publish).
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.store import Store, join
from wat2mds.units import PublishedUnit, StoredObject, Units

FOLDER = "versions/groups"
# phash_group: uid of the image that founded the group; pdq: that image's hash. About 70 bytes a row as stored.
SCHEMA = pa.schema([("uid", pa.string()), ("phash_group", pa.string()), ("pdq", pa.binary(32))])


def store_groups(dataset: Store, unit_name: str, rows: pa.Table) -> StoredObject:
    """Write a WAT file's rows of SCHEMA."""
    out = io.BytesIO()
    pq.write_table(rows.select(SCHEMA.names).cast(SCHEMA), out, compression="zstd")
    content = out.getvalue()
    # Not named by content, like the lists of units: no attempt relies on what another left and a vacuum may be about to remove.
    path = f"{FOLDER}/{unit_name}.{secrets.token_hex(6)}.parquet"
    dataset.write(path, content)
    return StoredObject(path, len(content), hashlib.sha256(content).hexdigest())


def read_groups(dataset: Store, unit: PublishedUnit) -> pa.Table:
    """Rows of SCHEMA; none where the WAT file was published without groups. Raises DataError for an object that is gone or damaged."""
    if unit.groups is None:
        return SCHEMA.empty_table()
    try:
        content = dataset.read(unit.groups.path)
    except FileNotFoundError as error:
        raise DataError(f"{error}: the version that names it was withdrawn or damaged") from error
    if hashlib.sha256(content).hexdigest() != unit.groups.sha256:
        raise DataError(f"{join(dataset.url, unit.groups.path)} is not what the version records: it was damaged")
    return pq.read_table(pa.BufferReader(content))


def with_groups(rows: pa.Table, groups: pa.Table) -> pa.Table:
    """Rows with phash_group filled in, by uid; null for those that have none."""
    at = pc.index_in(rows["uid"], value_set=groups["uid"].combine_chunks())
    place = rows.schema.get_field_index("phash_group")
    return rows.set_column(place, rows.schema.field(place), groups["phash_group"].combine_chunks().take(at))


def founding_hashes(
    dataset: Store, units: Units, wanted: Callable[[PublishedUnit], bool] = lambda unit: True, rows: int = 1_000_000
) -> Iterator[pa.Table]:
    """The rows of a version's units in the order of their keys, some ``rows`` at a time: memory does not grow with the dataset."""
    waiting: list[pa.Table] = []
    for segment in units.lists:
        for unit in units.segment(segment).values():
            if wanted(unit):
                waiting.append(read_groups(dataset, unit))
            if sum(len(table) for table in waiting) >= rows:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting = []
        units.forget(segment)
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()

"""The rows of one WAT file of a version, as the metadata table has them, without the table.

In: a published unit. Out: columns of METADATA, in the order of its samples in the shards. Guaranteed: the object that upload left is
checked by its hash, and the groups of look-alikes, which only publishing knows, are filled in from the version's own object. What does not
belong here: rows of many WAT files at a time (``versions.open_table``).
"""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import TransientError
from wat2mds.groups import read_groups, with_groups
from wat2mds.schema import METADATA
from wat2mds.store import Store, join
from wat2mds.units import PublishedUnit, StoredObject

GROUP = "phash_group"


def read_rows(dataset: Store, unit: PublishedUnit, columns: list[str]) -> pa.Table:
    """These columns of a unit's rows, as METADATA types them. Raises TransientError where its metadata are not what was uploaded,
    DataError where its groups are gone or damaged."""
    content = read_checked(dataset, unit.object_ending("/metadata_0.parquet"), unit)
    grouped = GROUP in columns and unit.groups is not None
    stored = [*columns, "uid"] if grouped and "uid" not in columns else columns
    rows = pq.read_table(pa.BufferReader(content), columns=stored, schema=METADATA.schema)
    if not grouped:
        return rows
    return with_groups(rows, read_groups(dataset, unit)).select(columns)


def read_checked(dataset: Store, entry: StoredObject, unit: PublishedUnit) -> bytes:
    """One of a unit's objects. Raises TransientError where it is gone, or not what was uploaded."""
    try:
        content = dataset.read(entry.path)
    except FileNotFoundError as error:
        raise TransientError(f"{error}: clear the upload task of {unit.key}") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise TransientError(f"{join(dataset.url, entry.path)} is not what was uploaded: clear the upload task of {unit.key}")
    return content

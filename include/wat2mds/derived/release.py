"""The release view: a version's rows under LAION's column names and types, as parquet that img2dataset and our ``import`` read.

In: a version's units with their metadata objects, whose rows the metadata table holds. Out: one part file a WAT file,
``release/<unit>/<format>.parquet``, and ``versions/N/release.json``, which lists a version's parts with rows, sizes and hashes.
Guaranteed: the same rows give the same bytes (``fetched_at`` is not in it); a part belongs to a unit, which never changes, so a new
version makes the parts of its new WAT files only; a version's list is written after all its parts. What does not belong here:
choosing rows (subsets).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.schema import LAION_VIEW
from wat2mds.settings import digest
from wat2mds.store import Store, join
from wat2mds.versions import PublishedUnit, StoredObject, Version

# As laion2B-en-aesthetic's own files have them (huggingface.co, dataset_info), but for the sides, which are float64 there because
# pandas has no integer that may be null.
_TYPES = {
    "SAMPLE_ID": pa.int64(),
    "WIDTH": pa.int64(),
    "HEIGHT": pa.int64(),
    "similarity": pa.float64(),
    "punsafe": pa.float32(),
    "pwatermark": pa.float32(),
    "AESTHETIC_SCORE": pa.float32(),
    "hash": pa.int64(),
}
SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.string())) for name in LAION_VIEW])
# What LAION writes where there is no licence (laion-400-open-dataset) and no language (ccpp.py).
_NOTHING = {"LICENSE": "?", "LANGUAGE": ""}
_FORMAT = digest(1, str(SCHEMA), LAION_VIEW)
ROWS_A_FILE = 1_000_000
_COMPRESSION: Any = {"compression": "zstd", "compression_level": 3}


def part_path(unit: PublishedUnit) -> str:
    """A unit's part, from the dataset's folder; another set of columns has another name."""
    return f"release/{unit.unit_name}/laion.{_FORMAT}.parquet"


def list_path(number: int) -> str:
    return f"versions/{number:06d}/release.json"


def laion_rows(rows: pa.Table) -> pa.Table:
    """METADATA rows under LAION's names and types."""
    columns = []
    for name, ours in LAION_VIEW.items():
        values = rows[ours].cast(SCHEMA.field(name).type)
        columns.append(pc.fill_null(values, _NOTHING[name]) if name in _NOTHING else values)
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_part(dataset: Store, unit: PublishedUnit, rows: pa.Table) -> StoredObject:
    """Make one unit's part; the same rows give the same bytes."""
    out = io.BytesIO()
    pq.write_table(laion_rows(rows), out, **_COMPRESSION)
    content = out.getvalue()
    dataset.write(part_path(unit), content)
    return StoredObject(part_path(unit), len(content), hashlib.sha256(content).hexdigest())


def read_parts(dataset: Store, version: Version) -> dict[str, StoredObject]:
    """A version's parts by WAT file. Raises DataError where the release view has not been made."""
    try:
        found = dataset.read_json(list_path(version.number))
        return {entry["unit"]: StoredObject(entry["path"], entry["bytes"], entry["sha256"]) for entry in found["parts"]}
    except FileNotFoundError as error:
        raise DataError(
            f"version {version.number} of {dataset.url} has no release view yet: make it with `wat2mds derive --version {version.number}`"
        ) from error


def export(dataset: Store, version: Version, folder: Path, rows_a_file: int = ROWS_A_FILE) -> list[Path]:
    """A version's release view as a few larger files, ``part-00000.parquet`` …, for tools that take a folder of them.

    ``folder`` is local and made if need be. Memory holds one WAT file's rows. Raises ConfigError if it holds parquet files already,
    TransientError for a part that is not what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise ConfigError(f"{folder} holds parquet files already, which a reader would mix with these: name an empty folder")
    parts = read_parts(dataset, version)
    written: list[Path] = []
    writer: pq.ParquetWriter | None = None
    room = 0
    try:
        for table in _tables(dataset, parts):
            while table.num_rows:
                if writer is None or room == 0:
                    if writer is not None:
                        writer.close()
                    written.append(folder / f"part-{len(written):05d}.parquet")
                    writer, room = pq.ParquetWriter(written[-1], SCHEMA, **_COMPRESSION), rows_a_file
                writer.write_table(table.slice(0, room))
                table, room = table.slice(room), max(0, room - table.num_rows)
    finally:
        if writer is not None:
            writer.close()
    return written


def _tables(dataset: Store, parts: dict[str, StoredObject]) -> Iterator[pa.Table]:
    for key in sorted(parts):
        content = dataset.read(parts[key].path)
        if hashlib.sha256(content).hexdigest() != parts[key].sha256:
            raise TransientError(f"{join(dataset.url, parts[key].path)} is damaged: `wat2mds derive --anew` makes it again")
        yield pq.read_table(pa.BufferReader(content), schema=SCHEMA)

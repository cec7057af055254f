"""The metadata table of a dataset: a Delta table partitioned by WAT file, brought to hold exactly given units.

In: units with their uploaded metadata objects, by segment. Out: a Delta version and each unit's files in it. Guaranteed: the Delta
version returned was read back after its commit and holds these units' rows and no others; only WAT files whose rows differ are
rewritten, in one commit; old versions stay readable, since neither the log nor replaced files expire by themselves. What does not
belong here: which units make a version.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from wat2mds.errors import DataError, TransientError
from wat2mds.groups import read_groups, with_groups
from wat2mds.schema import METADATA
from wat2mds.store import Layout, Store, join
from wat2mds.units import PublishedUnit, TableFile, Units, files_digest, segment_of, unit_key
from wat2mds.versions import table_location

log = logging.getLogger(__name__)
Segments = Mapping[str, Mapping[str, PublishedUnit]]
Files = dict[str, dict[str, list[TableFile]]]
PARTITION = ("snapshot", "segment", "wat_file")
# Delta knows microseconds only; the values are the same seconds.
SCHEMA = pa.schema([f.with_type(pa.timestamp("us", tz="UTC")) if pa.types.is_timestamp(f.type) else f for f in METADATA.schema])
# Versions are named for good: the log must not expire. Statistics for what readers select by, the other columns have none.
CONFIGURATION: dict[str, str | None] = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.dataSkippingStatsColumns": "uid,laion_hash,language,similarity,punsafe,pwatermark,aesthetic,width,height,"
    "original_width,original_height,shard,shard_row",
}
# What tells that a file holds a unit's rows: which samples, where in its shards each lies, and what publish itself says of them.
_WITNESS = ["uid", "shard", "shard_row", "phash_group"]


class Moved(Exception):
    """Another publisher committed to the table meanwhile; look again."""


class MetadataTable:
    """The Delta table of one dataset; ``folder`` is scratch space for metadata objects."""

    def __init__(self, dataset_url: str, folder: Path) -> None:
        self.dataset = Store(dataset_url)
        self.files = Store(Layout.of(dataset_url).metadata)
        self.uri, self.options = table_location(dataset_url)
        self.folder = folder

    def rows(self, unit: PublishedUnit) -> Path:
        """A unit's metadata object as a local file, checked. Raises TransientError where it is not what was uploaded."""
        entry = unit.object_ending("/metadata_0.parquet")
        path = self.folder / f"{unit.unit_name}.{entry.sha256[:12]}.parquet"
        if not path.exists():
            try:
                content = self.dataset.read(entry.path)
            except FileNotFoundError as error:
                raise TransientError(f"{error}: clear the upload task of {unit.key}") from error
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise TransientError(
                    f"{join(self.dataset.url, entry.path)} is not what was uploaded: clear the upload task of {unit.key}"
                )
            path.write_bytes(content)
        return path

    def bring_to(self, before: Units, changed: Segments) -> tuple[int, Files]:
        """Make the table hold exactly the units of ``before`` with the ``changed`` segments in place of theirs.

        Returns the Delta version that does, and each unit's files by segment and key. Raises Moved when another publisher's commit came
        between.
        """
        try:
            table = self._open()
            held = files_by_segment(table)
            wrong = self._wrong(before, changed, held)
            if not wrong:
                return table.version(), held
            log.info("metadata table: rows of %d WAT files are replaced, on Delta version %d", len(wrong), table.version())
            self._replace(table, wrong)
            # Looked at anew: what was committed may have been rebased onto another publisher's commit.
            table = DeltaTable(self.uri, version=table.version(), storage_options=self.options)
            held = files_by_segment(table)
            still = self._wrong(before, changed, held)
        except CommitFailedError as error:
            raise Moved(f"metadata table: {_first_line(error)}") from error
        except (DeltaError, OSError) as error:
            raise TransientError(f"metadata table {self.uri}: {_first_line(error)}") from error
        if still:
            raise Moved(f"metadata table: Delta version {table.version()} holds other rows of {', '.join(list(still)[:3])}")
        return table.version(), held

    def _wrong(self, before: Units, changed: Segments, held: Files) -> dict[str, PublishedUnit | None]:
        """The WAT files whose rows are not as they should be, with their units; None for one that should have none."""
        wrong: dict[str, PublishedUnit | None] = {}
        for segment in sorted({*before.lists, *changed, *held}):
            files = held.get(segment, {})
            if segment in changed:
                units = changed[segment]
            elif segment in before.lists and files_digest(files) == before.lists[segment].files:
                continue  # as the newest version recorded them, without looking into its list
            else:
                units = before.segment(segment)
            for key in sorted(units.keys() | files.keys()):
                if not self._right(units.get(key), files.get(key, [])):
                    wrong[key] = units.get(key)
        return wrong

    def _open(self) -> DeltaTable:
        try:
            return DeltaTable(self.uri, storage_options=self.options)
        except TableNotFoundError:
            pass
        try:
            return DeltaTable.create(
                self.uri,
                schema=SCHEMA,
                partition_by=list(PARTITION),
                mode="error",
                name="metadata",
                description="one row a published sample; read it at the Delta version that a version record names",
                configuration=CONFIGURATION,
                storage_options=self.options,
            )
        except DeltaError as error:
            try:  # another publisher created it first
                return DeltaTable(self.uri, storage_options=self.options)
            except TableNotFoundError:
                raise error from None

    def _replace(self, table: DeltaTable, wrong: Mapping[str, PublishedUnit | None]) -> None:
        """One commit: all rows of these WAT files out, their units' rows in; the rows are streamed."""
        write_deltalake(
            table,
            pa.RecordBatchReader.from_batches(SCHEMA, self._batches(unit for unit in wrong.values() if unit is not None)),
            mode="overwrite",
            predicate=_predicate(wrong),
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False),
        )

    def _batches(self, units: Iterable[PublishedUnit]) -> Iterator[pa.RecordBatch]:
        for unit in units:
            groups = self._groups(unit)
            with pq.ParquetFile(self.rows(unit)) as file:
                if not file.schema_arrow.equals(METADATA.schema):
                    raise DataError(f"{unit.unit_name}: metadata_0.parquet is not of the schema METADATA; run convert again")
                for batch in file.iter_batches(8192):
                    yield from with_groups(pa.Table.from_batches([batch]), groups).cast(SCHEMA).to_batches()

    def _right(self, unit: PublishedUnit | None, files: list[TableFile]) -> bool:
        """Whether these files hold a unit's rows: those that the record names, or else by reading them."""
        if unit is None or sum(file.rows for file in files) != unit.samples:
            return unit is None and not files
        if unit.table_files and sorted(unit.table_files, key=_path) == sorted(files, key=_path):
            return True
        if not files:
            return True
        rows = with_groups(read_columns(self.rows(unit), _WITNESS), self._groups(unit))
        return bool(self._witness(files).equals(_sorted(rows)))

    def _groups(self, unit: PublishedUnit) -> pa.Table:
        return read_groups(self.dataset, unit).select(["uid", "phash_group"]).combine_chunks()

    def _witness(self, files: list[TableFile]) -> pa.Table:
        tables = [read_columns(pa.BufferReader(self.files.read(file.path)), _WITNESS) for file in files]
        schema = pa.schema([METADATA.schema.field(name) for name in _WITNESS])
        return _sorted(pa.concat_tables(table.cast(schema) for table in tables))


def read_columns(source: Any, columns: list[str]) -> pa.Table:
    """Of one parquet file. Not by ``read_table``, which imports pandas and takes a path's folders for columns."""
    with pq.ParquetFile(source) as file:
        return file.read(columns=columns)


def files_by_segment(table: DeltaTable) -> Files:
    """The table's files by segment and WAT file's key, from the add actions of its Delta version."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions[name].to_pylist() for name in (*(f"partition.{name}" for name in PARTITION), "path", "num_records")]
    held: Files = {}
    for snapshot, segment, wat_file, path, rows in zip(*columns, strict=True):
        key = unit_key(snapshot, segment, wat_file)
        held.setdefault(segment_of(key), {}).setdefault(key, []).append(TableFile(unquote(path), rows))
    return {segment: {key: sorted(found, key=_path) for key, found in files.items()} for segment, files in held.items()}


def _predicate(keys: Iterable[str]) -> str:
    """SQL that selects the rows of these WAT files, by partition columns alone, so that whole files are replaced."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        head, _, number = key.rpartition(".")
        snapshot, _, segment = head.partition(".")
        groups.setdefault((snapshot, segment), []).append(number)
    return " OR ".join(
        f"(snapshot = {_quoted(snapshot)} AND segment = {_quoted(segment)} AND wat_file IN ({', '.join(map(_quoted, numbers))}))"
        for (snapshot, segment), numbers in groups.items()
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([("shard", "ascending"), ("shard_row", "ascending"), ("uid", "ascending")]).combine_chunks()


def _path(file: TableFile) -> str:
    return file.path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

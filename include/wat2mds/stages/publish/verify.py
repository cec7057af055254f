"""Read a published version back from the store and compare it with its record: every object, every row, every hash.

In: a dataset and a version that stands. Out: what is wrong, all of it. Guaranteed: nothing is mended or written; memory holds a shard, the
rows of one WAT file and the merged index, and uids that stand twice in the version are found through scratch files; of kNN indices and
subsets counts and sizes are compared. What does not belong here: reading through StreamingDataset (``reading.py``), looking for what
was taken down (``takedown/absent.py``).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from wat2mds import subsets
from wat2mds.errors import DataError
from wat2mds.progress import Progress
from wat2mds.search.records import list_indices
from wat2mds.stages.publish.index import BETWEEN, HEAD, TAIL, named_from_dataset
from wat2mds.stages.publish.shards import index_mismatches, shard_uids
from wat2mds.stages.publish.table import Files, files_by_segment, read_columns
from wat2mds.store import Layout, Store
from wat2mds.units import PublishedUnit, SegmentList, StoredObject, TableFile
from wat2mds.versions import Version, newest_number, open_table, read_version

log = logging.getLogger(__name__)
_COLUMNS = ["uid", "shard", "shard_row"]
_BINS = 64
Row = tuple[str, str, int]


@dataclass
class Verified:
    """What was compared, and what is wrong; sound where ``problems`` is empty. ``size`` in bytes."""

    dataset: str
    version: int
    samples: int = 0
    shards: int = 0
    objects: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)


def verify(dataset_url: str, version: int | None = None) -> Verified:
    """Raises DataError where there is no such version, TransientError where the store does not answer."""
    record = read_version(dataset_url, version)
    with tempfile.TemporaryDirectory() as folder:
        check = _Check(Store(dataset_url), record, Path(folder))
        check.run()
    for problem in check.found.problems:
        log.error("version %d: %s", record.number, problem)
    return check.found


class _Check:
    def __init__(self, dataset: Store, record: Version, folder: Path) -> None:
        self.dataset, self.record, self.folder = dataset, record, folder
        self.table = Store(Layout.of(dataset.url).metadata)
        self.found = Verified(dataset.url, record.number)
        self.index = memoryview(b"")
        self.at = len(HEAD)
        # phash_group by uid of the WAT file at hand, as the table has them.
        self.groups: dict[str, str | None] = {}

    def problem(self, text: str) -> None:
        self.found.problems.append(text)

    def run(self) -> None:
        self._merged_index()
        self._root_index()
        files = self._table()
        done = 0
        with Progress("verify", len(self.record.units), "WAT files") as progress:
            for segment, entry in self.record.units.lists.items():
                try:
                    units = self.record.units.segment(segment)
                except DataError as error:
                    self.problem(f"{error}; the {entry.units} WAT files of {segment} cannot be compared")
                    self.at += entry.index_bytes + len(BETWEEN) if entry.index_bytes else 0
                    files.pop(segment, None)
                    continue
                if SegmentList.of(entry.stored, units) != entry:
                    self.problem(f"{entry.stored.path}: its WAT files do not add up to the counts in the record")
                held = files.pop(segment, {})
                for key, unit in units.items():
                    self._unit(unit, held.pop(key, []))
                    done += 1
                    progress.update(done, f"{len(self.found.problems)} problems")
                self.record.units.forget(segment)
                files.setdefault(segment, held)
        for key, stray in ((key, stray) for held in files.values() for key, stray in held.items()):
            self.problem(f"the metadata table holds {sum(f.rows for f in stray)} rows of {key}, which the version does not hold")
        if self.found.samples != self.record.samples:
            self.problem(f"{self.found.samples} samples were read, the record says {self.record.samples}")
        self._twice()
        self._made_of_it()

    def _merged_index(self) -> None:
        content = self._object(self.record.index, "the merged index")
        if content is None:
            return
        texts = [entry.index_bytes for entry in self.record.units.lists.values() if entry.index_bytes]
        if len(content) != len(HEAD) + sum(texts) + len(BETWEEN) * max(0, len(texts) - 1) + len(TAIL):
            self.problem(
                f"{self.record.index.path}: the merged index does not name the shards that the record counts: it is stale"
            )
            return
        self.index = memoryview(content)

    def _root_index(self) -> None:
        """The copy for StreamingDataset on the dataset's folder, which is the newest version's."""
        try:
            content = self.dataset.read("index.json")
        except FileNotFoundError:
            content = b""
        if self.record.number == newest_number(self.dataset.url) and _sha256(content) != self.record.index.sha256:
            self.problem(
                f"index.json is {'stale' if content else 'missing'}: not the index of version {self.record.number}, the newest. "
                f"`wat2mds derive` writes it anew"
            )

    def _table(self) -> Files:
        try:
            return files_by_segment(open_table(self.dataset.url, self.record))
        except (DeltaError, OSError) as error:
            self.problem(
                f"the metadata table cannot be opened at Delta version {self.record.delta_version}: {_first_line(error)}"
            )
            return {}

    def _unit(self, unit: PublishedUnit, files: list[TableFile]) -> None:
        index = self._unit_index(unit)
        names = {str((shard["zip_data"] or shard["raw_data"])["basename"]): shard for shard in index or []}
        stored = {entry.path: entry for entry in unit.objects}
        shards = {path for path in stored if path.startswith("shards/") and not path.endswith("/index.json")}
        if index is not None:
            for path in sorted(shards ^ names.keys()):
                self.problem(f"{path}: {'no index names it' if path in shards else 'the index names it, the record does not'}")
            if (len(index), sum(shard["samples"] for shard in index)) != (unit.shards, unit.samples):
                self.problem(f"shards/{unit.unit_name}/index.json does not count the shards and samples of the record")
        rows: dict[str, list[str]] = {}
        for path in sorted(shards):
            uids = self._shard(stored[path], names.get(path))
            if uids is not None:
                rows[path] = uids
        self._rows(unit, files, rows)
        self._embeddings(unit, rows)
        self._groups(unit)
        self.found.samples += unit.samples
        self.found.shards += unit.shards

    def _unit_index(self, unit: PublishedUnit) -> list[dict[str, Any]] | None:
        """Its shards, named from the dataset's folder; None where it cannot be read. Compared with its part of the merged index."""
        start, self.at = self.at, self.at + (unit.index_bytes + len(BETWEEN) if unit.index_bytes else 0)
        content = self._object(unit.object_ending("/index.json"))
        if content is None:
            return None
        index = named_from_dataset(content, unit)
        text = BETWEEN.join(json.dumps(shard, sort_keys=True).encode() for shard in index)
        if len(self.index) and self.index[start : start + unit.index_bytes] != text:
            self.problem(
                f"{self.record.index.path} does not name the shards of {unit.unit_name} as their own index does: it is stale"
            )
        return index

    def _shard(self, entry: StoredObject, shard: dict[str, Any] | None) -> list[str] | None:
        """Its uids; None where it is damaged, or without an index entry, so that its rows cannot be compared."""
        content = self._object(entry)
        if content is None or shard is None:
            return None
        try:
            wrong = list(index_mismatches(content, shard))
            uids = shard_uids(content, shard)
        except DataError as error:
            self.problem(f"{entry.path} {error}")
            return None
        for text in wrong:
            self.problem(f"{entry.path} {text}")
        self._spool(uids, entry.path)
        return uids

    def _rows(self, unit: PublishedUnit, files: list[TableFile], shards: dict[str, list[str]]) -> None:
        if sorted(files, key=str) != sorted(unit.table_files, key=str):
            self.problem(f"{unit.key}: the metadata table has other files than the record names")
        read: list[pa.Table] = []
        self.groups = {}
        for file in files:
            try:
                with self.table.open(file.path) as source:
                    read.append(read_columns(source, [*_COLUMNS, "phash_group"]))
            except FileNotFoundError:
                self.problem(f"metadata/{file.path} is missing: {file.rows} rows of {unit.key}")
                return
            except (pa.ArrowInvalid, OSError) as error:
                self.problem(f"metadata/{file.path} cannot be read: {_first_line(error)}")
                return
        for table in read:
            self.groups |= dict(zip(table["uid"].to_pylist(), table["phash_group"].to_pylist(), strict=True))
        self._compare("the metadata table", unit, [row for table in read for row in _rows_of(table)], shards)

    def _compare(self, where: str, unit: PublishedUnit, rows: Iterable[Row], shards: dict[str, list[str]]) -> None:
        """Rows against shards; rows of shards that could not be read are left out. ``where`` holds the rows."""
        unread = {entry.path for entry in unit.objects} - shards.keys()
        inside = Counter(row for row in rows if row[1] not in unread)
        there = Counter((uid, path, row) for path, uids in shards.items() for row, uid in enumerate(uids))
        for lost, text in ((inside - there, f"of {where} stand in no shard"), (there - inside, f"of shards are not in {where}")):
            if lost:
                named = ", ".join(f"{uid} ({path} row {row})" for uid, path, row in sorted(lost)[:5])
                self.problem(f"{unit.key}: {lost.total()} rows {text}, e.g. {named}")

    def _embeddings(self, unit: PublishedUnit, shards: dict[str, list[str]]) -> None:
        counts: set[int] = set()
        for entry in unit.objects:
            if not entry.path.startswith(("embeddings/", "outcomes/")):
                continue
            content = self._object(entry)
            if content is None or entry.path.startswith("outcomes/"):
                continue
            if "/other/" in entry.path:
                # The rows of the model for other languages: some of the unit's.
                counts.add(
                    len(read_columns(pa.BufferReader(content), ["uid"]))
                    if entry.path.endswith(".parquet")
                    else len(np.load(io.BytesIO(content), allow_pickle=False))
                )
            elif entry.path.endswith(".parquet"):
                self._compare(entry.path, unit, _rows_of(read_columns(pa.BufferReader(content), _COLUMNS)), shards)
            elif (count := len(np.load(io.BytesIO(content), allow_pickle=False))) != unit.samples:
                self.problem(f"{entry.path} holds {count} rows, {unit.key} has {unit.samples} samples")
        if len(counts) > 1 or max(counts, default=0) > unit.samples:
            self.problem(f"{unit.key}: embeddings/…/other holds files of {', '.join(map(str, sorted(counts)))} rows")

    def _groups(self, unit: PublishedUnit) -> None:
        """That the table's groups are those that were given."""
        content = self._object(unit.groups) if unit.groups is not None else None
        if content is None:
            return
        given = dict(zip(*read_columns(pa.BufferReader(content), ["uid", "phash_group"]).to_pydict().values(), strict=True))
        other = [uid for uid, group in given.items() if self.groups.get(uid, group) != group]
        if other:
            self.problem(
                f"{unit.key}: {len(other)} rows of the metadata table are of another group of near-duplicates, e.g. {other[0]}"
            )

    def _object(self, entry: StoredObject, what: str = "") -> bytes | None:
        """Its bytes, or None with a problem where it is missing or another than the record names."""
        self.found.objects += 1
        try:
            content = self.dataset.read(entry.path)
        except FileNotFoundError:
            self.problem(f"{entry.path} is missing")
            return None
        self.found.size += len(content)
        if len(content) != entry.size:
            self.problem(f"{entry.path}: {what or 'it'} is {len(content)} bytes, the record says {entry.size}")
            return None
        if (sha256 := _sha256(content)) != entry.sha256:
            self.problem(f"{entry.path}: {what or 'it'} has SHA-256 {sha256}, the record says {entry.sha256}")
            return None
        return content

    def _made_of_it(self) -> None:
        """kNN indices and subsets of the version: that their objects are there, and that they count its samples."""
        for index in list_indices(self.dataset.url):
            if index.version == self.record.number:
                if index.count != self.record.samples:
                    self.problem(f"index {index.name} holds {index.count} vectors, the version {self.record.samples} samples")
                self._there(f"index {index.name}", index.objects.values())
        for name in subsets.names(self.dataset):
            if self.record.number in subsets.built_versions(self.dataset, name):
                subset = subsets.read_subset(self.dataset.url, name, self.record.number)
                if subset.of != self.record.samples or subset.samples > subset.of:
                    self.problem(f"subset {name} has {subset.samples} of {subset.of} samples, the version {self.record.samples}")
                self._there(f"subset {name}", [subset.uids, *subset.metadata])

    def _there(self, what: str, entries: Iterable[StoredObject]) -> None:
        for entry in entries:
            self.found.objects += 1
            if not self.dataset.exists(entry.path):
                self.problem(f"{entry.path} is missing, which is part of {what}")
            elif (size := self.dataset.head(entry.path).size) != entry.size:
                self.problem(f"{entry.path}, part of {what}, is {size} bytes, its record says {entry.size}")

    def _spool(self, uids: list[str], path: str) -> None:
        """Keep uids for ``_twice``, by their first bits."""
        try:
            packed = np.frombuffer(bytes.fromhex("".join(uids)), np.uint8).reshape(-1, 16)
        except ValueError:
            self.problem(f"{path} holds uids that are not 32 hex digits")
            return
        bins = packed[:, 0] % _BINS
        for number in np.unique(bins):
            with (self.folder / f"{number}").open("ab") as file:
                file.write(packed[bins == number].tobytes())

    def _twice(self) -> None:
        total, named = 0, list[str]()
        for path in sorted(self.folder.iterdir()):
            values, counts = np.unique(np.fromfile(path, "V16"), return_counts=True)
            total += int((counts > 1).sum())
            named += [value.tobytes().hex() for value in values[counts > 1][: 5 - len(named)]]
        if total:
            self.problem(f"{total} uids stand in shards more than once, e.g. {', '.join(named)}")


def _rows_of(table: pa.Table) -> Iterator[Row]:
    return zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

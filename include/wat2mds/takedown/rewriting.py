"""A published WAT file without some of its samples: only what holds them is written anew.

In: a unit, and what of it is named. Out: its successor, whose objects are in the store. Guaranteed: shards without a named sample are not
read but shared, their rows keep their places; the same unit without the same samples has the same name and bytes, so that two attempts do
not meet; of what stays, the order and the bytes of each sample stay. The successor is not part of a version yet. What does not belong
here: what is named (``finding.py``), groups of near-duplicates (``regrouping.py``).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from wat2mds import mds_rows
from wat2mds.drops import DropReason
from wat2mds.errors import DataError, TransientError
from wat2mds.failures import retriable, uids_digest
from wat2mds.settings import digest
from wat2mds.stages.publish.index import named_from_dataset
from wat2mds.stages.publish.shards import index_mismatches, raw_bytes
from wat2mds.store import Store, join
from wat2mds.takedown.finding import METADATA, Found
from wat2mds.unit_rows import read_checked
from wat2mds.units import PublishedUnit, StoredObject

_OTHER = "/other/"


def without(dataset: Store, found: Found) -> PublishedUnit:
    """Raises TransientError where an object of the unit is gone or damaged."""
    unit = found.unit
    if not found.samples:
        return _with_outcomes(dataset, unit, found.outcomes, unit.unit_name)
    base, _, _ = unit.unit_name.rpartition(".")
    name = f"{base}.{digest(unit.unit_name, sorted(found.samples))}"
    return _with_outcomes(dataset, _Rewriting(dataset, unit, found.samples, name).run(), found.outcomes, name)


class _Rewriting:
    def __init__(self, dataset: Store, unit: PublishedUnit, gone: Set[str], name: str) -> None:
        self.dataset, self.unit, self.gone, self.name = dataset, unit, gone, name
        self.rows = self._table(unit.object_ending(METADATA))
        self.stays = self._stays(self.rows)

    def run(self) -> PublishedUnit:
        index = json.loads(self._read(self.unit.object_ending("/index.json")))
        named = named_from_dataset(json.dumps(index).encode(), self.unit)
        stored = {entry.path: entry for entry in self.unit.objects}
        made: dict[str, StoredObject | None] = {}
        kept: list[dict[str, Any]] = []
        for shard in named:
            path = str((shard["zip_data"] or shard["raw_data"])["basename"])
            in_shard = np.asarray(pc.equal(self.rows["shard"], path))
            if (in_shard & ~self.stays).any():
                made[path], entry = self._shard(stored[path], shard, self.rows.filter(in_shard))
                kept += [entry] if entry is not None else []
            else:
                kept.append(shard)
        objects = [
            made.get(entry.path, entry) if entry.path in made else self._object(entry, kept) for entry in self.unit.objects
        ]
        samples = int(self.stays.sum())
        flows = [self._flow(flow, self.unit.samples - samples) if flow["stage"] == "upload" else flow for flow in self.unit.flows]
        return replace(
            self.unit,
            unit_name=self.name,
            samples=samples,
            shards=len(kept),
            objects=[entry for entry in objects if entry is not None],
            flows=flows,
            table_files=[],
            index_bytes=0,
            built=self.unit.built or self.unit.unit_name,
        )

    def _object(self, entry: StoredObject, shards: list[dict[str, Any]]) -> StoredObject:
        """One that is no shard with a named sample."""
        path = entry.path
        if path.endswith("/index.json"):
            own = f"shards/{self.name}/"
            for shard in shards:  # a name from the dataset's folder is of another unit's shard (publish/index.py)
                for info in (shard["raw_data"], shard["zip_data"]):
                    if info is not None:
                        info["basename"] = info["basename"].removeprefix(own)
            return self._put(entry, json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode())
        if path.endswith(".tar"):
            return self._tar(entry)
        if not path.startswith("embeddings/"):
            return entry
        rows = self.rows
        if _OTHER in path:
            rows = self._table(next(e for e in self.unit.objects if _OTHER in e.path and e.path.endswith(METADATA)))
        stays = self._stays(rows)
        if path.endswith(".npy"):
            out = io.BytesIO()
            np.save(out, np.load(io.BytesIO(self._read(entry)), allow_pickle=False)[stays])
            return self._put(entry, out.getvalue())
        return self._put(entry, _parquet(self._replaced(rows.filter(stays))))

    def _replaced(self, rows: pa.Table) -> pa.Table:
        """Rows with the places that they have now."""
        shards, numbers = self.rows["shard"].to_pylist(), np.asarray(self.rows["shard_row"])
        touched = {shard for shard, stays in zip(shards, self.stays, strict=True) if not stays}
        before: dict[str, np.ndarray] = {}
        for shard in touched:
            of_shard = np.array([name == shard for name in shards])
            before[shard] = np.sort(numbers[of_shard & ~self.stays])
        places = zip(rows["shard"].to_pylist(), rows["shard_row"].to_pylist(), strict=True)
        new = [
            (self._raw_path(shard), int(row - np.searchsorted(before[shard], row))) if shard in touched else (shard, row)
            for shard, row in places
        ]
        for at, name in enumerate(("shard", "shard_row")):
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(
                place, rows.schema.field(place), pa.array([entry[at] for entry in new], rows.schema.field(place).type)
            )
        return rows

    def _raw_path(self, path: str) -> str:
        """A rewritten shard is not compressed, whatever it was."""
        name = path.rpartition("/")[2]
        return f"shards/{self.name}/{name[: name.index('.mds') + len('.mds')]}"

    def _shard(
        self, stored: StoredObject, shard: dict[str, Any], rows: pa.Table
    ) -> tuple[StoredObject | None, dict[str, Any] | None]:
        """A shard without its named samples, as an object and as an entry of the index; none where nothing is left."""
        data = self._read(stored)
        if wrong := next(index_mismatches(data, shard), None):
            raise TransientError(f"{join(self.dataset.url, stored.path)} {wrong}: clear the upload task of {self.unit.key}")
        raw = memoryview(raw_bytes(data, shard))
        layout, bounds = mds_rows.Layout(shard), mds_rows.bounds(raw, shard)
        uid_of = dict(zip(rows["shard_row"].to_pylist(), rows["uid"].to_pylist(), strict=True))
        kept: list[memoryview] = []
        for row in range(shard["samples"]):
            sample = raw[bounds[row] : bounds[row + 1]]
            uid = layout.value(sample, "uid").decode()
            if uid_of.get(row) != uid:
                raise DataError(
                    f"{stored.path} row {row} is {uid}, the metadata have {uid_of.get(row)}: `wat2mds verify` says more"
                )
            if uid not in self.gone:
                kept.append(sample)
        if not kept:
            return None, None
        header = bytes(raw[mds_rows.head_bytes(shard["samples"]) : bounds[0]])
        content = b"".join([mds_rows.head(header, [len(sample) for sample in kept]), *kept])
        path = self._raw_path(stored.path)
        self.dataset.write(path, content)
        info = {"basename": path, "bytes": len(content), "hashes": {name: _hash(name, content) for name in shard["hashes"]}}
        entry = shard | {"raw_data": info, "zip_data": None, "compression": None, "samples": len(kept)}
        return StoredObject(path, len(content), hashlib.sha256(content).hexdigest()), entry

    def _tar(self, entry: StoredObject) -> StoredObject:
        """A WebDataset file without named samples; the same object where it holds none. Its members keep their headers."""
        out, left = io.BytesIO(), 0
        with (
            tarfile.open(fileobj=io.BytesIO(self._read(entry))) as source,
            tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as target,
        ):
            waiting: list[tuple[tarfile.TarInfo, bytes]] = []
            for info in source:
                file = source.extractfile(info)
                waiting.append((info, file.read() if file is not None else b""))
                if not info.name.endswith(".json"):  # a sample's last member, which says its uid
                    continue
                if json.loads(waiting[-1][1])["uid"] in self.gone:
                    left += 1
                else:
                    for member, content in waiting:
                        target.addfile(member, io.BytesIO(content))
                waiting = []
        return self._put(entry, out.getvalue()) if left else entry

    def _flow(self, flow: dict[str, Any], gone: int) -> dict[str, Any]:
        drops = dict(flow["drops"])
        drops[str(DropReason.WITHDRAWN)] = drops.get(str(DropReason.WITHDRAWN), 0) + gone
        return flow | {"left": flow["left"] - gone, "drops": drops}

    def _stays(self, rows: pa.Table) -> np.ndarray:
        return ~np.asarray(pc.is_in(rows["uid"], value_set=pa.array(sorted(self.gone), pa.string())))

    def _table(self, entry: StoredObject) -> pa.Table:
        return pq.read_table(pa.BufferReader(self._read(entry)))

    def _read(self, entry: StoredObject) -> bytes:
        return read_checked(self.dataset, entry, self.unit)

    def _put(self, entry: StoredObject, content: bytes) -> StoredObject:
        """An object of the successor in the place of one of the unit's."""
        kind, _, rest = entry.path.split("/", 2)
        path = f"{kind}/{self.name}/{rest}"
        self.dataset.write(path, content)
        return StoredObject(path, len(content), hashlib.sha256(content).hexdigest())


def _with_outcomes(dataset: Store, unit: PublishedUnit, gone: Set[str], name: str) -> PublishedUnit:
    """The unit with an object of outcomes that lacks these uids, so that nobody asks for them again."""
    if not gone:
        return unit
    entry = next(entry for entry in unit.objects if entry.path.startswith("outcomes/"))
    rows = pq.read_table(pa.BufferReader(read_checked(dataset, entry, unit)))
    rows = rows.filter(pc.invert(pc.is_in(rows["uid"], value_set=pa.array(sorted(gone), pa.string()))))
    content = _parquet(rows)
    sha256 = hashlib.sha256(content).hexdigest()
    stored = StoredObject(f"outcomes/{name}/{sha256[:12]}.parquet", len(content), sha256)
    dataset.write(stored.path, content)
    again = retriable(rows)
    until = pc.max(again["fetched_at"]).as_py()
    return replace(
        unit,
        objects=[stored if other.path == entry.path else other for other in unit.objects],
        retriable=again.num_rows,
        retriable_uids=uids_digest(again["uid"].to_pylist()),
        retriable_until=until.isoformat() if until else "",
        built=unit.built or unit.unit_name,
    )


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _hash(name: str, content: bytes | memoryview) -> str:
    algorithm: Callable[..., Any] = getattr(xxhash, name, None) or (lambda data: hashlib.new(name, data, usedforsecurity=False))
    return str(algorithm(content).hexdigest())

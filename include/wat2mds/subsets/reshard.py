"""A subset's own MDS shards, by copying samples out of the dataset's: no download, nothing decoded or encoded.

In: a subset's parts and its sorted uids. Out: shards ``mds/shards/<digest>.mds``, named by the samples that they hold. Guaranteed: each
selected sample once, byte for byte as stored; shards of an earlier version are used again where all their samples are still selected and
come from the same units.

A shard that is selected whole, and is not small, is copied as it is, compressed or not, by the store: on ``file:`` a hard link of what
was checked by its hash, on ``s3:`` unread (its hashes stand in the new index too). Of any other the samples are copied, each one's uid
compared with the metadata's; it is read whole and checked by its hash where a quarter of it or more is wanted, else its samples by range.
Memory: a few shards, and 33 bytes a selected sample. What does not belong here: which samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from wat2mds import mds_rows
from wat2mds.errors import TransientError
from wat2mds.gathering import write_pieces
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.store import Store, join
from wat2mds.subsets import uids
from wat2mds.subsets.definition import folder
from wat2mds.subsets.parts import Part, within
from wat2mds.versions import Version, read_index

log = logging.getLogger(__name__)
SHARD_BYTES = 64 << 20  # streaming's own default
_HASH = "xxh64"  # read at 10 GB/s; SHA-1 would be the largest part of the work
# Of a shard's samples, from which on it costs less to read it whole.
_WHOLE = 0.25
# Of SHARD_BYTES: smaller ones are joined, since each shard costs its reader a request.
_LARGE = 0.25
_AHEAD = 3


@dataclass
class Resharded:
    """``shards``: entries of the index, named from ``mds/``. ``sources``: for each, its uids' file and the units it was copied from."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)


def reshard(dataset: Store, version: Version, name: str, parts: dict[str, Part], sorted_uids: Path) -> Resharded:
    """Make the shards that are missing. Raises TransientError where a shard is not what its index says."""
    selected = np.load(sorted_uids, mmap_mode="r")
    done = np.zeros(len(selected), bool)
    result = _kept(dataset, name, version, selected, done)
    kept = len(result.shards)
    packer = _Packer(dataset, f"{folder(name)}/mds", result)
    for some in _missing(dataset, version, parts, selected, done):
        if isinstance(some, _Whole):
            packer.copy(some)
        else:
            packer.add(some)
    packer.flush()
    packed = len(result.shards) - kept - packer.copied
    log.info("subset %s: %d shards kept, %d copied as they are, %d of single samples", name, kept, packer.copied, packed)
    return result


def index_bytes(shards: list[dict[str, Any]]) -> bytes:
    """StreamingDataset's index of these shards."""
    return json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class _Sample:
    """``source``: the shard's entry and its header, which a shard with the same columns shares."""

    uid: str
    unit: str
    data: bytes | memoryview
    shard: dict[str, Any]
    header: bytes


@dataclass(frozen=True, slots=True)
class _Whole:
    """A shard that is selected whole, with its uids in its order."""

    uids: list[str]
    unit: str
    shard: dict[str, Any]


_Rows = tuple[bytes, Sequence[bytes | memoryview]]


class _Packer:
    """Samples into shards of up to SHARD_BYTES; a shard has one set of columns, and an older wat2mds may have stored others."""

    def __init__(self, dataset: Store, place: str, result: Resharded) -> None:
        self._dataset, self._place, self._result = dataset, place, result
        self._first: _Sample | None = None
        self._uids: list[str] = []
        self._units: set[str] = set()
        self._pieces: list[bytes | memoryview] = []
        self._size = 0
        self.copied = 0

    def add(self, sample: _Sample) -> None:
        full = self._size + len(sample.data) > SHARD_BYTES
        if self._first is not None and (full or sample.header != self._first.header):
            self.flush()
        self._first = self._first or sample
        self._uids.append(sample.uid)
        self._units.add(sample.unit)
        self._pieces.append(sample.data)
        self._size += len(sample.data)

    def flush(self) -> None:
        if self._first is None:
            return
        name = self._named(sorted(self._units), self._uids)
        head = mds_rows.head(self._first.header, [len(piece) for piece in self._pieces])
        hashed = xxhash.xxh64(head)
        for piece in self._pieces:
            hashed.update(piece)
        raw = {"basename": f"shards/{name}.mds", "bytes": len(head) + self._size, "hashes": {_HASH: hashed.hexdigest()}}
        write_pieces(self._dataset, f"{self._place}/{raw['basename']}", [head, *self._pieces])
        own = {
            "raw_data": raw,
            "zip_data": None,
            "compression": None,
            "hashes": [_HASH],
            "samples": len(self._uids),
            "size_limit": SHARD_BYTES,
        }
        self._result.shards.append(self._first.shard | own)
        self._first = None
        self._uids.clear()
        self._units.clear()
        self._pieces.clear()
        self._size = 0

    def copy(self, whole: _Whole) -> None:
        """A shard as it is stored."""
        name = self._named([whole.unit], whole.uids)
        own: dict[str, Any] = {}
        for kind in ("raw_data", "zip_data"):
            if whole.shard[kind] is not None:
                _, mds, compressed = whole.shard[kind]["basename"].rpartition("/")[2].partition(".mds")
                own[kind] = whole.shard[kind] | {"basename": f"shards/{name}{mds}{compressed}"}
        stored = _stored(whole.shard)
        source, target = stored["basename"], f"{self._place}/{_stored(whole.shard | own)['basename']}"
        try:
            data = _checked(_view(self._dataset, source), stored) if self._dataset.local is not None else None
            try:
                self._dataset.copy(source, target)
            except TransientError:  # such as a file system without hard links
                self._dataset.write(target, data if data is not None else self._dataset.read(source))
            if (size := self._dataset.head(target).size) != stored["bytes"]:
                raise ValueError(f"{size} bytes, not the {stored['bytes']} of its index")
        except FileNotFoundError as error:
            raise _damaged(self._dataset, whole.shard, "is gone") from error
        except ValueError as error:
            raise _damaged(self._dataset, whole.shard, str(error)) from error
        self._result.shards.append(whole.shard | own)
        self.copied += 1

    def _named(self, units: list[str], samples: list[str]) -> str:
        """A shard's name; its list of uids is stored under it."""
        listed = bytes.fromhex("".join(samples))
        name = hashlib.blake2b(json.dumps(units).encode() + listed, digest_size=16).hexdigest()
        self._dataset.write(f"{self._place}/shards/{name}.uids", listed)
        self._result.sources.append({"uids": f"{self._place}/shards/{name}.uids", "units": units})
        return name


def _kept(dataset: Store, name: str, version: Version, selected: np.ndarray, done: np.ndarray) -> Resharded:
    """Shards of the subset's last version that can stay; ``done`` is set where they hold a selected sample."""
    result = Resharded()
    units = {unit.unit_name for unit in version.units.values()}
    for number in sorted((int(n) for n in dataset.names(folder(name))[1] if n.isdigit()), reverse=True):
        try:
            record = dataset.read_json(f"{folder(name)}/{number:06d}/mds.json")
            shards = dataset.read_json(record["index"]["path"])["shards"]
        except FileNotFoundError:
            continue
        for shard, source in zip(shards, record["shards"], strict=True):
            if not set(source["units"]) <= units:
                continue
            at = uids.positions(selected, uids.of_bytes(dataset.read(source["uids"])))
            if (at >= 0).all():
                done[at] = True
                result.shards.append(shard)
                result.sources.append(source)
        break
    return result


def _missing(
    dataset: Store, version: Version, parts: dict[str, Part], selected: np.ndarray, done: np.ndarray
) -> Iterator[_Sample | _Whole]:
    """The selected samples that no shard holds yet, in the order of units, shards and rows; shards are read ahead."""
    entries: dict[str, dict[str, Any]] = {
        str(_stored(shard)["basename"]): shard for shard in json.loads(read_index(dataset.url, version))["shards"]
    }
    last = (int(selected[-1]["f0"]), int(selected[-1]["f1"])) if len(selected) else None

    def wanted() -> Iterator[tuple[str, dict[str, Any], list[int], list[str]]]:
        for part in parts.values():
            rows = within(part.read(["uid", "shard", "shard_row"]), last)
            rows = rows.filter(~done[uids.positions(selected, uids.of(rows["uid"]))]) if rows.num_rows else rows
            rows = rows.sort_by([("shard", "ascending"), ("shard_row", "ascending")])
            places: dict[str, tuple[list[int], list[str]]] = {}
            for shard, row, uid in zip(*(rows[c].to_pylist() for c in ("shard", "shard_row", "uid")), strict=True):
                numbers, found = places.setdefault(shard, ([], []))
                numbers.append(row)
                found.append(uid)
            for shard, (numbers, found) in places.items():
                yield part.unit.unit_name, entries[shard], numbers, found

    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: list[tuple[str, dict[str, Any], list[str], Future[_Rows]]] = []
        for unit, shard, numbers, found in wanted():
            if len(numbers) == shard["samples"] and _stored(shard)["bytes"] >= _LARGE * SHARD_BYTES:
                yield _Whole(found, unit, shard)
                continue
            waiting.append((unit, shard, found, pool.submit(_read, dataset, shard, numbers)))
            if len(waiting) > _AHEAD:
                yield from _samples(dataset, *waiting.pop(0))
        for entry in waiting:
            yield from _samples(dataset, *entry)


def _samples(dataset: Store, unit: str, shard: dict[str, Any], wanted: list[str], reading: Future[_Rows]) -> Iterator[_Sample]:
    header, found = reading.result()
    layout = mds_rows.Layout(shard)
    for uid, data in zip(wanted, found, strict=True):
        try:
            stored = layout.value(data, "uid").decode("ascii", "replace")
        except ValueError as error:
            raise _damaged(dataset, shard, str(error)) from error
        if stored != uid:
            raise _damaged(dataset, shard, f"holds {stored!r} where the metadata has {uid}")
        yield _Sample(uid, unit, data, shard, header)


def _read(dataset: Store, shard: dict[str, Any], rows: list[int]) -> _Rows:
    """A shard's header, and some of its samples, ascending: of a local file as views of it, which take no memory until they are read."""
    name = str(_stored(shard)["basename"])
    start = mds_rows.head_bytes(shard["samples"])
    try:
        whole = shard["zip_data"] is not None or len(rows) >= _WHOLE * shard["samples"]
        if whole or dataset.local is not None:
            raw = _whole(dataset, shard, name) if whole else _view(dataset, name)
            offsets = mds_rows.bounds(raw, shard)
            views = [raw[offsets[row] : offsets[row + 1]] for row in rows]
            # Of memory of its own the whole shard would stay as long as one of its samples.
            return bytes(raw[start : offsets[0]]), views if isinstance(raw.obj, mmap.mmap) else [bytes(view) for view in views]
        [head] = dataset.read_ranges(name, [(0, start)])
        offsets = mds_rows.bounds(head, shard)
        header, *found = dataset.read_ranges(name, [(start, offsets[0]), *((offsets[row], offsets[row + 1]) for row in rows)])
        return header, found
    except (ValueError, IndexError) as error:
        raise _damaged(dataset, shard, str(error)) from error
    except FileNotFoundError as error:
        raise _damaged(dataset, shard, "is gone") from error


def _whole(dataset: Store, shard: dict[str, Any], name: str) -> memoryview:
    """A shard's uncompressed bytes, as their hashes have them; the cheapest hash is asked where there are several."""
    stored = _view(dataset, name)
    if shard["zip_data"] is None:
        _checked(stored, shard["raw_data"])
        if isinstance(stored.obj, mmap.mmap):
            stored.obj.madvise(mmap.MADV_DONTNEED)  # what the check brought in; the samples come by themselves
        return stored
    declare_torchvision_ops()
    from streaming.base.compression import decompress

    packed = bytes(_checked(stored, shard["zip_data"]))
    return _checked(memoryview(decompress(shard["compression"], packed)), shard["raw_data"])


def _stored(shard: dict[str, Any]) -> dict[str, Any]:
    """What an index says of the file that is stored: the compressed one where there is one."""
    found: dict[str, Any] = shard["zip_data"] or shard["raw_data"]
    return found


def _view(dataset: Store, name: str) -> memoryview:
    """An object's bytes, not to be changed; a local file's are mapped, not copied, for none is ever changed in place."""
    if dataset.local is None:
        return memoryview(dataset.read(name))
    with dataset.open(name) as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _checked(data: memoryview, info: dict[str, Any]) -> memoryview:
    known = info["hashes"]
    algorithm = next((kind for kind in ("xxh3_64", "xxh3_128", "xxh64", "xxh128", "xxh32") if kind in known), None)
    if algorithm is not None:
        found = getattr(xxhash, algorithm)(data).hexdigest()
    elif known:
        algorithm = sorted(known)[0]
        found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if len(data) != info["bytes"] or (algorithm is not None and found != known[algorithm]):
        raise ValueError(f"{info['basename']} has not the {algorithm or 'size'} that its index gives")
    return data


def _damaged(dataset: Store, shard: dict[str, Any], what: str) -> TransientError:
    where = join(dataset.url, shard["raw_data"]["basename"])
    return TransientError(f"{where}: {what}. `wat2mds verify` says what else is wrong; clearing its upload task mends it")

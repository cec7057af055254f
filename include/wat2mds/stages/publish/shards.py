"""The uids in an MDS shard, from its bytes.

In: a stored shard and its entry in an index. Out: a uid a row. Guaranteed: nothing of streaming is loaded, whose import costs seconds, so
that this is a second reading of the format beside streaming's own (MDSWriter.encode_joint_shard, 0.13): little-endian uint32 row count,
count + 1 offsets of rows from the shard's beginning, the columns as JSON; a row is the sizes of its variable columns, then all columns.
What does not belong here: images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from wat2mds.errors import DataError

UID_BYTES = 32


def index_mismatches(data: bytes, shard: dict[str, Any]) -> Iterator[str]:
    """What of a stored shard is not as its index entry says: sizes and hashes, of the compressed bytes where there are such."""
    for info, content in ((shard["zip_data"], data), (shard["raw_data"], raw_bytes(data, shard))):
        if info is None:
            continue
        if len(content) != info["bytes"]:
            yield f"is {len(content)} bytes, its index says {info['bytes']}"
        for name, wanted in info["hashes"].items():
            if (found := _hash(name, content)) != wanted:
                yield f"has {name} {found}, its index says {wanted}"


def raw_bytes(data: bytes, shard: dict[str, Any]) -> bytes:
    """Uncompressed. Raises DataError for a compression other than zstd, gz, bz2 and br, or for damaged bytes."""
    if shard["zip_data"] is None:
        return data
    name = str(shard["compression"]).partition(":")[0]
    codec = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}.get(name)
    if codec is None:
        raise DataError(f"compression {name!r} is not known here")
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise DataError(f"does not decompress: {error}") from error


def shard_uids(data: bytes, shard: dict[str, Any]) -> list[str]:
    """A uid a row. Raises DataError where the bytes are no MDS shard of these columns."""
    raw = np.frombuffer(raw_bytes(data, shard), np.uint8)
    if len(raw) < 8:
        raise DataError("is too short for an MDS shard")
    count = int(raw[:4].view(np.uint32)[0])
    if count != shard["samples"] or 4 * (count + 2) > len(raw):
        raise DataError(f"holds {count} rows, its index says {shard['samples']}")
    bounds = raw[4 : 4 * (count + 2)].view(np.uint32).astype(np.int64)
    fixed = [size or 0 for size in shard["column_sizes"]]
    sizes = np.tile(np.array(fixed, np.int64), (count, 1))
    variable = [column for column, size in enumerate(fixed) if size == 0]
    head = 4 * len(variable)
    if len(bounds) and (bounds[-1] != len(raw) or (np.diff(bounds) < head).any()):
        raise DataError("has rows that lie outside it")
    sizes[:, variable] = raw[bounds[:-1, None] + np.arange(head)].view(np.uint32).reshape(count, -1)
    ends = bounds[:-1, None] + head + np.cumsum(sizes, axis=1)
    uid = shard["column_names"].index("uid")
    if not np.array_equal(ends[:, -1], bounds[1:]) or (sizes[:, uid] != UID_BYTES).any():
        raise DataError("has rows whose sizes do not add up")
    texts = np.ascontiguousarray(raw[(ends[:, uid] - UID_BYTES)[:, None] + np.arange(UID_BYTES)])
    return [text.decode("ascii", "replace") for text in texts.view(f"S{UID_BYTES}").ravel().tolist()]


def _hash(name: str, content: bytes) -> str:
    algorithm = getattr(xxhash, name, None)
    if algorithm is None and name not in hashlib.algorithms_available:
        raise DataError(f"names a hash that is not known here, {name!r}")
    return str((algorithm(content) if algorithm is not None else hashlib.new(name, content)).hexdigest())

"""Many uids at once: arrays of 16 bytes each (numpy's S16), with no Python object a uid.

In: the hexadecimal column of a table of pairs. Out: arrays that numpy sorts, searches and compares as byte strings, and Arrow columns
of the same bytes without a copy. What does not belong here: what a uid is made from (``identity``), who owns it (``ledger``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import DataError

KIND = np.dtype("S16")
ARROW = pa.binary(16)
_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


def none() -> np.ndarray:
    return np.empty(0, KIND)


def read_uids(table: Path) -> np.ndarray:
    """The uids of a table of pairs, in its order. Raises DataError for one that is not 32 hexadecimal digits."""
    with pq.ParquetFile(table) as file:
        batches = file.iter_batches(batch_size=65_536, columns=["uid"])
        parts = [_from_hex(batch.column(0), table) for batch in batches]
    return np.concatenate(parts) if parts else none()


def _from_hex(column: pa.StringArray, where: Path) -> np.ndarray:
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    digits = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    values = _HEX[digits]
    if column.null_count or (np.diff(offsets) != 32).any() or (values > 15).any():
        raise DataError(f"{where} holds a uid that is not 32 hexadecimal digits: run extract of this WAT file again")
    uids: np.ndarray = (values[0::2] << 4 | values[1::2]).view(KIND)
    return uids


def bins_of(uids: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each uid: its first two bytes, big-endian, modulo the number of bins."""
    octets = uids.view(np.uint8).reshape(-1, 16)
    return ((octets[:, 0].astype(np.uint32) << 8 | octets[:, 1]) % bins).astype(np.uint16)


def filter_keys(uids: np.ndarray) -> list[int]:
    """What a bloom filter is asked for: the last 8 bytes. A uid is a hash already, and its first bytes chose the bin."""
    keys: list[int] = np.ascontiguousarray(uids).view("<i8").reshape(-1, 2)[:, 1].tolist()
    return keys


def to_arrow(uids: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(ARROW, len(uids), [None, pa.py_buffer(np.ascontiguousarray(uids))])


def from_arrow(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.frombuffer(chunk.buffers()[1], KIND, len(chunk), chunk.offset * 16) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else none()


def places_in(sorted_uids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted uid its place in a sorted array, -1 where it is not there."""
    if not len(sorted_uids):
        return np.full(len(wanted), -1, np.int64)
    places = np.minimum(np.searchsorted(sorted_uids, wanted), len(sorted_uids) - 1)
    return np.where(sorted_uids[places] == wanted, places, -1)

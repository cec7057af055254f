"""Rows of raw MDS shards, by their bytes: what reads a few samples, or copies many, decodes none.

In: a shard's entry in an index, and its bytes or a file of them. Out: samples and values as bytes. Guaranteed: what does not add up raises
ValueError. What does not belong here: reading for training (``reading.py``), which loads torch; encoding values (convert).

Layout of a raw MDS shard (streaming 0.13, base/format/mds/writer.py): uint32 number of samples, uint32 offsets [samples + 1], header;
a sample: uint32 sizes of its columns of variable size, then the columns in the index's order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any


def head_bytes(samples: int) -> int:
    """Length of a shard's count and offsets."""
    return 4 * (samples + 2)


def bounds(head: bytes | memoryview, shard: dict[str, Any]) -> Sequence[int]:
    """Where each sample begins and the last one ends; ``head`` is the shard's first ``head_bytes`` bytes, or more."""
    samples = int(shard["samples"])
    count, *offsets = struct.unpack_from(f"<{samples + 2}I", _at_least(head, head_bytes(samples), shard))
    rising = all(begin < end for begin, end in pairwise(offsets))
    if count != samples or not rising or offsets[0] < head_bytes(samples) or offsets[-1] != shard["raw_data"]["bytes"]:
        raise ValueError(f"{_name(shard)} is not laid out as its index says")
    return offsets


def read_sample(file: Any, shard: dict[str, Any], row: int) -> bytes:
    """One sample from a seekable file of a raw shard. Raises ValueError where the shard has no such row, or ends before it."""
    file.seek(4 * (1 + row))
    begin, end = struct.unpack("<2I", _at_least(file.read(8), 8, shard))
    if not (0 <= row < shard["samples"] and begin < end <= shard["raw_data"]["bytes"]):
        raise ValueError(f"{_name(shard)} has no row {row}")
    file.seek(begin)
    return bytes(_at_least(file.read(end - begin), end - begin, shard))


class Layout:
    """Where a shard's samples have their columns."""

    def __init__(self, shard: dict[str, Any]) -> None:
        self._shard = shard
        self._sizes = [int(size or 0) for size in shard["column_sizes"]]
        self._variable = [number for number, size in enumerate(self._sizes) if not size]
        self._unpack = struct.Struct(f"<{len(self._variable)}I").unpack_from

    def value(self, sample: bytes | memoryview, name: str) -> bytes:
        """One column's bytes of a sample, as streaming encoded them. Raises ValueError where the sample is not so long as it says."""
        sizes = self._sizes.copy()
        try:
            for number, size in zip(self._variable, self._unpack(sample), strict=True):
                sizes[number] = size
        except struct.error as error:
            raise ValueError(f"{_name(self._shard)}: a sample is shorter than its sizes") from error
        head = 4 * len(self._variable)
        if head + sum(sizes) != len(sample):
            raise ValueError(f"{_name(self._shard)}: a sample's sizes do not add up")
        at = self._shard["column_names"].index(name)
        start = head + sum(sizes[:at])
        return bytes(sample[start : start + sizes[at]])


def head(header: bytes, lengths: Sequence[int]) -> bytes:
    """What stands before a shard's samples of these lengths; ``header`` is that of a shard with the same columns."""
    ends = accumulate(lengths, initial=head_bytes(len(lengths)) + len(header))
    return struct.pack(f"<{len(lengths) + 2}I", len(lengths), *ends) + header


def _at_least(data: bytes | memoryview, size: int, shard: dict[str, Any]) -> bytes | memoryview:
    if len(data) < size:
        raise ValueError(f"{_name(shard)} ends {size - len(data)} bytes early")
    return data


def _name(shard: dict[str, Any]) -> str:
    return str(shard["raw_data"]["basename"])

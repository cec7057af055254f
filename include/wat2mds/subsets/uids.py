"""Sorted uids of a subset, in DataComp's form: a numpy array of dtype ``u8,u8``, each the halves of a uid read as hex numbers.

In: uids by WAT file. Out: one npy file. Guaranteed: sorted, in memory that does not grow with their number: more than a few million are
dealt to bins by their first byte, which for hashes is even, and each bin is sorted by itself. What does not belong here: which uids.

Source of the form: mlfoundations/datacomp, resharder.py, which takes such a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

DTYPE = np.dtype("u8,u8")
_BINS = 256
_AT_ONCE = 1 << 22  # uids that are sorted in memory: 64 MB


def of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """uids of 32 hex digits as pairs [n] of dtype DTYPE."""
    return of_bytes(bytes.fromhex("".join(column.to_pylist())))


def of_bytes(data: bytes) -> np.ndarray:
    """uids of 16 bytes as pairs [n] of dtype DTYPE."""
    halves = np.frombuffer(data, ">u8").reshape(-1, 2)
    found = np.empty(len(halves), DTYPE)
    found["f0"], found["f1"] = halves[:, 0], halves[:, 1]
    return found


def write_sorted(groups: Iterable[np.ndarray], target: Path, most: int | None = None) -> int:
    """Write the least ``most`` of all uids, or all, to ``target``; returns how many. Scratch files lie beside it for the while."""
    bins = [target.with_name(f"{target.name}.{number:03d}") for number in range(_BINS)]
    waiting = [np.empty(0, DTYPE)]
    total = written = 0
    for group in groups:
        waiting.append(group)
        total += len(group)
        if total - written > _AT_ONCE:
            _deal(np.concatenate(waiting), bins)
            waiting, written = [np.empty(0, DTYPE)], total
    if written:
        _deal(np.concatenate(waiting), bins)
        parts: Iterable[np.ndarray] = (np.fromfile(path, DTYPE) for path in bins if path.exists())
    else:
        parts = [np.concatenate(waiting)]
    total = total if most is None else min(total, most)
    open_memmap: Any = np.lib.format.open_memmap
    out = open_memmap(target, "w+", DTYPE, (total,))
    at = 0
    for part in parts:
        some = in_order(part)[: total - at]
        out[at : at + len(some)] = some
        at += len(some)
    out.flush()
    for path in bins:
        path.unlink(missing_ok=True)
    return total


def in_order(pairs: np.ndarray) -> np.ndarray:
    """A sorted copy of uid pairs; ten times as fast as numpy's sort of pairs."""
    found: np.ndarray = pairs[np.lexsort((pairs["f1"], pairs["f0"]))]
    return found


def _deal(pairs: np.ndarray, bins: list[Path]) -> None:
    numbers = (pairs["f0"] >> np.uint64(56)).astype(np.intp)
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=_BINS))
    for number in np.unique(numbers):
        start = ends[number - 1] if number else 0
        with bins[number].open("ab") as file:
            pairs[order[start : ends[number]]].tofile(file)


def last(path: Path) -> tuple[int, int] | None:
    """The greatest uid of a file; None where it holds none."""
    found = np.load(path, mmap_mode="r")
    return (int(found[-1]["f0"]), int(found[-1]["f1"])) if len(found) else None


def positions(sorted_uids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of ``wanted`` stands in the sorted uids, int64; -1 where it does not."""
    at = np.searchsorted(_key(sorted_uids), _key(wanted))
    inside = np.minimum(at, max(0, len(sorted_uids) - 1))
    there = (at < len(sorted_uids)) & (sorted_uids[inside] == wanted) if len(sorted_uids) else np.zeros(len(wanted), bool)
    return np.where(there, at, -1)


def find(sorted_uids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """As ``positions``, of a few among very many: only the places that are looked at are read, which suits a mapped file."""
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(sorted_uids), np.int64)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        seen = sorted_uids[np.minimum(middle, len(sorted_uids) - 1)]
        less = (seen["f0"] < wanted["f0"]) | ((seen["f0"] == wanted["f0"]) & (seen["f1"] < wanted["f1"]))
        low = np.where(open_ & less, middle + 1, low)
        high = np.where(open_ & ~less, middle, high)
    if not len(sorted_uids):
        return low - 1
    inside = np.minimum(low, len(sorted_uids) - 1)
    return np.where((low < len(sorted_uids)) & (sorted_uids[inside] == wanted), low, -1)


def _key(pairs: np.ndarray) -> np.ndarray:
    """The same order as bytes, which numpy searches faster than pairs."""
    halves = np.empty((len(pairs), 2), ">u8")
    halves[:, 0], halves[:, 1] = pairs["f0"], pairs["f1"]
    return halves.view("S16").ravel()

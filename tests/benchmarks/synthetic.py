"""Made uids, millions a second: a key's number is its uid's seed, so what is distinct is known without looking."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def uids_of(numbers: np.ndarray) -> np.ndarray:
    """16 bytes for each number: two outputs of splitmix64, a bijection, so that distinct numbers are distinct uids."""
    words = np.stack([_splitmix(numbers), _splitmix(numbers ^ np.uint64(0x5DEECE66D5DEECE6))], axis=1)
    return words.view("S16").reshape(-1)


def _splitmix(numbers: np.ndarray) -> np.ndarray:
    mixed = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hex_column(uids: np.ndarray) -> pa.Array:
    """uids as the column of a table: 32 hexadecimal digits each."""
    octets = uids.view(np.uint8)
    digits = np.stack([_DIGITS[octets >> 4], _DIGITS[octets & 15]], axis=1)
    offsets = np.arange(len(uids) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(uids), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits)))


def batch(rng: np.random.Generator, first: int, size: int, before: float) -> tuple[np.ndarray, int]:
    """Numbers of ``size`` pairs, of which the share ``before`` is drawn from those below ``first``; and the first unused one."""
    old = int(size * before) if first else 0
    new = np.arange(first, first + size - old, dtype=np.uint64)
    drawn = rng.integers(0, max(1, first), old, dtype=np.uint64)
    return rng.permutation(np.concatenate([new, drawn])), first + size - old

"""Variables of a TensorFlow SavedModel or checkpoint, read without TensorFlow.

In: a SavedModel as a folder or a zip of it, as LAION published its NSFW heads (Keras archives), or a ``.index`` file with its data beside
it. Out: arrays by variable name, ``/`` as ``.``. Guaranteed: nothing of the archive is run or unpacked to disk; every block and variable
has the checksum that the archive states, else ConfigError; at most ``MOST_BYTES`` are read of any member. Variables of text are left
out (names of categories, the object graph). What does not belong here: which variables a head must have (``published_heads.py``).

Format: tensorflow/core/protobuf/tensor_bundle.proto, and LevelDB's tables for the index (leveldb/doc/table_format.md), uncompressed as
TensorFlow writes them.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wat2mds.errors import ConfigError

MOST_BYTES = 256 * 2**20  # of one member; LAION's largest head has 1.1 MB
_INDEX = "variables.index"
_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # after each block: its compression, its checksum
_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8
# tensorflow/core/framework/types.proto
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 19: "<f2"}
_TEXT = 7


def is_tensor_bundle(path: Path) -> bool:
    """Whether a path is one that ``read_tensor_bundle`` is for; by its name."""
    return path.is_dir() or path.suffix in (".zip", ".index")


def read_tensor_bundle(path: Path) -> dict[str, np.ndarray]:
    """The numeric variables of one model. Raises ConfigError for what holds none, several models, or is damaged."""
    try:
        index, data = _members(path)
        return dict(_variables(index, data))
    except (OSError, ValueError, LookupError, struct.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"the Keras archive {path} cannot be read ({error}); copy it from its source again.") from error


def _members(path: Path) -> tuple[bytes, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            return _pair(sizes, archive.read)
    folder = path if path.is_dir() else path.parent
    found = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    if path.is_file():
        found = {name: file for name, file in found.items() if file.parent == folder and name.startswith(path.stem + ".")}
    return _pair({name: file.stat().st_size for name, file in found.items()}, lambda name: found[name].read_bytes())


def _pair(sizes: dict[str, int], read: Any) -> tuple[bytes, bytes]:
    indices = [name for name in sizes if name.endswith(".index")]
    if len(indices) != 1:
        raise ValueError(f"expected one {_INDEX}, found {len(indices)}")
    stem = indices[0].removesuffix(".index")
    data = f"{stem}.data-00000-of-00001"
    if data not in sizes:
        raise ValueError(f"{data} is not in it")
    for name in (indices[0], data):
        if sizes[name] > MOST_BYTES:
            raise ValueError(f"{name} has {sizes[name]:,} bytes, of at most {MOST_BYTES:,}")
    return read(indices[0]), read(data)


def _variables(index: bytes, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in _table(index):
        if not name:  # the header
            header = _fields(value)
            if header.get(1, [0]) != [1] or header.get(2, [0]) != [0]:
                raise ValueError("only one little-endian data file is read")
            continue
        entry = _fields(value)
        kind, offset, size = (entry.get(number, [0])[0] for number in (1, 4, 5))
        if kind == _TEXT:
            continue
        if kind not in _TYPES or 7 in entry:
            raise ValueError(f"variable {name.decode()} is of type {kind} or in slices, which is not read")
        shape = [_fields(dimension).get(1, [0])[0] for dimension in _fields(entry.get(2, [b""])[0]).get(2, [])]
        stored = data[offset : offset + size]
        if len(stored) != size or _masked(stored) != entry.get(6, [0])[0]:
            raise ValueError(
                f"variable {name.decode()}: expected {size:,} bytes of a stated checksum, found {len(stored):,} others"
            )
        yield name.decode().replace("/", "."), np.frombuffer(stored, _TYPES[kind]).reshape(shape)


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table, in order."""
    if len(content) < _FOOTER or int.from_bytes(content[-8:], "little") != _MAGIC:
        raise ValueError(f"its index of {len(content):,} bytes is cut, or none of TensorFlow's")
    at = len(content) - _FOOTER
    for _ in range(2):  # the meta index's handle
        _, at = _varint(content, at)
    for _, handle in _block(content, *_handle(content, at)):
        yield from _block(content, *_handle(handle, 0))


def _handle(content: bytes, at: int) -> tuple[int, int]:
    offset, at = _varint(content, at)
    return offset, _varint(content, at)[0]


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = offset + size
    if end + _TRAILER > len(content) or _masked(content[offset : end + 1]) != int.from_bytes(
        content[end + 1 : end + 5], "little"
    ):
        raise ValueError("a block of its index is damaged")
    if content[end] != 0:
        raise ValueError("its index is compressed, which TensorFlow's is not")
    entries = content[offset:end]
    restarts = int.from_bytes(entries[-4:], "little")
    at, last, key = 0, len(entries) - 4 * (restarts + 1), b""
    while at < last:
        shared, at = _varint(entries, at)
        rest, at = _varint(entries, at)
        length, at = _varint(entries, at)
        key = key[:shared] + entries[at : at + rest]
        yield key, entries[at + rest : at + rest + length]
        at += rest + length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of its index is too long")


def _fields(message: bytes) -> dict[int, list[Any]]:
    """A protocol buffer's fields by number: ints, or bytes."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                value, at = int.from_bytes(message[at : at + 8], "little"), at + 8
            case 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
            case 5:
                value, at = int.from_bytes(message[at : at + 4], "little"), at + 4
            case other:
                raise ValueError(f"an entry of its index has a field of wire type {other}")
        found.setdefault(tag >> 3, []).append(value)
    return found


@cache
def _crc_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_CASTAGNOLI if number & 1 else 0)
        table.append(number)
    return table


def _masked(content: bytes) -> int:
    """CRC-32C, rotated and shifted as LevelDB and TensorFlow store it (leveldb/util/crc32c.h)."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF

"""The finished rows of one shard, on disk as they finish, so that a killed download goes on where it was.

In: rows with their images, in whatever order they finish. Out: the rows again, after any kind of end. Guaranteed: a row that was added is
there after the death of the process, whatever killed it; a record that is not whole (its process was killed in the middle of
it, the disk was full, the machine lost power) is not there, nor is what follows it. One process at a time has a journal open, which is
for the caller to see to (``unfinished.py``). What does not belong here: where rows come from, the table that they end in.

A record: checksum, lengths of its two parts, the row as msgpack, the image. Nothing is synced: the kernel writes what a killed process
has written. Only a machine that fails loses the last seconds; the checksum then shows what was lost, and it is fetched again.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)
_HEAD = struct.Struct("<III")  # checksum of all that follows it, bytes of the row, bytes of the image
_NO_IMAGE = 0xFFFFFFFF
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Row:
    """A finished row without its image, which lies at ``offset`` of the journal; ``size`` -1: there is none."""

    columns: dict[str, Any]
    offset: int
    size: int


class Journal:
    """``rows``: what earlier processes added; what was cut off is gone from the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = 0
        self.rows: list[Row] = []
        size = os.fstat(self._file).st_size
        while (row := self._read(size)) is not None:
            self.rows.append(row)
        if self._end < size:
            log.info("%s: the last %d bytes are no whole row and are left out", path.name, size - self._end)
            os.ftruncate(self._file, self._end)

    def add(self, columns: dict[str, Any], image: bytes | None) -> Row:
        """Raises OSError, for a full disk for instance, with nothing added; it may be tried again."""
        text = msgspec.msgpack.encode(columns)
        rest = struct.pack("<II", len(text), _NO_IMAGE if image is None else len(image)) + text
        checksum = zlib.crc32(image or b"", zlib.crc32(rest))
        record = memoryview(b"".join((struct.pack("<I", checksum), rest, image or b"")))
        done = 0
        try:
            while done < len(record):
                done += os.pwrite(self._file, record[done:], self._end + done)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(record)
        size = -1 if image is None else len(image)
        return Row(columns, self._end - max(0, size), size)

    def image(self, row: Row) -> bytes | None:
        return None if row.size < 0 else self._bytes(row.offset, row.size)

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        """Close it, and its rows are gone."""
        self.close()
        self._path.unlink()

    def _read(self, size: int) -> Row | None:
        """The record at ``_end``, of a file of so many bytes; None where there is no whole one."""
        head = self._bytes(self._end, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        checksum, text_bytes, image_bytes = _HEAD.unpack(head)
        image_size = -1 if image_bytes == _NO_IMAGE else image_bytes
        length = text_bytes + max(0, image_size)
        if self._end + _HEAD.size + length > size:
            return None
        rest = self._bytes(self._end + _HEAD.size, length)
        if zlib.crc32(rest, zlib.crc32(head[4:])) != checksum:
            return None
        try:
            columns = msgspec.msgpack.decode(rest[:text_bytes])
        except msgspec.DecodeError:
            return None
        self._end += _HEAD.size + length
        return Row(columns, self._end - max(0, image_size), image_size)

    def _bytes(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self._file, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

"""obstore's reader of an object, by ranges, as Python's own kind of file.

In: an open reader. Out: a seekable raw file. What does not belong here: which object (``store.py``).
"""

from __future__ import annotations

import io
from typing import Any


class Ranged(io.RawIOBase):
    """obstore's reader as Python's own kind of file, which Arrow asks for."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._reader.read(len(buffer))
        buffer[: len(data)] = memoryview(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()

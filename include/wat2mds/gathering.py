"""One object from many pieces of memory, such as mapped files': they are written as they lie, not joined first.

In: a store, a path, buffers. Out: an object. Guaranteed: what ``Store.write`` guarantees. On ``file:`` the kernel copies each piece once;
other stores want all bytes in one, and get that. What does not belong here: what the pieces are.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from wat2mds.errors import TransientError
from wat2mds.store import Store, join

_AT_ONCE = 1024  # pieces of one call: Linux takes no more


def write_pieces(store: Store, path: str, pieces: Sequence[bytes | memoryview]) -> None:
    """Write or replace one object atomically. Raises TransientError where it cannot be written."""
    if store.local is None:
        store.write(path, b"".join(pieces))
        return
    target = store.local / path
    # A name that the store's client takes for an upload under way, and does not list.
    partial = target.with_name(f"{target.name}#{secrets.randbelow(1 << 32)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=0) as file:
            for start in range(0, len(pieces), _AT_ONCE):
                _write(file.fileno(), pieces[start : start + _AT_ONCE])
        partial.replace(target)
    except OSError as error:
        raise TransientError(f"cannot write {join(store.url, path)}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(file: int, pieces: Sequence[bytes | memoryview]) -> None:
    waiting = [memoryview(piece) for piece in pieces if len(piece)]
    while waiting:
        written = os.writev(file, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:  # a piece was cut in two
            waiting[0] = waiting[0][written:]

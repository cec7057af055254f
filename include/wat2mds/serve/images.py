"""Stored images, read from a version's MDS shards by ranges: one sample's bytes, not its shard.

In: a version and a row's shard and place in it. Out: the image's bytes, and their type. Guaranteed: shards that the version's index
does not name are not read; the bytes are those of the sample with that uid. What does not belong here: images that a client sends.
"""

from __future__ import annotations

import io
import json
from typing import Any

from wat2mds import mds_rows
from wat2mds.errors import DataError
from wat2mds.store import Store
from wat2mds.versions import Version, read_index

# First bytes of the types that convert stores.
_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
_SHARED = ("column_names", "column_encodings", "column_sizes")


class Images:
    """Of one version. Threads may ask at the same time."""

    def __init__(self, dataset_url: str, version: Version) -> None:
        self._store = Store(dataset_url)
        self._shards: dict[str, dict[str, Any]] = {}
        seen: dict[str, Any] = {}
        for shard in json.loads(read_index(dataset_url, version))["shards"]:
            # Of millions of shards only what is read is kept, and the columns, which most share, once.
            kept = {"samples": shard["samples"], "raw_data": {name: shard["raw_data"][name] for name in ("basename", "bytes")}}
            kept |= {name: seen.setdefault(json.dumps(shard[name]), shard[name]) for name in _SHARED}
            self._shards[shard["raw_data"]["basename"]] = kept | {"compressed": shard.get("zip_data") is not None}

    def read(self, uid: str, shard: str, row: int) -> tuple[bytes, str]:
        """A sample's image and its type. Raises DataError where the shard does not hold it."""
        entry = self._shards.get(shard)
        if entry is None:
            raise DataError(f"the version's index names no shard {shard}")
        try:
            if entry["compressed"]:
                raise ValueError("is stored compressed, so that single images cannot be read from it")
            if not 0 <= row < entry["samples"]:
                raise ValueError("has no such row")
            sample = mds_rows.read_sample(_ObjectFile(self._store, shard), entry, row)
            layout = mds_rows.Layout(entry)
            found, image = layout.value(sample, "uid").decode(), layout.value(sample, "jpg")
        except (ValueError, FileNotFoundError) as error:
            raise DataError(f"{shard}, row {row}: {error}") from error
        if found != uid:
            raise DataError(f"{shard}, row {row} holds the sample {found}, not {uid}")
        return image, next((kind for head, kind in _TYPES.items() if image.startswith(head)), "application/octet-stream")


class _ObjectFile(io.RawIOBase):
    """What ``mds_rows.read_sample`` reads from: an object, by just the ranges that are asked for."""

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path, self._at = store, path, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        [data] = self._store.read_ranges(self._path, [(self._at, self._at + size)])
        self._at += len(data)
        return data

"""One shard's rows: what is known of each fetch while it runs, and the sample writer that img2dataset's Downloader writes to.

In: rows in whatever order they finish. Out: ``NNNNN.parquet`` in the schema SAMPLES, in the order of the shard's input. Guaranteed:
every row exactly once, or an exception; the same rows give the same bytes; images wait in the journal, not in memory, until the shard
is written, and the table has its name when it is whole. What does not belong here: where rows come from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import Wat2MdsError
from wat2mds.schema import SAMPLES, table_of
from wat2mds.stages.download.images import Hashes
from wat2mds.stages.download.journal import Row

# With 256-pixel JPEGs of 10 to 30 KB: a few MB at a time for whoever reads the table group by group.
_ROW_GROUP = 256
_COMPRESSED = {name: "none" if name == "jpg" else "zstd" for name in SAMPLES.names()}
_OF_FEW_VALUES = ["status", "error_message", "drop_reason", "mime", "exif", "http_status", "pdq_quality"]


@dataclass
class Facts:
    """What the stage knows of one row beyond img2dataset's own columns. ``row``: it was finished by an earlier attempt."""

    row: Row | None = None
    reason: DropReason | None = None
    http_status: int | None = None
    fetched_at: datetime | None = None
    size: int | None = None
    mime: str | None = None
    exif: str | None = None
    hashes: Hashes | None = None
    pdq: str | None = None
    pdq_quality: int | None = None
    data: bytes = b""

    def columns(self) -> dict[str, Any]:
        hashes = self.hashes
        return {
            "drop_reason": None if self.reason is None else str(self.reason),
            "http_status": self.http_status,
            "fetched_at": self.fetched_at,
            "original_bytes": self.size,
            "mime": self.mime,
            "exif": self.exif,
            "md5": hashes.md5 if hashes else None,
            "sha1": hashes.sha1 if hashes else None,
            "sha256": hashes.sha256 if hashes else None,
            "pdq": self.pdq,
            "pdq_quality": self.pdq_quality,
        }


class SampleWriter:
    """The interface of img2dataset's sample writers: ``write`` for each row, ``close`` at the end."""

    def __init__(
        self,
        path: Path,
        uids: Sequence[str],
        key_of: Callable[[int], str],
        facts_of: Callable[[int], Facts],
        add: Callable[[dict[str, Any], bytes | None], Row],
        image_of: Callable[[Row], bytes | None],
        done: Callable[[Row], None],
    ) -> None:
        """``uids``: the shard's, in the order of the table. ``add`` and ``image_of`` are the journal's; ``add`` never raises, since
        img2dataset would print what it raises and lose the row. ``done`` is told each row once it is kept."""
        self._path = path
        self._uids = uids
        self._key_of = key_of
        self._facts_of = facts_of
        self._add = add
        self._image_of = image_of
        self._done = done
        self._rows: list[tuple[int, Row]] = []

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        facts = self._facts_of(meta["turn"])
        row = facts.row or self._add(self._columns(meta, facts), image)
        self._rows.append((meta["position"], row))
        self._done(row)

    def close(self) -> None:
        self._rows.sort(key=lambda row: row[0])
        if [row.columns["uid"] for _, row in self._rows] != self._uids:
            raise Wat2MdsError(
                f"{self._path.name}: {len(self._rows)} of {len(self._uids)} rows came back from img2dataset, see above"
            )
        partial = self._path.with_suffix(".partial")
        self._write_table(partial)
        # Whole before it has its name, also where the machine fails.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._path)

    def _columns(self, meta: dict[str, Any], facts: Facts) -> dict[str, Any]:
        columns = {name: meta.get(name) for name in SAMPLES.names() if name != "jpg"} | facts.columns()
        columns["key"] = self._key_of(meta["position"])
        if columns["error_message"] is not None:
            columns["error_message"] = columns["error_message"].encode("utf-8", "replace").decode()
        return columns

    def _write_table(self, path: Path) -> None:
        with pq.ParquetWriter(
            path,
            SAMPLES.schema,
            compression=_COMPRESSED,
            use_dictionary=_OF_FEW_VALUES,
            write_statistics=["uid", *_OF_FEW_VALUES],
        ) as writer:
            for group in self._groups():
                writer.write_table(group)

    def _groups(self) -> Iterator[pa.Table]:
        for start in range(0, max(1, len(self._rows)), _ROW_GROUP):
            rows = [row for _, row in self._rows[start : start + _ROW_GROUP]]
            columns: dict[str, Any] = {name: [row.columns[name] for row in rows] for name in SAMPLES.names() if name != "jpg"}
            columns["jpg"] = [self._image_of(row) for row in rows]
            yield table_of(SAMPLES, columns)

"""One shard's rows: what is known of each fetch while it runs, and the sample writer that img2dataset's Downloader writes to.

In: rows in whatever order they finish. Out: ``NNNNN.parquet`` in the schema SAMPLES, in the order of the shard's input. Guaranteed:
every row exactly once, or an exception; the same rows give the same bytes; images wait on disk, not in memory, until the shard is
written. What does not belong here: where rows come from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import TransientError, Wat2MdsError
from wat2mds.schema import SAMPLES, table_of
from wat2mds.stages.download.images import Hashes

# With 256-pixel JPEGs of 10 to 30 KB: a few MB at a time for whoever reads the table group by group.
_ROW_GROUP = 256
_COMPRESSED = {name: "none" if name == "jpg" else "zstd" for name in SAMPLES.names()}
_OF_FEW_VALUES = ["status", "error_message", "drop_reason", "mime", "exif", "http_status", "pdq_quality"]


@dataclass
class Facts:
    """What the stage knows of one row beyond img2dataset's own columns."""

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


@dataclass(frozen=True)
class Row:
    """A finished row without its image, which lies at ``offset`` of the shard's temporary file; ``size`` -1: there is none."""

    position: int
    columns: dict[str, Any]
    offset: int
    size: int


class SampleWriter:
    """The interface of img2dataset's sample writers: ``write`` for each row, ``close`` at the end."""

    def __init__(
        self, path: Path, rows: int, key_of: Callable[[int], str], facts_of: Callable[[int], Facts], done: Callable[[str], None]
    ) -> None:
        self._path = path
        self._expected = rows
        self._key_of = key_of
        self._facts_of = facts_of
        self._done = done
        self._rows: list[Row] = []
        self._failure: OSError | None = None
        self._images: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed in close)

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        """img2dataset prints exceptions of this method and loses the row: so a full disk is kept for ``close`` to raise."""
        facts = self._facts_of(meta["turn"])
        columns = {name: meta.get(name) for name in SAMPLES.names()} | facts.columns()
        columns["key"] = self._key_of(meta["position"])
        if columns["error_message"] is not None:
            columns["error_message"] = columns["error_message"].encode("utf-8", "replace").decode()
        try:
            offset = self._images.tell()
            if image is not None:
                self._images.write(image)
        except OSError as error:
            self._failure = error
            return
        self._rows.append(Row(meta["position"], columns, offset, -1 if image is None else len(image)))
        self._done("ok" if facts.reason is None else str(facts.reason))

    def close(self) -> None:
        try:
            if self._failure is not None:
                raise TransientError(f"cannot write {self._path}: {self._failure}") from self._failure
            self._rows.sort(key=lambda row: row.position)
            if [row.position for row in self._rows] != list(range(self._expected)):
                raise Wat2MdsError(
                    f"{self._path.name}: {len(self._rows)} of {self._expected} rows came back from img2dataset, see above"
                )
            self._write_table()
        finally:
            self._images.close()

    def _write_table(self) -> None:
        with pq.ParquetWriter(
            self._path,
            SAMPLES.schema,
            compression=_COMPRESSED,
            use_dictionary=_OF_FEW_VALUES,
            write_statistics=["uid", *_OF_FEW_VALUES],
        ) as writer:
            for group in self._groups():
                writer.write_table(group)

    def _groups(self) -> Iterator[pa.Table]:
        for start in range(0, max(1, len(self._rows)), _ROW_GROUP):
            rows = self._rows[start : start + _ROW_GROUP]
            columns: dict[str, Any] = {name: [row.columns[name] for row in rows] for name in SAMPLES.names() if name != "jpg"}
            columns["jpg"] = [self._image(row) for row in rows]
            yield table_of(SAMPLES, columns)

    def _image(self, row: Row) -> bytes | None:
        if row.size < 0:
            return None
        self._images.seek(row.offset)
        return self._images.read(row.size)

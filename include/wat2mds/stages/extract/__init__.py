"""extract: one WAT file in, its pairs out.

In: a WAT file by path or URL (file:, s3:, http(s):), read as a stream. Out: ``pairs.parquet`` (schema.PAIRS) in the file's
order and ``rejects.parquet``. Guaranteed: every record is a page with image links or counted under a drop reason, every ``IMG@/src``
link a pair or counted; a damaged record costs itself; memory does not grow with the file. What does not belong here: deduplication, and
anything that asks the network about an image.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import DataError
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.schema import PAIRS, REJECTS, Table, table_of
from wat2mds.settings import Settings
from wat2mds.source import look_up, open_source
from wat2mds.stages.extract.pairs import PairMaker
from wat2mds.stages.extract.records import Damage, read_records

log = logging.getLogger(__name__)
STAGE = "extract"
_RECORD_REASONS = (DropReason.NOT_METADATA, DropReason.BAD_RECORD, DropReason.NO_IMAGE_LINK)


def run(source: str, out: str, settings: Settings, *, snapshot: str, segment: str, wat_file: str) -> Manifest:
    """Extract one WAT file. Raises DataError if it does not exist, is no WAT file, or is damaged beyond ``extract.max_bad_share``;
    TransientError where a server gives up on it, whose message says how far it came."""
    # Arrow's own allocator keeps what each group of rows took at most: a tenth more memory, and more the longer the file.
    pa.set_memory_pool(pa.system_memory_pool())
    found = look_up(source)
    unit = {"snapshot": snapshot, "segment": segment, "wat_file": wat_file}
    with Unit(STAGE, out, [Input(source, found.identity)], settings, unit=unit) as attempt:
        if attempt.done:
            return attempt.manifest
        maker = PairMaker(settings.extract, snapshot, segment, wat_file)
        records: Counter[str] = Counter()
        bad_record = DropReason.BAD_RECORD  # an enum's attributes are slow
        lost_bytes = pages = total = 0
        truncated = False
        pairs = _Writer(attempt.path("pairs.parquet"), PAIRS)
        rejects = _Writer(attempt.path("rejects.parquet"), REJECTS)
        with open_source(found, attempt.scratch) as (stream, size):
            for record in read_records(stream, size):
                if isinstance(record, Damage):
                    # Damaged bytes between two readable gzip members: at least one record is lost there.
                    lost_bytes += record.size
                    truncated |= record.truncated
                    total += 1
                    records[bad_record] += 1
                    rejects.add(_reject(record.offset, record.detail, b""))
                    continue
                total += 1
                reason, detail = maker.add(record)
                if reason is None:
                    pages += 1
                    for columns in maker.groups():
                        pairs.write(columns)
                    continue
                records[reason] += 1
                if reason is bad_record:
                    rejects.add(_reject(record.offset, detail, record.data[:1000]))
        for columns in maker.groups(last=True):
            pairs.write(columns)
        pairs.close()
        rejects.close()
        _check_damage(source, total, records[DropReason.BAD_RECORD], lost_bytes, size, settings)
        flows = [
            Flow("records", "pages", total, pages, {str(r): records[r] for r in _RECORD_REASONS if records[r]}),
            Flow("links", "pairs", maker.links, maker.pairs, {str(r): n for r, n in sorted(maker.drops.items())}),
        ]
        extra = {"source": source, "bytes": size, "lost_bytes": lost_bytes, "truncated": truncated}
        return attempt.commit(flows, extra | {"mended_records": maker.mended})


def _reject(offset: int, detail: str, head: bytes) -> dict[str, Any]:
    return {"record_offset": offset, "drop_reason": str(DropReason.BAD_RECORD), "detail": detail[:500], "head": head}


def _check_damage(source: str, records: int, bad: int, lost_bytes: int, size: int, settings: Settings) -> None:
    if records == 0:
        raise DataError(f"{source} holds no WARC record ({size:,} bytes): it is empty or no WAT file")
    limit = settings.extract.max_bad_share
    # One damaged record is never too much, it costs itself; unless it is all there is.
    if (records == bad and limit < 1) or lost_bytes > limit * size or (bad > 1 and bad > limit * records):
        raise DataError(
            f"{source} is damaged: {bad:,} of {records:,} records and {lost_bytes:,} of {size:,} bytes cannot be read, more than "
            f"extract.max_bad_share = {limit}. Fetch it again, or raise the setting to take what is whole"
        )
    if bad:
        log.warning("%s: %d damaged records are left out, see rejects.parquet", source, bad)


class _Writer:
    """A parquet file written in row groups; the same rows give the same bytes."""

    def __init__(self, path: Path, table: Table) -> None:
        self._table = table
        self._rows: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=3)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def write(self, columns: dict[str, Any]) -> None:
        self._writer.write_table(table_of(self._table, columns))

    def close(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._table.schema))
        self._writer.close()

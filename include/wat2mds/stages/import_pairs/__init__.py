"""import: one parquet file of pairs that exist already in, its pairs out; from ``dedup`` on they take the road of all others.

In: a file by path or URL (file:, s3:, http(s):, hf:) of a layout that ``layouts.py`` knows. Out: ``pairs.parquet`` (schema.PAIRS),
``imported.parquet`` (schema.IMPORTED: what the list states of each pair, for joining) and ``rejects.parquet``. Guaranteed: every row
is a pair or counted under a drop reason; memory does not grow with the file. What does not belong here: trusting the list's scores in
place of our own, deduplication.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import ConfigError, DataError
from wat2mds.imports import hub_address
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.plan import IMPORT_SEGMENT, import_fingerprint
from wat2mds.schema import IMPORTED, PAIRS, REJECTS
from wat2mds.settings import Settings
from wat2mds.source import Source, bring, look_up
from wat2mds.stages.import_pairs.layouts import Recognised, SizeVotes, recognise
from wat2mds.stages.import_pairs.rows import RowReader, numbers, texts

log = logging.getLogger(__name__)
STAGE = "import"
_SHA256 = re.compile(r"[0-9a-f]{64}")
ROWS_AT_A_TIME = 20_000
_ROWS_THAT_VOTE = 100_000


def run(source: str, out: str, settings: Settings, *, name: str, number: str, token: str = "") -> Manifest:
    """Import one file. Raises DataError if it does not exist, is no parquet file, or is of no known layout."""
    found = find_source(source, settings.import_.hub, token)
    unit = {"snapshot": name, "segment": IMPORT_SEGMENT, "wat_file": number}
    with Unit(
        STAGE, out, [Input(source, found.identity)], settings, unit=unit, fingerprint=import_fingerprint(settings)
    ) as attempt:
        if attempt.done:
            return attempt.manifest
        file = _open(bring(found, attempt.scratch), source)
        recognised = recognise(file.schema_arrow.names, source)
        swapped, sizes = _sizes(file, recognised, settings)
        log.info("%s: layout %s, %s rows, sizes %s", source, recognised.layout.name, f"{file.metadata.num_rows:,}", sizes)
        reader = RowReader(settings, recognised.columns, unit, swapped)
        tables = {"pairs": PAIRS, "imported": IMPORTED, "rejects": REJECTS}
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    pq.ParquetWriter(attempt.path(f"{name}.parquet"), table.schema, compression="zstd", compression_level=3)
                )
                for name, table in tables.items()
            ]
            for batch in _batches(file, recognised, source):
                for writer, table in zip(writers, reader.take(batch), strict=True):
                    if table.num_rows:
                        writer.write_table(table)
        flow = Flow("rows", "pairs", reader.rows, reader.pairs, {str(r): n for r, n in sorted(reader.drops.items())})
        extra = {
            "source": source,
            "bytes": found.size,
            "layout": recognised.layout.name,
            "columns": dict(recognised.columns),
            "ignored_columns": list(recognised.ignored),
            "sizes": sizes,
        }
        return attempt.commit([flow], extra)


def find_source(url: str, hub: str, token: str = "") -> Source:
    """What is known of a list; ``#sha256=<hex>`` after its URL asks for that hash. Raises as ``look_up``."""
    address, _, fragment = url.partition("#")
    wanted = fragment.removeprefix("sha256=").lower() if fragment else None
    if wanted is not None and not _SHA256.fullmatch(wanted):
        raise ConfigError(f"{url}: after # stands sha256= and 64 hex digits, or nothing")
    if not address.startswith("hf:"):
        return look_up(address, sha256=wanted)
    access = "A gated dataset on the hub wants a token: WAT2MDS_HUB_TOKEN"
    return look_up(hub_address(address, hub), sha256=wanted, token=token, access=access)


def _open(path: Path, source: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source} is no parquet file, or a damaged one: {_first_line(error)}") from error


def _batches(
    file: pq.ParquetFile, recognised: Recognised, source: str, columns: tuple[str, ...] | None = None
) -> Iterator[pa.RecordBatch]:
    names = [recognised.columns[name] for name in columns or tuple(recognised.columns)]
    try:
        yield from file.iter_batches(ROWS_AT_A_TIME, columns=sorted(set(names)), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{source} is damaged: {_first_line(error)}. Fetch it again") from error


def _sizes(file: pq.ParquetFile, recognised: Recognised, settings: Settings) -> tuple[bool, dict[str, Any]]:
    """Whether width and height are swapped, and what said so: the setting, else the file's own URLs, else its release's order."""
    if not {"width", "height"} <= set(recognised.columns):
        return False, {}
    if settings.import_.sizes != "auto":
        return settings.import_.sizes == "swapped", {"swapped": settings.import_.sizes == "swapped", "decided_by": "setting"}
    votes, looked_at = SizeVotes(), 0
    for batch in _batches(file, recognised, "the list", ("url", "width", "height")):
        urls = [url if isinstance(url, str) else None for url in texts(batch.column(recognised.columns["url"]), "url")]
        sides = [numbers(batch.column(recognised.columns[side])) for side in ("width", "height")]
        votes.add(zip(urls, *sides, strict=True))
        looked_at += len(batch)
        if looked_at >= _ROWS_THAT_VOTE:
            break
    verdict = votes.verdict()
    swapped = recognised.swapped_by_order if verdict is None else verdict
    said = "column_order" if verdict is None else "urls"
    return swapped, {"swapped": swapped, "decided_by": said, "urls_as_named": votes.as_named, "urls_swapped": votes.swapped}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

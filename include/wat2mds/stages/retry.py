"""retry: the failures of a published WAT file that may be asked for again become the pairs of a unit of their own.

In: an object below ``outcomes/``. Out: ``unique.parquet`` (schema PAIRS), as dedup hands it to download. Guaranteed: only failures of class
transient, in the order of the WAT file's pairs; the ledger is not asked, since the WAT file holds their claims. What does not
belong here: whether they are due (``retries.py``).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.failures import retriable, uids_digest
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.schema import OUTCOMES, PAIRS
from wat2mds.settings import Settings
from wat2mds.store import fetch, file_hash
from wat2mds.versions import newest_number

STAGE = "retry"


def run(source: str, out: str, settings: Settings, *, snapshot: str, segment: str, wat_file: str) -> Manifest:
    """``wat_file``: the retry's own name, ``00017-r1``. Raises DataError for outcomes that are gone or hold nothing to ask for."""
    # The object is named by its content.
    inputs = [Input(source, source.rpartition("/")[2])]
    place = {"snapshot": snapshot, "segment": segment, "wat_file": wat_file}
    with Unit(STAGE, out, inputs, settings, unit=place, fingerprint={}) as unit:
        if unit.done:
            return unit.manifest
        rows = retriable(_read(source, unit.scratch))
        if not rows.num_rows:
            raise DataError(f"{source} holds no failure that may be asked for again")
        unit.unit["retry_of"] = uids_digest(rows["uid"].to_pylist())
        at = PAIRS.names().index("wat_file")
        pairs = rows.select(PAIRS.names()).set_column(at, "wat_file", pa.array([wat_file] * len(rows), pa.string()))
        pq.write_table(pairs.cast(PAIRS.schema), unit.path("unique.parquet"), compression="zstd", compression_level=3)
        # What filter compares images with (``extra`` as dedup's): the version that stood when the retry began.
        dataset = source.rsplit("/", 3)[0]
        extra = {"dataset": {"url": dataset, "version": newest_number(dataset) or 0}}
        return unit.commit([Flow("failed", "unique", len(rows), len(rows))], extra)


def _read(source: str, folder: Path) -> pa.Table:
    try:
        path = fetch(source, folder)
    except FileNotFoundError as error:
        raise DataError(f"{error}: its WAT file was published anew; plan the retry again") from error
    if file_hash(path)[:12] != source.rpartition("/")[2].partition(".")[0]:
        raise DataError(f"{source} is not what was uploaded: it was damaged")
    return pq.read_table(path, columns=OUTCOMES.names())

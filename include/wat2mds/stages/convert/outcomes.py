"""What became of the pairs of a WAT file that are not published: failures of download and drops of filter, kept with the dataset.

In: the manifests of download and filter. Out: ``outcomes.parquet`` (schema OUTCOMES), which outlives the stages' own files, so that
failures can be listed and asked for again. Guaranteed: every pair of ``unique.parquet`` is either kept or here, in its order; of
what is on a block list or taken down only uid, place and reason are kept. What does not belong here: when a failure is due again
(``retries.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.drops import IMAGE_DELETED
from wat2mds.failures import retriable, uids_digest
from wat2mds.lineage import parent
from wat2mds.manifest import Manifest
from wat2mds.schema import OUTCOMES, PAIRS, SAMPLES, SCORES, table_of
from wat2mds.settings import PAIR_STAGES

_STAYS = ("uid", "snapshot", "segment", "wat_file", "drop_reason")


def write_outcomes(samples: Manifest, decisions: Manifest, path: Path, folder: Path) -> dict[str, Any]:
    """Write the table; returns what the unit's record says of its failures (``units.PublishedUnit``). Scratch files go to ``folder``."""
    scores = parent(decisions, "filter")
    pairs = pq.read_table(parent(samples, PAIR_STAGES).fetch("unique.parquet", folder), columns=PAIRS.names())
    decided = pq.read_table(decisions.fetch("decisions.parquet", folder), columns=["uid", "drop_reason", "language"])
    kept = decided.filter(pc.is_null(decided["drop_reason"]))["uid"].combine_chunks()
    pairs = pairs.filter(pc.invert(pc.is_in(pairs["uid"], value_set=kept)))
    fetched = _rows(pairs, _tables(samples, folder))
    decided = _rows(pairs, decided)
    scored = _rows(pairs, pq.read_table(scores.fetch("scores.parquet", folder), columns=SCORES.names()))
    columns: dict[str, Any] = {}
    for name in OUTCOMES.names():
        sources = [table for table in (pairs, decided if name == "language" else fetched, scored) if name in table.column_names]
        if sources:
            columns[name] = sources[0][name]
    columns["drop_reason"] = pc.coalesce(decided["drop_reason"], fetched["drop_reason"])
    blocked = pc.is_in(columns["drop_reason"], value_set=pa.array([str(reason) for reason in IMAGE_DELETED]))
    for name, values in columns.items():
        if name not in _STAYS:
            columns[name] = pc.if_else(blocked, pa.scalar(None, values.type), values)
    found = pa.table(columns)
    # A pair of which no stage says what became of it is validate's to find.
    found = found.filter(pc.is_valid(found["drop_reason"]))
    table = table_of(OUTCOMES, {name: found[name] for name in columns})
    pq.write_table(table, path, compression="zstd")
    again = retriable(table)
    until = pc.max(again["fetched_at"]).as_py()
    return {
        "retriable": again.num_rows,
        "retriable_uids": uids_digest(again["uid"].to_pylist()),
        "retriable_until": until.isoformat() if until else "",
    }


def _tables(samples: Manifest, folder: Path) -> pa.Table:
    columns = [name for name in SAMPLES.names() if name == "uid" or (name in OUTCOMES.names() and name not in PAIRS.names())]
    return pa.concat_tables(pq.read_table(samples.fetch(name, folder), columns=columns) for name in samples.matching(".parquet"))


def _rows(pairs: pa.Table, table: pa.Table) -> pa.Table:
    """The table's row of each pair; nulls where it has none."""
    places = pc.index_in(pairs["uid"].combine_chunks(), value_set=table["uid"].combine_chunks())
    return table.combine_chunks().take(places)

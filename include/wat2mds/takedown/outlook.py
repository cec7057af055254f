"""What a takedown would do: its dry run.

In: a dataset, entries. Out: counts by kind and by part of the dataset. Guaranteed: nothing is written; the same look as the takedown's own.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wat2mds import subsets
from wat2mds.search.records import list_indices
from wat2mds.store import Store, join
from wat2mds.takedown.applying import identity, look
from wat2mds.takedown.entries import Entries
from wat2mds.takedown.work import concerned
from wat2mds.unit_rows import read_rows
from wat2mds.versions import newest_number, read_record, standing_numbers


def outlook(dataset_url: str, entries: Entries) -> dict[str, Any]:
    """``unmatched``: entries by kind that name nothing in published WAT files."""
    dataset = Store(dataset_url)
    entries.watch()
    seen = look(dataset_url, entries)
    hits = {ident: found for ident, found in seen.found.items() if found}
    shards: set[str] = set()
    for found in hits.values():
        if found.samples and not found.lost:
            rows = read_rows(dataset, found.unit, ["uid", "shard"])
            shards.update(rows["shard"].filter(pc.is_in(rows["uid"], value_set=pa.array(sorted(found.samples)))).to_pylist())
    newest = newest_number(dataset_url)
    older = [number for number in standing_numbers(dataset_url) if number != newest]
    holding = [n for n in older if any(identity(unit) in hits for unit in read_record(dataset_url, n).units.values())]
    unmatched = {kind: int((~marks).sum()) for kind, marks in entries.seen.items() if not marks.all()}
    work = concerned(Store(join(dataset.url, "work")), Entries(entries.words, entries.near))
    return {
        "listed": entries.counts,
        **seen.counts(),
        "shards": len(shards),
        "withdrawn": holding,
        "work": work,
        "subsets": subsets.names(dataset) if hits else [],
        "indices": sorted({record.name for record in list_indices(dataset_url)}) if hits else [],
        "unmatched": unmatched,
    }

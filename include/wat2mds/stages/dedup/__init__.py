"""dedup: the pairs of a batch in, each WAT file's own unique pairs out, claimed in the ledger before anything is downloaded.

In: extract's manifests, in the order of the WAT files. Out: one unit a WAT file with ``unique.parquet`` (schema.PAIRS); its manifest's
``extra["ledger"]`` says what the batch's look-ups in the ledger gave (``session.Session``), ``extra["dataset"]`` which version the
dataset had. Guaranteed: a uid is kept by exactly one WAT
file of the dataset; unclaimed ones go to the first WAT file in order, so the result does not depend on timing; a retry keeps exactly
what its first attempt claimed; with a dataset nothing is kept that a takedown lists. Memory holds 16 bytes a pair of the batch and as
much again to sort it by bin; tables stay on disk.
What does not belong here: near-duplicates by image.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.schema import PAIRS
from wat2mds.settings import Settings
from wat2mds.stages.dedup.ledger import Ledger
from wat2mds.stages.dedup.session import OTHERS, Session
from wat2mds.stages.dedup.uids import bins_of, read_uids
from wat2mds.takedown.entries import Entries, marks_in
from wat2mds.takedown.records import tombstones
from wat2mds.versions import newest_number

log = logging.getLogger(__name__)
STAGE = "dedup"
_KEPT, _IN_WAT, _IN_BATCH, _IN_DATASET, _TAKEN_DOWN = range(5)
_REASONS = {
    _IN_WAT: DropReason.DUPLICATE_IN_WAT,
    _IN_BATCH: DropReason.DUPLICATE_IN_BATCH,
    _IN_DATASET: DropReason.DUPLICATE_IN_DATASET,
    _TAKEN_DOWN: DropReason.TAKEN_DOWN,
}


def owner_name(unit: dict[str, str]) -> str:
    """The WAT file as the ledger knows it."""
    return f"{unit['snapshot']}.{unit['segment']}.{unit['wat_file']}"


def run(pairs: Sequence[Manifest], ledger_url: str, out: str, settings: Settings, dataset: str | None = None) -> list[Manifest]:
    """Deduplicate a batch. ``out`` holds ``{wat_file}``, which stands for each WAT file's number.

    ``dataset``: URL of the dataset that it will be part of, whose newest version is then what the batch's images are compared with.
    """
    owners = [owner_name(p.unit) for p in pairs]
    if len(set(owners)) != len(owners):
        raise ConfigError(f"a WAT file is given twice: {', '.join(name for name, n in Counter(owners).items() if n > 1)}")
    with ExitStack() as stack:
        units = [stack.enter_context(Unit(STAGE, out.format(wat_file=p.unit["wat_file"]), [p], settings)) for p in pairs]
        done = {i: unit.manifest for i, unit in enumerate(units) if unit.done}
        todo = [i for i in range(len(units)) if i not in done]
        if todo:
            ledger = Ledger.open(ledger_url, settings.dedup)
            tables = [pairs[i].fetch("pairs.parquet", units[i].scratch) for i in todo]
            session = Session(ledger, [owners[i] for i in (*todo, *sorted(done))])
            verdicts = _decide([read_uids(table) for table in tables], session)
            extra: dict[str, Any] = {"ledger": {"exact": ledger.exact, **session.counts}}
            if dataset is not None:
                extra["dataset"] = {"url": dataset, "version": newest_number(dataset) or 0}
            log.info("dedup: the ledger was asked for %s", extra["ledger"])
            entries = tombstones(dataset) if dataset is not None else Entries()
            for i, table, verdict in zip(todo, tables, verdicts, strict=True):
                if entries:
                    verdict[marks_in(table, entries)] = _TAKEN_DOWN
                done[i] = _write(units[i], table, verdict, extra)
        return [done[i] for i in range(len(units))]


def _decide(uids: list[np.ndarray], session: Session) -> list[np.ndarray]:
    """A verdict for each pair of each WAT file, one bin of the ledger at a time."""
    edges = np.cumsum([0, *map(len, uids)])
    every = np.concatenate(uids)
    uids.clear()
    wat_file = np.repeat(np.arange(len(edges) - 1, dtype=np.uint16), np.diff(edges))
    numbers = bins_of(every, session.ledger.bins)
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers, np.arange(session.ledger.bins + 1), sorter=order)
    verdicts = np.zeros(len(every), np.uint8)
    for number in range(session.ledger.bins):
        # In the order of the pairs, so that the first place of a uid is in the first WAT file that has it.
        places = order[bounds[number] : bounds[number + 1]]
        distinct, first, inverse = np.unique(every[places], return_index=True, return_inverse=True)
        own = wat_file[places]
        holder = session.claim(number, distinct, own[first])[inverse] if len(places) else np.empty(0, np.int32)
        verdict = np.where(holder == OTHERS, _IN_DATASET, _IN_BATCH).astype(np.uint8)
        mine = np.flatnonzero(holder == own)
        verdict[mine] = _IN_WAT
        verdict[mine[np.unique(inverse[mine], return_index=True)[1]]] = _KEPT
        verdicts[places] = verdict
    return [verdicts[start:end] for start, end in pairwise(edges)]


def _write(unit: Unit, table: Path, verdict: np.ndarray, extra: dict[str, Any]) -> Manifest:
    """Copy the kept rows, a row group at a time."""
    drops = Counter({str(reason): int((verdict == code).sum()) for code, reason in _REASONS.items()})
    start = 0
    with (
        pq.ParquetFile(table) as source,
        pq.ParquetWriter(unit.path("unique.parquet"), PAIRS.schema, compression="zstd", compression_level=3) as writer,
    ):
        for batch in source.iter_batches(batch_size=20_000):
            keep = verdict[start : start + len(batch)] == _KEPT
            start += len(batch)
            writer.write_table(pa.Table.from_batches([batch.filter(pa.array(keep))], schema=PAIRS.schema))
    kept = int((verdict == _KEPT).sum())
    return unit.commit([Flow("pairs", "unique", len(verdict), kept, {r: n for r, n in drops.items() if n})], extra)

"""Failures of published WAT files: which there are, which may be asked for again, and when.

In: a dataset's newest version and its objects below ``outcomes/``. Out: rows in the schema FAILURES, a WAT file at a time. Guaranteed: what
is said of attempts and due times follows from the version alone: a WAT file's own unit is the first attempt, its nth retry the one
after, and each retry asks for all that its predecessor left transient. What does not belong here: making a retry (``retries.py``).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from wat2mds.drops import DropReason, FailureClass
from wat2mds.settings import digest
from wat2mds.store import Store
from wat2mds.units import PublishedUnit, StoredObject, round_key
from wat2mds.versions import Version

if TYPE_CHECKING:
    import pyarrow as pa

FAILED = {str(reason): str(reason.failure) for reason in DropReason if reason.failure is not None}
TRANSIENT = [reason for reason, failure in FAILED.items() if failure == FailureClass.TRANSIENT]


def uids_digest(uids: Iterable[str]) -> str:
    """Names a set of uids; empty for none."""
    found = sorted(uids)
    return digest(found) if found else ""


def retriable(outcomes: pa.Table) -> pa.Table:
    """The rows of a table of outcomes, or of failures, that may be asked for again."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return outcomes.filter(pc.is_in(outcomes["drop_reason"], value_set=pa.array(TRANSIENT)))


def outcomes_of(unit: PublishedUnit) -> StoredObject | None:
    """None for a unit that was published without outcomes."""
    return next((entry for entry in unit.objects if entry.path.startswith("outcomes/")), None)


def chains(version: Version) -> Iterator[list[PublishedUnit]]:
    """Each WAT file's own unit followed by its retries. One segment's list in memory at a time."""
    for segment in version.units.lists:
        yield from chains_of(version.units.segment(segment))
        version.units.forget(segment)


def chains_of(units: Mapping[str, PublishedUnit]) -> Iterator[list[PublishedUnit]]:
    """The same of one segment's units by key."""
    for key, unit in units.items():
        if round_key(key, 0) == key:
            chain = [unit]
            while (following := units.get(round_key(key, len(chain)))) is not None:
                chain.append(following)
            yield chain


def due_at(chain: Sequence[PublishedUnit], retry_days: Sequence[float]) -> datetime | None:
    """When what a WAT file's last attempt left transient may be asked for again; None where nothing is left or it is given up."""
    last = chain[-1]
    if not last.retriable or len(chain) > len(retry_days) or outcomes_of(last) is None:
        return None
    return datetime.fromisoformat(last.retriable_until) + timedelta(days=retry_days[len(chain) - 1])


def failures(dataset_url: str, version: Version, retry_days: Sequence[float]) -> Iterator[pa.Table]:
    """The failures of one WAT file after the other, in the schema FAILURES, each pair once."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from wat2mds.schema import FAILURES, table_of

    store = Store(dataset_url)
    given = [name for name in FAILURES.names() if name not in ("failure", "attempts", "next_due")]
    for chain in chains(version):
        for attempts, unit in enumerate(chain, 1):
            entry = outcomes_of(unit)
            if entry is None:
                continue
            rows = pq.read_table(io.BytesIO(store.read(entry.path)), columns=given)
            rows = rows.filter(pc.is_in(rows["drop_reason"], value_set=pa.array(list(FAILED))))
            again = pc.is_in(rows["drop_reason"], value_set=pa.array(TRANSIENT))
            due = due_at(chain, retry_days)
            if unit is not chain[-1]:  # what was transient then stands in the retries that follow
                rows, again = rows.filter(pc.invert(again)), None
            columns = {name: rows[name] for name in given}
            columns["failure"] = pa.array([FAILED[reason] for reason in rows["drop_reason"].to_pylist()], pa.string())
            columns["attempts"] = pa.array([attempts] * len(rows), pa.int32())
            columns["wat_file"] = pa.array([chain[0].wat_file] * len(rows), pa.string())
            if due is not None and again is not None:
                columns["next_due"] = pc.if_else(again, pa.scalar(due, pa.timestamp("ms", "UTC")), None)
            yield table_of(FAILURES, columns)

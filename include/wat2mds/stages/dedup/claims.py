"""The claims of one bin: numbered parquet files ``bin=0003/claims/000017.parquet``, the one thing that the ledger's truth is in.

Creating the next number, conditionally, is the commit: claims and commit are one object, so nothing can lie between them, and of two
writers one goes on and the other reads and tries again. A file never changes; its rows are (uid, owner) sorted by uid; its footer says
which attempt wrote it, how many keys the bin holds after it, and which claims have been released. A release is such a file too, one
without rows. What does not belong here: filters (made from claims, ``filters``), which attempt wrote where (``session``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import DataError
from wat2mds.stages.dedup import uids as arrays
from wat2mds.store import Store, join

_SCHEMA = pa.schema(
    [
        pa.field("uid", arrays.ARROW, nullable=False),
        pa.field("owner", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)
_FOOTER = b"wat2mds.ledger"
# Sorted, so each group is a range of uids with its bounds in the footer: 128 KB is what a look-up of one uid reads.
_ROW_GROUP = 8192


@dataclass(frozen=True)
class Release:
    """The claims of these owners in these commits are void from commit ``sequence`` on."""

    sequence: int
    owners: list[str]
    commits: list[int]


@dataclass(frozen=True)
class Footer:
    """What a commit says of itself and of its bin. ``keys``: claims that hold after it."""

    attempt: str = ""
    owners: list[str] = field(default_factory=list)
    keys: int = 0
    releases: list[Release] = field(default_factory=list)


class State(NamedTuple):
    """A bin as it was seen: its newest commit, 0 for none, and that commit's footer."""

    newest: int
    footer: Footer


class Claims(NamedTuple):
    """Rows of one commit: sorted uids and, for each, the index of its owner in ``names``."""

    uids: np.ndarray
    codes: np.ndarray
    names: list[str]


class Bin:
    """One bin of the ledger in ``store``."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.number = number
        self.folder = f"bin={number:04d}"

    def state(self, at_least: int = 0) -> State:
        """The bin now; ``at_least`` is a commit that is known to be there."""
        newest = at_least or self._hint()
        while self.store.exists(self.path(newest + 1)):
            newest += 1
        return State(newest, self.footer(newest) if newest else Footer())

    def footer(self, sequence: int) -> Footer:
        """Raises FileNotFoundError."""
        with self.store.open(self.path(sequence)) as file:
            return self._footer(sequence, pq.read_metadata(file).metadata or {})

    def read(self, sequence: int, releases: Sequence[Release] = (), among: np.ndarray | None = None) -> Claims:
        """The claims of one commit that were not released; only row groups that can hold one of ``among`` (sorted) are read."""
        with self.store.open(self.path(sequence)) as file, pq.ParquetFile(file, read_dictionary=["owner"]) as table:
            groups = range(table.num_row_groups) if among is None else _groups_of(table.metadata, among)
            rows = table.read_row_groups(list(groups))
        owner = rows.column("owner").unify_dictionaries().combine_chunks()
        if isinstance(owner, pa.ChunkedArray):
            owner = owner.chunk(0) if owner.num_chunks else pa.array([], _SCHEMA.field("owner").type)
        names, codes = owner.dictionary.to_pylist(), owner.indices.to_numpy(zero_copy_only=False)
        uids = arrays.from_arrow(rows.column("uid"))
        void = released(releases, sequence)
        if void.intersection(names):
            holds = np.array([name not in void for name in names])[codes]
            uids, codes = uids[holds], codes[holds]
        return Claims(uids, codes, names)

    def create(self, sequence: int, uids: np.ndarray, codes: np.ndarray, names: Sequence[str], footer: Footer) -> bool:
        """Commit claims; ``uids`` are sorted and distinct. False if another writer has this number."""
        owner = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(names), pa.string()))
        metadata = {_FOOTER: json.dumps(asdict(footer), separators=(",", ":")).encode()}
        table = pa.Table.from_arrays([arrays.to_arrow(uids), owner], schema=_SCHEMA.with_metadata(metadata))
        buffer = io.BytesIO()
        # Not compressed: hashes do not shrink, and owners are bit-packed indices already.
        pq.write_table(table, buffer, compression="none", use_dictionary=["owner"], row_group_size=_ROW_GROUP)
        return self.store.create(self.path(sequence), buffer.getvalue())

    def _hint(self) -> int:
        """A commit that is there, not far from the newest, at the cost of one short listing: the filters', which are few."""
        last = [int(name.split(".")[0].split("-")[1]) for name in self.store.names(f"{self.folder}/filters")[0]]
        # With filters removed by hand, the long way.
        return (
            max(last)
            if last
            else max((int(name.split(".")[0]) for name in self.store.names(f"{self.folder}/claims")[0]), default=0)
        )

    def path(self, sequence: int) -> str:
        return f"{self.folder}/claims/{sequence:06d}.parquet"

    def _footer(self, sequence: int, metadata: dict[bytes, bytes]) -> Footer:
        try:
            found = json.loads(metadata[_FOOTER])
            found["releases"] = [Release(**entry) for entry in found["releases"]]
            return Footer(**found)
        except (KeyError, TypeError, ValueError) as error:
            where = join(self.store.url, self.path(sequence))
            raise DataError(f"{where} is no commit of the ledger: {error!r}. Restore it from a copy") from error


def released(releases: Sequence[Release], sequence: int) -> set[str]:
    """Owners whose claims in this commit are void."""
    return {owner for release in releases if sequence in release.commits for owner in release.owners}


def _groups_of(metadata: pq.FileMetaData, among: np.ndarray) -> list[int]:
    found = []
    for group in range(metadata.num_row_groups):
        bounds = metadata.row_group(group).column(0).statistics
        if bounds is None or not bounds.has_min_max:
            found.append(group)
            continue
        low, high = np.array([bounds.min, bounds.max], arrays.KIND)
        if np.searchsorted(among, low, "left") < np.searchsorted(among, high, "right"):
            found.append(group)
    return found

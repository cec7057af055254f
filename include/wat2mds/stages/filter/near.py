"""Near-duplicates of a WAT file's samples: which of them give way to a better one of the WAT file, or to one that is published.

In: scores, with hash and size of each image, and the dataset as it stood when the WAT file was deduplicated. Out: a mark for each sample
that gives way. Guaranteed: the same samples and version give the same marks, in whatever order the samples stand and whatever was
published since; of two images never both give way to the other; what PDQ calls too plain to be matched gives way to nothing. What
does not belong here: the groups that publish names. Other WAT files of the batch are not seen: they are filtered at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wat2mds.errors import DataError
from wat2mds.groups import founding_hashes
from wat2mds.lineage import parent
from wat2mds.manifest import Input, Manifest
from wat2mds.models.near_duplicates import NONE, Index, hash_rows, leaders
from wat2mds.models.pictures import PDQ_LEAST_QUALITY
from wat2mds.settings import PAIR_STAGES
from wat2mds.store import Store
from wat2mds.units import PublishedUnit, unit_key
from wat2mds.versions import read_record


@dataclass(frozen=True)
class Published:
    """A version of the dataset, 0 for none, and the WAT file that is compared with it."""

    dataset: str
    version: int
    wat_file: str

    @classmethod
    def of(cls, samples: Manifest) -> Published:
        """The version that dedup saw: a retry, another attempt and a later run compare with the same. Raises DataError where dedup
        recorded none."""
        unique = parent(samples, PAIR_STAGES)
        if "dataset" not in unique.extra:
            raise DataError(
                f"{unique.url} does not say which version of the dataset it saw, with which filter.near_duplicates=dataset compares: "
                f"delete it and run dedup again with --dataset"
            )
        seen, unit = unique.extra["dataset"], samples.unit
        return cls(seen["url"], seen["version"], unit_key(unit["snapshot"], unit["segment"], unit["wat_file"]))

    def as_input(self) -> Input:
        return Input(self.dataset, f"version {self.version}")

    def hashes(self) -> Iterator[np.ndarray]:
        """Founding hashes of the groups of WAT files that came before this one, uint8 [n, 32] each.

        Those of the first version first, then by key: with that order, which never changes, two WAT files that are both built anew do
        not give way to each other.
        """
        if not self.version:
            return
        units = read_record(self.dataset, self.version).units
        own = units.get(self.wat_file)

        def before(unit: PublishedUnit) -> bool:
            return own is None or (unit.since, unit.key) < (own.since, own.key)

        for table in founding_hashes(Store(self.dataset), units, before):
            yield np.frombuffer(b"".join(table["pdq"].to_pylist()), np.uint8).reshape(-1, 32)


def worse_copies(scores: pa.Table, kept: np.ndarray, published: Iterable[np.ndarray] = ()) -> np.ndarray:
    """bool [n]: of the rows marked in ``kept`` those that are near a published hash or a better row which itself stays (PDQ, 31 bits).

    Better is more pixels as fetched, then the greater similarity, then the lesser uid.
    """
    good = pc.fill_null(pc.greater_equal(scores["pdq_quality"], PDQ_LEAST_QUALITY), False)
    rows = np.flatnonzero(kept & np.asarray(good) & np.asarray(pc.is_valid(scores["pdq"])))
    marks = np.zeros(scores.num_rows, bool)
    if not len(rows):
        return marks
    chosen = scores.take(rows)
    pixels = pc.multiply(chosen["original_width"].cast(pa.int64()), chosen["original_height"].cast(pa.int64()))
    columns = {"pixels": pc.fill_null(pixels, 0), "similarity": chosen["similarity"], "uid": chosen["uid"]}
    order = [("pixels", "descending"), ("similarity", "descending"), ("uid", "ascending")]
    rows = rows[np.asarray(pc.sort_indices(pa.table(columns), sort_keys=order))]
    hashes = hash_rows(scores["pdq"].take(rows).to_pylist())
    for block in published:
        near = Index(block).first(hashes) != NONE
        marks[rows[near]] = True
        rows, hashes = rows[~near], hashes[~near]
    heads = leaders(hashes)
    marks[rows[heads != np.arange(len(heads))]] = True
    return marks

"""The vectors of many units in one index: of images and of texts, under the same rows.

In: vectors, a training, and what an older index holds. Out: ``Held``. Guaranteed: what is held is what the units hold, whatever was held
before: a unit that the older index has is taken from it, any other is encoded, and what is of no unit any more is left out. What does
not belong here: storing and versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wat2mds.errors import DataError
from wat2mds.search.index_types import training_size
from wat2mds.search.lists import Codes, fill
from wat2mds.search.training import drawn, take, train
from wat2mds.search.vectors import Modality, Vectors
from wat2mds.subsets import uids

ROWS = np.dtype([("unit", "i4"), ("image", "i4"), ("text", "i4")])


@dataclass(frozen=True)
class Held:
    """uids [n], sorted; for each the number of its unit in ``units``; by modality the file of codes and the list of each row.

    ``added`` and ``removed`` count vectors against the index that it was made from.
    """

    units: list[str]
    uids: np.ndarray
    numbers: np.ndarray
    files: dict[Modality, Path]
    places: dict[Modality, np.ndarray]
    added: int = 0
    removed: int = 0

    def rows(self, vectors: Vectors, units: list[str] | None = None) -> dict[str, np.ndarray]:
        """The rows of units, by default all, each in its unit's order."""
        return rows_of(self.uids, {unit: vectors.uids(unit) for unit in (self.units if units is None else units)})


def rows_of(sorted_uids: np.ndarray, wanted: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where the uids of each unit stand in all."""
    found = uids.positions(sorted_uids, np.concatenate([np.empty(0, uids.DTYPE), *wanted.values()]))
    ends = np.cumsum([0, *map(len, wanted.values())])
    return {unit: found[start:end] for unit, start, end in zip(wanted, ends, ends[1:], strict=False)}


def train_on(
    vectors: Vectors, index_type: str, memory_limit: int, modalities: tuple[Modality, ...] = ("image", "text")
) -> dict[Modality, Codes]:
    """Trained, empty indices."""
    theirs = {unit: vectors.uids(unit) for unit in vectors.unit_names}
    everything = _sorted(np.concatenate(list(theirs.values())))
    rows = rows_of(everything, theirs)
    wanted = drawn(len(everything), training_size(len(everything), vectors.dim, memory_limit, index_type))
    return {modality: Codes(train(take(vectors, rows, wanted, modality), index_type)) for modality in modalities}


def assemble(vectors: Vectors, trained: Mapping[Modality, Codes], folder: Path, old: Held | None = None) -> Held:
    """An index of all units. ``trained`` are of the training of ``old``, and lose their own lists; files are put into ``folder``.

    Raises DataError for a uid that stands in two units.
    """
    units = vectors.unit_names
    known = {} if old is None else {unit: number for number, unit in enumerate(old.units)}
    number_of = {unit: number for number, unit in enumerate(units)}
    # The new number of each of the old index's units; -1 for one that is gone.
    renumbered = np.array([number_of.get(unit, -1) for unit in known], np.int32)
    now = renumbered[old.numbers] if old is not None else np.empty(0, np.int32)
    kept = np.flatnonzero(now >= 0)
    theirs = {unit: vectors.uids(unit) for unit in units if unit not in known}
    old_uids = old.uids[kept] if old is not None else np.empty(0, uids.DTYPE)
    everything = _sorted(np.concatenate([old_uids, *theirs.values()]))
    new_rows = rows_of(everything, theirs)
    moved = np.full(len(now), -1, np.int64)
    moved[kept] = uids.positions(everything, old_uids)
    numbers = np.empty(len(everything), np.int32)
    numbers[moved[kept]] = now[kept]
    for unit, rows in new_rows.items():
        numbers[rows] = number_of[unit]
    files, places = {}, {}
    for modality, codes in trained.items():
        before = Codes.mapped(old.files[modality]) if old is not None else None
        files[modality] = folder / f"new.{modality}"
        new = _encoded(vectors, new_rows, modality)
        places[modality] = fill(codes, before, moved, new, len(everything), files[modality])
    added = sum(map(len, theirs.values()))
    return Held(units, everything, numbers, files, places, added, len(now) - len(kept))


def _encoded(vectors: Vectors, rows: Mapping[str, np.ndarray], modality: Modality) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, vectors) of units by blocks."""
    for unit, theirs in rows.items():
        start = 0
        for block in vectors.blocks(unit, modality):
            yield theirs[start : start + len(block)], block
            start += len(block)


def _sorted(pairs: np.ndarray) -> np.ndarray:
    found = uids.in_order(pairs)
    twice = found[1:][found[1:] == found[:-1]]
    if len(twice):
        one = twice[0]
        raise DataError(
            f"{len(twice)} uids stand in more than one unit, e.g. {int(one['f0']):016x}{int(one['f1']):016x}: `wat2mds verify` says more"
        )
    return found

"""The stored embeddings of a version, unit by unit.

In: a version. Out: uids and vectors of its units. Guaranteed: what is read is what the version records, checked by hash; vectors have norm
1, in float32; memory holds one unit's float16 and a block of float32. What does not belong here: choosing which.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wat2mds.errors import DataError, TransientError
from wat2mds.layout import Layout, split
from wat2mds.settings import Settings
from wat2mds.store import Store, join
from wat2mds.subsets import uids
from wat2mds.units import PublishedUnit, StoredObject
from wat2mds.versions import Version

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")
BLOCK = 1 << 14  # rows that are worked on at a time
_FILES: dict[Modality, str] = {"image": "img_emb/img_emb_0.npy", "text": "text_emb/text_emb_0.npy"}


class Vectors(Protocol):
    """Vectors in units that never change under one name."""

    @property
    def dim(self) -> int:
        """Floats of one vector."""

    @property
    def unit_names(self) -> list[str]:
        """Sorted."""

    def uids(self, unit: str) -> np.ndarray:
        """uids [rows] of a unit as pairs, dtype ``uids.DTYPE``."""

    def blocks(self, unit: str, modality: Modality) -> Iterator[NDArray[np.float32]]:
        """The unit's vectors [≤ BLOCK, dim] in the order of its uids."""


class StoredVectors:
    """Of a published version; the first CLIP model's, which scores every sample."""

    def __init__(self, dataset: Store, version: Version) -> None:
        self.dataset = dataset
        self._units: Mapping[str, PublishedUnit] = {
            unit.unit_name: unit
            for unit in version.units.values()
            if unit.samples and _first(unit, "metadata/metadata_0.parquet")
        }
        self.clip = _clip_of(dataset, version, self._units)

    @property
    def unit_names(self) -> list[str]:
        return sorted(self._units)

    @cached_property
    def dim(self) -> int:
        lengths: dict[int, str] = {}
        for name in self.unit_names[:1]:
            for block in self.blocks(name, "image"):
                lengths[block.shape[1]] = name
        if not lengths:
            raise DataError(f"{self.dataset.url} holds no samples in this version: there is nothing to index")
        return next(iter(lengths))

    def uids(self, unit: str) -> np.ndarray:
        content = self._read(_first(self._units[unit], "metadata/metadata_0.parquet"))
        return uids.of(pq.read_table(pa.BufferReader(content), columns=["uid"])["uid"])

    def blocks(self, unit: str, modality: Modality) -> Iterator[NDArray[np.float32]]:
        stored = _first(self._units[unit], _FILES[modality])
        vectors = np.load(io.BytesIO(self._read(stored)), allow_pickle=False)
        if vectors.ndim != 2 or len(vectors) != self._units[unit].samples:
            raise DataError(
                f"{unit}: its {modality} embeddings have the shape {vectors.shape}, it has {self._units[unit].samples} samples"
            )
        for start in range(0, len(vectors), BLOCK):
            yield normalized(vectors[start : start + BLOCK])

    def _read(self, stored: StoredObject | None) -> bytes:
        assert stored is not None, "units without embeddings are left out"
        try:
            content = self.dataset.read(stored.path)
        except FileNotFoundError as error:
            raise DataError(f"{error}: the version was withdrawn or damaged") from error
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise TransientError(
                f"{join(self.dataset.url, stored.path)} is not what the version records: `wat2mds verify` says more"
            )
        return content


def normalized(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """[n, dim] of norm 1 in float32; a vector of zeros or with a value that is no number becomes zeros, like nothing."""
    found = np.array(vectors, np.float32, order="C", ndmin=2)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    sound = np.isfinite(norms) & (norms > 0)
    np.divide(found, norms, out=found, where=sound)
    found[~sound[:, 0]] = 0
    return found


def _first(unit: PublishedUnit, suffix: str) -> StoredObject | None:
    """The object of the first model; the second's lie below ``other/``."""
    wanted = f"embeddings/{unit.unit_name}/{suffix}"
    return next((entry for entry in unit.objects if entry.path == wanted), None)


def _clip_of(dataset: Store, version: Version, units: Mapping[str, PublishedUnit]) -> tuple[str, str]:
    """(model, weights) of all units' embeddings. Raises DataError where they are not of one model."""
    found: dict[tuple[str, str], str] = {}
    for digest, name in {unit.settings: name for name, unit in sorted(units.items(), reverse=True)}.items():
        if digest == version.settings_digest:
            given = version.settings["filter"]
            found[given["clip_model"], given["clip_pretrained"]] = name
            continue
        folder, file = split(Layout.of(dataset.url).settings(digest))
        try:
            settings = Settings.from_json(Store(folder).read(file), join(folder, file))
        except FileNotFoundError:
            continue  # made without a plan; the length of its vectors is still compared
        found[settings.filter.clip_model, settings.filter.clip_pretrained] = name
    if len(found) > 1:
        told = "; ".join(f"{model}/{weights}: e.g. {name}" for (model, weights), name in found.items())
        raise DataError(
            f"version {version.number} of {dataset.url} has embeddings of several models, which cannot be compared ({told}). "
            f"Build the WAT files of the old one anew: `wat2mds backfill --from-stage filter`"
        )
    given = version.settings["filter"]
    return next(iter(found), (given["clip_model"], given["clip_pretrained"]))

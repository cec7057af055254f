"""A version's kNN index, opened and searched.

In: a dataset's URL, a preset's name, a version's number. Out: ``SearchIndex``. Guaranteed: the index is memory-mapped, so that opening
costs no time and memory is the system's to give and take; its files are those that the record names, by hash where they came from
afar; no uid is returned that the version does not hold. What does not belong here: making indices; what a uid's sample is.

A store on ``file:`` is mapped where it lies. From another, the files are fetched once into WAT2MDS_SEARCH_CACHE, from which opening
an index removes what no index of the dataset names any more: a withdrawn sample must not stay there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.search.lists import Codes
from wat2mds.search.records import IndexRecord, list_indices
from wat2mds.search.vectors import MODALITIES, Modality, normalized
from wat2mds.settings import deployment
from wat2mds.store import Store, file_hash, join
from wat2mds.subsets import uids
from wat2mds.units import StoredObject

__all__ = ["Hit", "IndexRecord", "SearchIndex", "list_indices", "open_index"]


@dataclass(frozen=True)
class Hit:
    """A sample that was found. ``score``: cosine, as exact as the index's codes are."""

    uid: str
    score: float


def open_index(dataset_url: str, name: str | None = None, version: int | None = None) -> SearchIndex:
    """The index of that name, by default the one with the best recall; of that version, by default the newest that has one.

    Raises ConfigError, naming those that exist, where there is none.
    """
    known = list_indices(dataset_url)
    fitting = [record for record in known if name in (None, record.name) and version in (None, record.version)]
    if not fitting:
        there = ", ".join(f"{record.name} of version {record.version}" for record in known) or "none"
        wanted = f"{'' if name is None else f' {name!r}'}{'' if version is None else f' of version {version}'}"
        raise ConfigError(f"{dataset_url} has no index{wanted}. There are: {there}. `wat2mds index build` makes one")
    record = max(fitting, key=lambda record: (record.version, record.recall, -record.size))
    return SearchIndex(record, fetched(Store(dataset_url), record))


class SearchIndex:
    """Of one version's images and texts. Threads may search it at the same time."""

    def __init__(self, record: IndexRecord, files: dict[str, Path]) -> None:
        self.record = record
        self._codes = {modality: Codes.mapped(files[modality]) for modality in MODALITIES if modality in record.nprobe}
        self._uids = np.load(files["uids"], mmap_mode="r")
        self._rows = np.load(files["rows"], mmap_mode="r")
        for modality, codes in self._codes.items():
            if not codes.count == len(self._uids) == record.count:
                raise DataError(f"index {record.name} of version {record.version}: its {modality} part does not fit its uids")

    def search(
        self, vectors: NDArray[np.float32], k: int, modality: Modality, among: Sequence[str] | None = None
    ) -> list[list[Hit]]:
        """The ``k`` samples whose image or text is most like each vector [n, dim], the best first; fewer where there are fewer.

        ``among``: only these uids, each of which is looked at, however far away; what the index does not hold is not found. Vectors need
        not have norm 1; one of zeros finds nothing. Raises ConfigError for vectors of another length.
        """
        queries = normalized(vectors)
        if queries.shape[1] != self.record.dim:
            raise ConfigError(
                f"the index holds vectors of {self.record.dim} floats, not of {queries.shape[1]}: another CLIP model?"
            )
        if k < 1 or not len(queries):
            return [[] for _ in queries]
        codes = self._codes[modality]
        if among is None:
            scores, rows = codes.search(queries, min(k, self.record.count), self.record.nprobe[modality])
        else:
            wanted = self._places(among)
            if not len(wanted):
                return [[] for _ in queries]
            scores, rows = codes.search_among(queries, min(k, len(wanted)), wanted, self._rows[modality][wanted])
        found = []
        for query, some_scores, some_rows in zip(queries, scores, rows, strict=True):
            there = some_rows >= 0 if query.any() else np.zeros(len(some_rows), bool)
            hits = [
                Hit(self._uid(row), min(1.0, max(-1.0, float(score))))
                for score, row in zip(some_scores[there], some_rows[there], strict=True)
            ]
            found.append(sorted(hits, key=lambda hit: (-hit.score, hit.uid)))
        return found

    def vector(self, uid: str, modality: Modality) -> NDArray[np.float32] | None:
        """A sample's vector [dim] of norm 1, as exact as the index's codes are; None where the index does not hold the uid."""
        row = self._row(uid)
        if row is None:
            return None
        found: NDArray[np.float32] = normalized(self._codes[modality].vector(row, int(self._rows[modality][row])))[0]
        return found

    def _uid(self, row: int) -> str:
        pair = self._uids[row]
        return f"{int(pair['f0']):016x}{int(pair['f1']):016x}"

    def _row(self, uid: str) -> int | None:
        found = self._places([uid])
        return int(found[0]) if len(found) else None

    def _places(self, wanted: Sequence[str]) -> NDArray[np.int64]:
        """The rows of those uids that the index holds."""
        pairs = uids.of_bytes(b"".join(map(_octets, wanted)))
        found: NDArray[np.int64] = np.unique(uids.find(self._uids, pairs))
        return found[found >= 0]


def _octets(uid: str) -> bytes:
    """A uid's 16 bytes; none of what is no uid."""
    try:
        found = bytes.fromhex(uid)
    except ValueError:
        return b""
    return found if len(uid) == 32 and len(found) == 16 else b""


def fetched(dataset: Store, record: IndexRecord) -> dict[str, Path]:
    """Local paths of an index's files by kind."""
    if dataset.local is not None:
        paths = {kind: dataset.local / stored.path for kind, stored in record.objects.items()}
        for kind, path in paths.items():
            if not path.is_file() or path.stat().st_size != record.objects[kind].size:
                raise DataError(f"{path} is gone or has another size than its record says: build the index of a new version")
        return paths
    set_ = deployment().search_cache
    base = Path(set_) if set_ else Path.home() / ".cache" / "wat2mds" / "search"
    folder = base / hashlib.sha256(dataset.url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    named = {stored.path.rpartition("/")[2] for one in list_indices(dataset.url) for stored in one.objects.values()}
    for path in folder.iterdir():
        if path.name not in named and not path.name.endswith(".partial"):
            path.unlink(missing_ok=True)
    return {kind: _fetch(dataset, stored, folder) for kind, stored in record.objects.items()}


def _fetch(dataset: Store, stored: StoredObject, folder: Path) -> Path:
    target = folder / stored.path.rpartition("/")[2]
    if not target.is_file() or target.stat().st_size != stored.size:
        try:
            dataset.get_file(stored.path, target)
        except FileNotFoundError as error:
            raise DataError(f"{error}: the version was withdrawn, or its index damaged") from error
        if file_hash(target) != stored.sha256:
            target.unlink()
            raise TransientError(f"{join(dataset.url, stored.path)} is not what the index's record names")
    return target

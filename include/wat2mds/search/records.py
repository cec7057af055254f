"""Which kNN indices a dataset has: their records.

In: a dataset's URL. Out: ``IndexRecord``. Guaranteed: a record exists when all that it names does; an index of a withdrawn version is not
listed. Light: no faiss. What does not belong here: what stands in the objects.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from wat2mds.errors import DataError
from wat2mds.layout import Layout
from wat2mds.store import Store, join
from wat2mds.units import StoredObject
from wat2mds.versions import standing_numbers

FORMAT = 1
FOLDER = "search"


@dataclass(frozen=True)
class IndexRecord:
    """One kNN index of one version: of its images and of its texts, ``count`` vectors of ``dim`` floats each.

    ``name`` is the preset, ``memory_limit`` its bytes for one of the two, ``size`` the bytes of all objects. ``type`` is faiss's name for
    how both are built; ``nprobe``: how many lists are searched, by what is searched. ``recalls``: recall@10 by brute force over
    ``queries`` samples of each kind, "image by text" for texts that search images; ``recall`` is the lowest of them. ``trained`` and
    ``measured`` are the versions that the index was trained and measured at, ``trained_recall`` its recall then, ``changed`` the vectors
    added and removed since it was measured.
    """

    name: str
    version: int
    count: int
    dim: int
    clip_model: str
    clip_pretrained: str
    type: str
    nprobe: dict[str, int]
    recall: float
    recalls: dict[str, float]
    queries: int
    memory_limit: int
    size: int
    objects: dict[str, StoredObject]
    trained: int
    trained_recall: float
    measured: int
    changed: int
    seed: int
    threads: int
    faiss: str
    format: int = FORMAT

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


def list_indices(dataset_url: str) -> list[IndexRecord]:
    """The indices of the versions that stand, by version and name. Raises DataError for a record that does not read."""
    store = Store(dataset_url)
    standing = set(standing_numbers(dataset_url))
    numbers = sorted(int(name) for name in store.names(FOLDER)[1] if name.isdigit())
    return [
        record
        for number in numbers
        if number in standing
        for file in store.names(f"{FOLDER}/{number:06d}")[0]
        if file.endswith(".json") and (record := read_record(store, number, file.removesuffix(".json")))
    ]


def read_record(dataset: Store, number: int, name: str) -> IndexRecord | None:
    """None where the version has no index of that name, whether it stands or not."""
    path = Layout.index_path(number, name)
    try:
        found: Any = dataset.read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{join(dataset.url, path)} is not the record of an index: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or set(found) != {f.name for f in fields(IndexRecord)}:
        raise DataError(f"{join(dataset.url, path)} is not the record of an index of format {FORMAT}, which this wat2mds reads")
    objects = {kind: StoredObject(**entry) for kind, entry in found["objects"].items()}
    return IndexRecord(**(found | {"objects": objects}))


def create_record(dataset: Store, record: IndexRecord) -> IndexRecord:
    """Commit an index; the record that stands, which is another's where that was faster."""
    dataset.create(Layout.index_path(record.version, record.name), record.to_json())
    return read_record(dataset, record.version, record.name) or record

"""Build a version's kNN index, or bring the newest older one up to it, and publish it.

In: a version, a preset. Out: the objects and then the record of the index. Guaranteed: what is published holds exactly the version's
samples; of two at work at once one commits, and both return the same record; one that was killed leaves no index and is begun anew. An
update costs what the new units cost, one copy of the index, and, once a twentieth of the vectors has changed, a measurement of recall,
which reads all embeddings; it trains anew where the old training does not fit any more (``why_train``). What does not belong here:
what a faiss file holds (``assembly.py``), reading.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np

from wat2mds.errors import DataError
from wat2mds.layout import Layout
from wat2mds.search import index_types
from wat2mds.search.assembly import ROWS, Held, assemble, train_on
from wat2mds.search.lists import Codes
from wat2mds.search.reading import fetched
from wat2mds.search.recall import GOOD, Measured, measure
from wat2mds.search.records import IndexRecord, create_record, list_indices, read_record
from wat2mds.search.training import SEED, threads
from wat2mds.search.vectors import MODALITIES, StoredVectors
from wat2mds.stages.publish.vacuum import refuse_during_vacuum
from wat2mds.store import Store, file_hash
from wat2mds.units import StoredObject
from wat2mds.versions import Version, read_version

log = logging.getLogger(__name__)
# Recall is measured again once this share of the vectors has come or gone since.
MEASURE_AFTER = 0.05
# Recall may fall so far below that of the last training: more lists are searched for it, and where that is not enough it is trained anew.
FALL = 0.005
DEFAULT = "small"


def build(dataset_url: str, name: str, version: int | None = None, *, threads_used: int = 1) -> IndexRecord:
    """Train and publish the index of a preset for a version, the newest by default; the one that stands, where there is one.

    ``threads_used``: of training and encoding; with more than one the bytes may differ from those of another machine. Raises ConfigError
    for an unknown preset, DataError where there is no such version or nothing in it.
    """
    memory_limit = index_types.memory_of(name)
    dataset, record = Store(dataset_url), read_version(dataset_url, version)
    if found := read_record(dataset, record.number, name):
        return found
    with threads(threads_used), tempfile.TemporaryDirectory(prefix="wat2mds-index-") as scratch:
        return _Work(dataset, record, name, memory_limit, Path(scratch)).fresh()


def update(dataset_url: str, names: Sequence[str] = (), *, threads_used: int = 1) -> list[IndexRecord]:
    """Bring indices to the newest version: those of the presets named, else all that the dataset has, else DEFAULT.

    From the newest older index where its training still fits, else trained anew. Raises what ``build`` does.
    """
    dataset, record = Store(dataset_url), read_version(dataset_url)
    known = list_indices(dataset_url)
    done: list[IndexRecord] = []
    if not record.samples:
        log.warning("version %d of %s holds no samples: there is nothing to index", record.number, dataset.url)
        return done
    for name in names or sorted({entry.name for entry in known}) or [DEFAULT]:
        memory_limit = index_types.memory_of(name)
        if found := read_record(dataset, record.number, name):
            done.append(found)
            continue
        older = [entry for entry in known if entry.name == name]
        with threads(threads_used), tempfile.TemporaryDirectory(prefix="wat2mds-index-") as scratch:
            work = _Work(dataset, record, name, memory_limit, Path(scratch))
            done.append(work.updated(older[-1]) if older else work.fresh())
    return done


def why_train(
    old: IndexRecord, count: int, dim: int, memory_limit: int, clip: tuple[str, str], measured: Measured | None = None
) -> str:
    """Why an index of ``count`` vectors must be trained anew rather than updated from ``old``; empty where it need not."""
    if (old.dim, old.clip_model, old.clip_pretrained) != (dim, *clip):
        return f"its vectors are of {old.clip_model}/{old.clip_pretrained}, those of the version of {'/'.join(clip)}"
    wanted = index_types.choose(count, dim, memory_limit)
    lists, had = index_types.lists_of(wanted), index_types.lists_of(old.type)
    if wanted.rpartition(",")[2] != old.type.rpartition(",")[2] or max(lists, had) >= 4 * min(lists, had):
        return f"{count:,} vectors want {wanted}, it is {old.type}"
    if measured is not None and measured.recall < old.trained_recall - FALL:
        return f"recall fell from {old.trained_recall:.4f} to {measured.recall:.4f}"
    return ""


class _Work:
    """One index in the making; ``scratch`` is a folder of its own."""

    def __init__(self, dataset: Store, version: Version, name: str, memory_limit: int, scratch: Path) -> None:
        self.dataset = dataset
        self.version = version
        self.name = name
        self.memory_limit = memory_limit
        self.scratch = scratch
        self.vectors = StoredVectors(dataset, version)
        self.count = sum(unit.samples for unit in version.units.values())
        if not self.count:
            raise DataError(f"version {version.number} of {dataset.url} holds no samples: there is nothing to index")

    def fresh(self) -> IndexRecord:
        index_type = index_types.choose(self.count, self.vectors.dim, self.memory_limit)
        trained = train_on(self.vectors, index_type, self.memory_limit)
        held = assemble(self.vectors, trained, self.scratch)
        measured = self._measured(held)
        clip_model, clip_pretrained = self.vectors.clip
        record = IndexRecord(
            name=self.name,
            version=self.version.number,
            count=len(held.uids),
            dim=self.vectors.dim,
            clip_model=clip_model,
            clip_pretrained=clip_pretrained,
            type=index_type,
            nprobe=measured.nprobe,
            recall=measured.recall,
            recalls=measured.recalls,
            queries=measured.queries,
            memory_limit=self.memory_limit,
            size=0,
            objects={},
            trained=self.version.number,
            trained_recall=measured.recall,
            measured=self.version.number,
            changed=0,
            seed=SEED,
            threads=faiss.omp_get_max_threads(),
            faiss=faiss.__version__,
        )
        return self._published(held, record)

    def updated(self, old: IndexRecord) -> IndexRecord:
        reason = why_train(old, self.count, self.vectors.dim, self.memory_limit, self.vectors.clip)
        if reason:
            log.info("index %s is trained anew: %s", self.name, reason)
            return self.fresh()
        before = read_held(fetched(self.dataset, old))
        held = assemble(
            self.vectors, {modality: Codes.mapped(path) for modality, path in before.files.items()}, self.scratch, before
        )
        changed = old.changed + held.added + held.removed
        log.info("index %s of version %d: %d vectors added, %d removed", self.name, self.version.number, held.added, held.removed)
        record = replace(old, version=self.version.number, count=len(held.uids), changed=changed, memory_limit=self.memory_limit)
        if changed > MEASURE_AFTER * len(held.uids):
            measured = self._measured(held, max(GOOD, old.trained_recall - FALL))
            if reason := why_train(old, self.count, self.vectors.dim, self.memory_limit, self.vectors.clip, measured):
                log.info("index %s is trained anew: %s", self.name, reason)
                return self.fresh()
            record = replace(
                record,
                nprobe=measured.nprobe,
                recall=measured.recall,
                recalls=measured.recalls,
                queries=measured.queries,
                measured=self.version.number,
                changed=0,
            )
        return self._published(held, record)

    def _measured(self, held: Held, good: float = GOOD) -> Measured:
        codes = {modality: Codes.mapped(path) for modality, path in held.files.items()}
        return measure(codes, self.vectors, held.rows(self.vectors), len(held.uids), good)

    def _published(self, held: Held, record: IndexRecord) -> IndexRecord:
        """Put the objects, always anew, which gives them a time that vacuum respects; then commit."""
        files = write_tables(held, self.scratch) | {str(modality): path for modality, path in held.files.items()}
        objects = {}
        for kind, path in files.items():
            sha256 = file_hash(path)
            objects[kind] = StoredObject(Layout.index_object_path(sha256, kind), path.stat().st_size, sha256)
            self.dataset.put_file(path, objects[kind].path)
        refuse_during_vacuum(self.dataset)
        read_version(self.dataset.url, self.version.number)  # withdrawn meanwhile: nobody would ever remove its index
        size = sum(stored.size for stored in objects.values())
        return create_record(self.dataset, replace(record, objects=objects, size=size))


def write_tables(held: Held, folder: Path) -> dict[str, Path]:
    """The files of uids, of rows and of units' names by kind."""
    paths = {kind: folder / f"tables.{kind}" for kind in ("uids", "rows", "units")}
    rows = np.full(len(held.uids), -1, ROWS)
    rows["unit"] = held.numbers
    for modality, places in held.places.items():
        rows[modality] = places
    for kind, table in (("uids", held.uids), ("rows", rows)):
        with paths[kind].open("wb") as file:
            np.save(file, table)
    paths["units"].write_text(json.dumps(held.units, indent=0), "utf-8")
    return paths


def read_held(files: dict[str, Path]) -> Held:
    """What the files of an index hold."""
    rows = np.load(files["rows"], mmap_mode="r")
    return Held(
        units=json.loads(files["units"].read_text("utf-8")),
        uids=np.load(files["uids"], mmap_mode="r"),
        numbers=np.asarray(rows["unit"]),
        files={modality: files[modality] for modality in MODALITIES},
        places={modality: rows[modality] for modality in MODALITIES},
    )

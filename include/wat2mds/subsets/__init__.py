"""Subsets: a named condition over the published metadata, and the samples of a version that it selects.

In: a definition (a condition, a fraction or a count) and a version of the dataset. Out, below ``subsets/<name>/``:

    definition.json                 what the name means, fixed when the subset is first built
    parts/<unit>.parquet            the selected rows of one WAT file; a unit never changes, so neither does its part
    000042/subset.json              the subset of version 42: counts, files with sizes and hashes; written last
    000042/uids.npy                 its uids, sorted, as DataComp has them (numpy u8,u8)
    000042/metadata-00000.parquet   its rows under LAION's names, a million a file
    000042/README.md                its card
    000042/mds.json, index.json     where it was asked for: its own MDS shards, and StreamingDataset's index of them
    mds/shards/, mds/index.json     the shards, and the index of the newest version that has any

Guaranteed: a subset of a version is the same however often and from whatever state it is built, but for the order of its MDS; a new
version costs what its new WAT files cost, and shards whose samples are all still selected are used again; nothing is downloaded or
encoded anew. What does not belong here: which versions there are, and what the columns mean.

    definition.py   names, presets, conditions with fraction or count
    predicate.py    SQL conditions, checked
    parts.py        the selected rows of each WAT file
    uids.py         sorted uids of all of them
    reshard.py      MDS of a subset, by copying samples
    card.py         what the card says
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from wat2mds.errors import DataError, nearest
from wat2mds.store import Store, file_hash
from wat2mds.subsets import parts, reshard, uids
from wat2mds.subsets.card import card_of
from wat2mds.subsets.definition import Definition, define, folder, read_definition
from wat2mds.units import StoredObject
from wat2mds.versions import Version, open_table, read_version

log = logging.getLogger(__name__)
FORMAT = 1
EXAMPLE_COLUMNS = ["uid", "url", "caption", "language", "similarity", "original_width", "original_height", "aesthetic", "punsafe"]


@dataclass(frozen=True)
class Subset:
    """One subset of one version. ``metadata`` are its parquet files in order; ``selected`` counts its samples by WAT file."""

    name: str
    version: int
    samples: int
    of: int
    definition: dict[str, Any]
    uids: StoredObject
    metadata: list[StoredObject]
    selected: dict[str, int]
    format: int = FORMAT


@dataclass(frozen=True)
class Preview:
    """How many samples a definition selects, and the first few by uid."""

    samples: int
    of: int
    examples: pa.Table


def preview(dataset_url: str, definition: Definition, version: int | None = None, most: int = 10) -> Preview:
    """What a definition selects, from the metadata table; nothing is written, and only the columns asked for are read."""
    record = read_version(dataset_url, version)
    rows = open_table(dataset_url, record).to_pyarrow_dataset()
    predicate = definition.predicate()
    count = definition.kept_of(predicate.count(rows))
    return Preview(count, record.samples, predicate.first(rows, min(most, count), EXAMPLE_COLUMNS))


def build(
    dataset_url: str, name: str, definition: Definition | None = None, version: int | None = None, *, mds: bool = False
) -> Subset:
    """Build a subset of a version, the newest by default, under its name; without a definition, by the one that the name has.

    Raises ConfigError where the name means something else already, DataError where there is no such version or an object of it is gone.
    """
    dataset = Store(dataset_url)
    fixed = define(dataset, name, definition) if definition is not None else read_definition(dataset, name)
    record = read_version(dataset_url, version)
    built = _read(dataset, name, record.number)
    wants_mds = mds and not dataset.exists(_path(name, record.number, "mds.json"))
    if built is not None and not wants_mds:
        return built
    with tempfile.TemporaryDirectory(prefix="wat2mds-subset-") as scratch:
        made = parts.of_version(dataset, name, fixed, record)
        if built is None:
            built = _build(dataset, name, fixed, record, made, Path(scratch))
        if wants_mds:
            sorted_uids = dataset.get_file(built.uids.path, Path(scratch) / "uids-of-subset.npy")
            _store_mds(dataset, name, record.number, reshard.reshard(dataset, record, name, made, sorted_uids))
    return built


def refresh(dataset_url: str) -> list[Subset]:
    """Build each subset of the newest version, with MDS where a version of it has one. Raises what ``build`` does."""
    dataset = Store(dataset_url)
    done = []
    for name in names(dataset):
        numbers = built_versions(dataset, name)
        # Not of the last version alone: a refresh that was killed may have made that one without its shards.
        had_mds = any(dataset.exists(_path(name, number, "mds.json")) for number in numbers)
        done.append(build(dataset_url, name, mds=had_mds))
    return done


def read_subset(dataset_url: str, name: str, version: int | None = None) -> Subset:
    """A subset that was built, of the newest version that has it by default. Raises DataError where there is none."""
    dataset = Store(dataset_url)
    numbers = built_versions(dataset, name)
    number = version if version is not None else max(numbers, default=None)
    found = _read(dataset, name, number) if number is not None else None
    if found is None:
        known = names(dataset)
        what = (
            f"no subset {name!r}.{nearest(name, known)}"
            if name not in known
            else f"no subset {name!r} of version {number}: it has {numbers}"
        )
        raise DataError(f"{dataset_url} has {what}")
    return found


def names(dataset: Store) -> list[str]:
    """Subsets that are defined, sorted."""
    return [name for name in dataset.names("subsets")[1] if dataset.exists(f"{folder(name)}/definition.json")]


def built_versions(dataset: Store, name: str) -> list[int]:
    """The versions that a subset was built of, ascending."""
    numbers = sorted(int(child) for child in dataset.names(folder(name))[1] if child.isdigit())
    return [number for number in numbers if dataset.exists(_path(name, number, "subset.json"))]


def _build(
    dataset: Store, name: str, definition: Definition, record: Version, made: dict[str, parts.Part], scratch: Path
) -> Subset:
    target = scratch / "uids.npy"
    total = uids.write_sorted((part.uids() for part in made.values()), target, definition.count)
    last = uids.last(target)
    selected: dict[str, int] = {}
    metadata = []
    for number, (file, rows) in enumerate(parts.metadata_files(made, last, scratch, selected)):
        metadata.append(_put(dataset, file, _path(name, record.number, f"metadata-{number:05d}.parquet")))
        log.info("subset %s: %d rows of metadata written", name, rows)
        file.unlink()
    subset = Subset(
        name=name,
        version=record.number,
        samples=total,
        of=record.samples,
        definition=asdict(definition),
        uids=_put(dataset, target, _path(name, record.number, "uids.npy")),
        metadata=metadata,
        selected={key: count for key, count in selected.items() if count},
    )
    dataset.write(_path(name, record.number, "README.md"), card_of(dataset.url, subset, definition).encode())
    # Of two that build it at once, both wrote the same bytes: whoever comes first, the record is theirs.
    dataset.create(_path(name, record.number, "subset.json"), json.dumps(asdict(subset), indent=1, sort_keys=True).encode())
    return subset


def _store_mds(dataset: Store, name: str, number: int, done: reshard.Resharded) -> None:
    """The index first, then the record that names it; then the copy that StreamingDataset finds by itself."""
    path = _path(name, number, "index.json")
    index = reshard.index_bytes(done.shards)
    dataset.write(path, index)
    record = {
        "index": asdict(StoredObject(path, len(index), hashlib.sha256(index).hexdigest())),
        "shards": done.sources,
        "format": FORMAT,
    }
    dataset.create(_path(name, number, "mds.json"), json.dumps(record, indent=1, sort_keys=True).encode())
    newest = max(n for n in built_versions(dataset, name) if dataset.exists(_path(name, n, "mds.json")))
    if newest == number:
        dataset.write(f"{folder(name)}/mds/index.json", index)


def _read(dataset: Store, name: str, number: int) -> Subset | None:
    try:
        found = dataset.read_json(_path(name, number, "subset.json"))
    except FileNotFoundError:
        return None
    objects = {"uids": StoredObject(**found["uids"]), "metadata": [StoredObject(**entry) for entry in found["metadata"]]}
    return Subset(**(found | objects))


def _put(dataset: Store, file: Path, path: str) -> StoredObject:
    dataset.put_file(file, path)
    return StoredObject(path, file.stat().st_size, file_hash(file))


def _path(name: str, number: int, file: str) -> str:
    return f"{folder(name)}/{number:06d}/{file}"


__all__ = [
    "Definition",
    "Preview",
    "Subset",
    "build",
    "built_versions",
    "names",
    "preview",
    "read_subset",
    "refresh",
]

"""A dataset's versions for training: streaming's StreamingDataset on the newest or an older one.

In: a dataset's URL and a version's number, and a subset's name. Out: a StreamingDataset of exactly those samples. Guaranteed: the index
that it reads is the one that the record names, checked by hash, whatever lies in the dataset's folder or is published meanwhile.
The reader's index is put into its cache folder beforehand, since an index under ``versions/N/`` cannot name shards above itself.
What does not belong here: how versions are made; choosing samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.store import Store, join
from wat2mds.versions import Version, read_index, read_version

if TYPE_CHECKING:
    from streaming import StreamingDataset

log = logging.getLogger(__name__)


def seed_cache(dataset_url: str, version: Version, local: str | Path | None = None) -> Path:
    """Make ``local`` the cache folder of one version: its index, and no other version's. Shards that are there serve both.

    Without ``local`` a new folder in the system's temporary one.
    """
    return _seeded(Store(dataset_url), read_index(dataset_url, version), local)


def _seeded(store: Store, content: bytes, local: str | Path | None) -> Path:
    folder = Path(local if local is not None else tempfile.mkdtemp(prefix="wat2mds-cache-")).absolute()
    if store.local is not None and folder.is_relative_to(store.local):
        raise ConfigError(f"cache folder {folder} lies in the dataset's own folder: choose one outside it")
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.json"
    if not index.is_file() or index.read_bytes() != content:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="index.", suffix=".new", delete=False) as file:
            file.write(content)
        Path(file.name).replace(index)
    return folder


def open_dataset(
    dataset_url: str, version: int | Version | None = None, *, local: str | Path | None = None, **options: Any
) -> StreamingDataset:
    """StreamingDataset of a version, the newest by default; ``options`` are StreamingDataset's own (``shuffle``, ``batch_size`` …).

    ``local`` is the cache folder, a new one in the system's temporary folder by default; one that served another version is given the
    index of this one, so use a folder a version where several are open at once. On S3 the reader takes the same AWS_ variables.
    """
    record = version if isinstance(version, Version) else read_version(dataset_url, version)
    if not record.samples:
        raise DataError(f"version {record.number} of {dataset_url} holds no samples: StreamingDataset cannot open it")
    return _streaming(Store(dataset_url), seed_cache(dataset_url, record, local), options)


def _streaming(store: Store, folder: Path, options: dict[str, Any]) -> StreamingDataset:
    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from streaming import StreamingDataset

    remote = store.url if store.local is None else str(store.local)
    return StreamingDataset(remote=remote, local=str(folder), **({"batch_size": 1} | options))


def open_subset(
    dataset_url: str, name: str, version: int | None = None, *, local: str | Path | None = None, **options: Any
) -> StreamingDataset:
    """StreamingDataset of a subset's own shards, of the newest version that has them by default; the rest is as in ``open_dataset``.

    Raises DataError where the subset has no shards of that version.
    """
    store = Store(join(dataset_url, "subsets", name))
    numbers = [int(child) for child in store.names()[1] if child.isdigit() and store.exists(f"{child}/mds.json")]
    number = version if version is not None else max(numbers, default=None)
    if number not in numbers:
        raise DataError(
            f"subset {name!r} of {dataset_url} has shards of versions {numbers}, not of {number}: "
            f"`wat2mds subset build {name} --mds` makes them"
        )
    entry = store.read_json(f"{number:06d}/mds.json")["index"]
    content = Store(dataset_url).read(entry["path"])
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise TransientError(f"{join(dataset_url, entry['path'])} is not the index that the subset records")
    folder = _seeded(Store(dataset_url), content, local)
    return _streaming(Store(join(dataset_url, "subsets", name, "mds")), folder, options)


@contextmanager
def temporary_dataset(dataset_url: str, version: int | Version | None = None, **options: Any) -> Iterator[StreamingDataset]:
    """``open_dataset`` with a cache folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="wat2mds-cache-") as folder:
        yield open_dataset(dataset_url, version, local=folder, **options)


def count_samples(dataset_url: str, version: int | Version | None = None) -> int:
    """Read every sample of a version and compare with its record: as many, no uid twice, each shard by its hash where it has one.

    By position, not by iteration: an iterator whose reads fail can end early without an exception. Raises DataError.
    """
    record = version if isinstance(version, Version) else read_version(dataset_url, version)
    if not record.samples:
        return 0
    uids: set[str] = set()
    shards = json.loads(read_index(dataset_url, record))["shards"]
    hashes = sorted(set.intersection(*(set(shard["hashes"]) for shard in shards)))
    with temporary_dataset(dataset_url, record, validate_hash=hashes[0] if hashes else None) as dataset:
        if len(dataset) != record.samples:
            raise DataError(f"version {record.number}: its index names {len(dataset)} samples, its record {record.samples}")
        for position in range(len(dataset)):
            uids.add(dataset[position]["uid"])
        del dataset
    if len(uids) != record.samples:
        raise DataError(f"version {record.number} of {dataset_url}: {record.samples} samples but {len(uids)} uids")
    return len(uids)

"""A dataset's versions for training: streaming's StreamingDataset on the newest or an older one.

In: a dataset's URL and a version's number. Out: a StreamingDataset of exactly that version's samples. Guaranteed: the index that it
reads is the one that the version record names, checked by hash, whatever lies in the dataset's folder or is published meanwhile.
The reader's index is put into its cache folder beforehand, since an index under ``versions/N/`` cannot name shards above itself.
What does not belong here: how versions are made; choosing samples.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wat2mds.errors import ConfigError, DataError
from wat2mds.store import Store
from wat2mds.versions import Version, read_index, read_version

if TYPE_CHECKING:
    from streaming import StreamingDataset

log = logging.getLogger(__name__)


def seed_cache(dataset_url: str, version: Version, local: str | Path | None = None) -> Path:
    """Make ``local`` the cache folder of one version: its index, and no other version's. Shards that are there serve both.

    Without ``local`` a new folder in the system's temporary one.
    """
    content = read_index(dataset_url, version)
    folder = Path(local if local is not None else tempfile.mkdtemp(prefix="wat2mds-cache-")).absolute()
    store = Store(dataset_url)
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
    folder = seed_cache(dataset_url, record, local)

    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from streaming import StreamingDataset

    store = Store(dataset_url)
    remote = store.url if store.local is None else str(store.local)
    return StreamingDataset(remote=remote, local=str(folder), **({"batch_size": 1} | options))


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

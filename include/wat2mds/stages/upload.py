"""upload: the shards, metadata and embeddings of one WAT file go to the dataset's folder.

In: the manifest of convert, and the dataset's URL. Out: the objects ``shards/<unit>/shard.*.mds``, then ``shards/<unit>/index.json``, and
``embeddings/<unit>/{img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet}`` (the folder that
clip-retrieval's index reads); the manifest lists them with size and SHA-256. Guaranteed: every object listed was read back from the
store with that size and hash; a unit's index is there only when all its other objects are; objects are named by their content,
so one that is there already stays. What does not belong here: making them part of a version (publish).
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.settings import Settings
from wat2mds.store import Store, file_hash
from wat2mds.versions import StoredObject

log = logging.getLogger(__name__)
STAGE = "upload"
# Enough to hide an object store's latency; the network is the limit from about eight connections on.
_THREADS = 8
# Tries of one object whose content does not read back as written; what the store refuses, the store's client tries again itself.
_TRIES = 3


def run(converted: Manifest, to: str, out: str, settings: Settings) -> Manifest:
    """Returns the unit's manifest; ``extra["objects"]`` are paths from the dataset's folder."""
    dataset = Store(to)
    with Unit(STAGE, out, [converted, Input(dataset.url, "destination")], settings) as unit:
        if unit.done and _all_there(dataset, unit.manifest):
            return unit.manifest
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            objects = _upload_all(dataset, converted, Path(temporary))
        size = sum(entry.size for entry in objects)
        seconds = max(time.monotonic() - started, 1e-3)
        log.info("upload: %d objects, %.1f MB, %.1f MB/s, to %s", len(objects), size / 1e6, size / 1e6 / seconds, dataset.url)
        if unit.done:  # its objects had gone from the store and are there again
            return unit.manifest
        count = int(converted.extra["samples"])
        return unit.commit(
            [Flow("converted", "uploaded", count, count)],
            {
                "unit_name": converted.extra["unit_name"],
                "samples": count,
                "shards": converted.extra["shards"],
                "dataset": dataset.url,
                "objects": [asdict(entry) for entry in objects],
            },
        )


def object_paths(converted: Manifest) -> dict[str, str]:
    """For each file of the converted unit its object's path; the index is the last."""
    name = converted.extra["unit_name"]
    shards = [file.name for file in converted.files if file.name.startswith("mds/") and file.name != "mds/index.json"]
    paths = {file: f"shards/{name}/{file.removeprefix('mds/')}" for file in sorted(shards)}
    paths["img_emb.npy"] = f"embeddings/{name}/img_emb/img_emb_0.npy"
    paths["text_emb.npy"] = f"embeddings/{name}/text_emb/text_emb_0.npy"
    paths["metadata.parquet"] = f"embeddings/{name}/metadata/metadata_0.parquet"
    paths["mds/index.json"] = f"shards/{name}/index.json"
    return paths


def _upload_all(dataset: Store, converted: Manifest, folder: Path) -> list[StoredObject]:
    known = {file.name: file for file in converted.files}
    paths = object_paths(converted)
    if lost := set(paths) - set(known):
        raise DataError(f"{converted.url} lacks {', '.join(sorted(lost))}")

    def upload_one(file: str) -> StoredObject:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            source = converted.fetch(file, Path(temporary))
            if file_hash(source) != known[file].sha256:
                raise DataError(f"{converted.file(file)} is not what convert wrote: delete {converted.url} and run convert again")
            wanted = StoredObject(paths[file], known[file].size, known[file].sha256)
            return _place(dataset, source, wanted, Path(temporary))

    *others, index = paths
    return [*_in_parallel(upload_one, others), upload_one(index)]


def _in_parallel(work: Callable[[str], StoredObject], items: Sequence[str]) -> list[StoredObject]:
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _place(dataset: Store, source: Path, wanted: StoredObject, folder: Path) -> StoredObject:
    """Put one object unless it is there; returns what is in the store. Raises TransientError if it does not read back."""
    found = _read_back(dataset, wanted.path, folder)
    if found == wanted:
        return wanted
    if found is not None:
        if wanted.path.endswith(".parquet") and _differs_in_time_only(dataset, source, wanted.path, folder):
            log.info("%s is there from an earlier fetch of the same samples: it stays", wanted.path)
            return found
        log.warning("%s in %s is damaged (%d bytes, not %d): written again", wanted.path, dataset.url, found.size, wanted.size)
    for _ in range(_TRIES):
        try:
            dataset.put_file(source, wanted.path)
        except FileNotFoundError as error:  # what a store answers to a write where there is no bucket
            raise ConfigError(
                f"cannot write below {dataset.url}: there is no such bucket; create it or correct the URL"
            ) from error
        found = _read_back(dataset, wanted.path, folder)
        if found == wanted:
            return wanted
        log.warning("%s in %s does not read back as written", wanted.path, dataset.url)
    raise TransientError(f"{wanted.path} in {dataset.url} does not read back as written, {_TRIES} times: is the store sound?")


def _read_back(dataset: Store, path: str, folder: Path) -> StoredObject | None:
    """What the store holds under a path, by reading it whole; None if nothing."""
    try:
        if dataset.local is not None:
            file = dataset.local / path
            return StoredObject(path, file.stat().st_size, file_hash(file))
        dataset.head(path)
        copy = dataset.get_file(path, folder / "copy")
    except FileNotFoundError:
        return None
    found = StoredObject(path, copy.stat().st_size, file_hash(copy))
    copy.unlink()
    return found


def _differs_in_time_only(dataset: Store, source: Path, path: str, folder: Path) -> bool:
    """Whether two metadata tables are equal but for ``fetched_at``, the one column that differs between equal runs."""
    copy = dataset.get_file(path, folder / "stored.parquet")
    try:
        stored, ours = (pq.read_table(file).drop_columns(["fetched_at"]) for file in (copy, source))
    except (OSError, ValueError, KeyError):  # pyarrow's errors for a damaged file and a missing column are of these
        return False
    return bool(stored.equals(ours))


def _all_there(dataset: Store, uploaded: Manifest) -> bool:
    name = uploaded.extra["unit_name"]
    sizes = {entry.path: entry.size for kind in ("shards", "embeddings") for entry in dataset.walk(f"{kind}/{name}")}
    return all(sizes.get(entry["path"]) == entry["size"] for entry in uploaded.extra["objects"])

"""upload: the shards, metadata and embeddings of one WAT file go to the dataset's folder.

In: the manifest of convert, and the dataset's URL. Out: the objects ``shards/<unit>/shard.*.mds``, then ``shards/<unit>/index.json``, and
``embeddings/<unit>/{img_emb/img_emb_0.npy, text_emb/text_emb_0.npy, metadata/metadata_0.parquet}`` (the folder that
clip-retrieval's index reads), ``outcomes/<unit>/<sha256>.parquet``; the
manifest lists them with size and SHA-256. Guaranteed: every object listed was read back from the
store with that size and hash, or has the size and the checksum that S3 computed of what it received; a unit's index is there only when
all its other objects are; objects are named by their content, so one that is there already stays; of a killed attempt's multipart
uploads the next one leaves none. What does not belong here: making them part of a version (publish).
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from wat2mds.errors import DataError, TransientError, Wat2MdsError
from wat2mds.manifest import Flow, Input, Manifest, Unit
from wat2mds.progress import Progress
from wat2mds.retention import remove_images
from wat2mds.settings import Settings
from wat2mds.stage_settings import UploadSettings
from wat2mds.store import Store, file_hash
from wat2mds.units import UNIT_FOLDERS, StoredObject, unit_folders

log = logging.getLogger(__name__)
STAGE = "upload"
OUTCOMES = "outcomes.parquet"
# Tries of one object whose content does not read back as written; what the store refuses, the store's client tries again itself.
_TRIES = 3


def run(converted: Manifest, to: str, out: str, settings: Settings) -> Manifest:
    """Returns the unit's manifest; ``extra["objects"]`` are paths from the dataset's folder. What was made to be uploaded goes once it is,
    unless ``upload.keep_images``."""
    uploaded = _uploaded(converted, Store(to), out, settings)
    if not settings.upload.keep_images:
        remove_images(converted)
    return uploaded


def _uploaded(converted: Manifest, dataset: Store, out: str, settings: Settings) -> Manifest:
    with Unit(STAGE, out, [converted, Input(dataset.url, "destination")], settings) as unit:
        if unit.done and _all_there(dataset, unit.manifest):
            return unit.manifest
        with tempfile.TemporaryDirectory() as temporary:
            objects = _Upload(dataset, converted, Path(temporary), settings.upload, unit.url).all()
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
                **{name: converted.extra[name] for name in ("retriable", "retriable_uids", "retriable_until")},
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
    if "metadata_other.parquet" in {file.name for file in converted.files}:
        # A folder of its own for the second model's rows, laid out alike: their vectors may have another length.
        paths["img_emb_other.npy"] = f"embeddings/{name}/other/img_emb/img_emb_0.npy"
        paths["text_emb_other.npy"] = f"embeddings/{name}/other/text_emb/text_emb_0.npy"
        paths["metadata_other.parquet"] = f"embeddings/{name}/other/metadata/metadata_0.parquet"
    # Failures differ between equal runs: a name of its own for each list.
    stored = next((file for file in converted.files if file.name == OUTCOMES), None)
    paths[OUTCOMES] = f"outcomes/{name}/{stored.sha256[:12] if stored else ''}.parquet"
    paths["mds/index.json"] = f"shards/{name}/index.json"
    return paths


class _Upload:
    """One attempt at bringing a converted unit's files to the dataset; ``folder`` is scratch space, ``manifest_url`` where its manifest
    lies once it is complete."""

    def __init__(self, dataset: Store, converted: Manifest, folder: Path, settings: UploadSettings, manifest_url: str) -> None:
        self.dataset = dataset
        self.manifest_url = manifest_url
        self.converted = converted
        self.folder = folder
        self.settings = settings
        self.files = {file.name: file for file in converted.files}
        self.paths = object_paths(converted)
        if lost := set(self.paths) - set(self.files):
            raise DataError(f"{converted.url} lacks {', '.join(sorted(lost))}")

    def all(self) -> list[StoredObject]:
        """Every object, the index last. Before and after, multipart uploads that nobody finished are ended."""
        self._end_leftovers()  # a killed attempt's
        *others, index = self.paths
        try:
            objects = self._in_parallel(others)
        except BaseException:
            with suppress(Wat2MdsError):  # the next attempt ends them
                self._end_leftovers()
            raise
        self._end_leftovers()  # where the answer to the begin of a multipart upload was lost, the upload is known to nobody
        return [*objects, self._one(index)]

    def _end_leftovers(self) -> None:
        for kind in UNIT_FOLDERS:
            self.dataset.abort_uploads(f"{kind}/{self.converted.extra['unit_name']}")

    def _in_parallel(self, names: Sequence[str]) -> list[StoredObject]:
        size = sum(self.files[name].size for name in names)
        started, done = time.monotonic(), 0
        with ThreadPoolExecutor(self.settings.threads) as pool, Progress("upload", _mb(size), "MB") as progress:
            futures = {pool.submit(self._one, name): name for name in names}
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    done += future.result().size
                    rate = done / 1e6 / max(time.monotonic() - started, 1e-3)
                    progress.update(_mb(done), f"{count} of {len(names)} objects, {rate:.1f} MB/s, to {self.dataset.url}")
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _one(self, name: str) -> StoredObject:
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            source = self._fetch(name, Path(temporary))
            wanted = StoredObject(self.paths[name], self.files[name].size, self.files[name].sha256)
            return self._place(source, wanted, Path(temporary))

    def _fetch(self, name: str, folder: Path) -> Path:
        """A file of convert's as a checked local path; one that a remote store gives damaged is fetched again.

        Raises DataError for one that is gone, or is not what convert wrote.
        """
        for _ in range(_TRIES if Store(self.converted.base).local is None else 1):
            try:
                source = self.converted.fetch(name, folder)
            except FileNotFoundError as error:
                raise DataError(
                    f"{self.converted.file(name)} is gone, and {self.paths[name]} cannot be written without it: delete "
                    f"{self.manifest_url} if it is there, and run the batch again (in Airflow: clear the whole run). Its plan has what is "
                    f"gone made again; where the images went with their upload (upload.keep_images), they are fetched again"
                ) from error
            if file_hash(source) == self.files[name].sha256:
                return source
            if source.is_relative_to(folder):
                source.unlink()
        raise DataError(
            f"{self.converted.file(name)} is not what convert wrote: delete {self.converted.url} and run convert again"
        )

    def _place(self, source: Path, wanted: StoredObject, folder: Path) -> StoredObject:
        """Put one object unless it is there; returns what is in the store. Raises TransientError if it is not stored as written."""
        dataset, part_bytes = self.dataset, self.settings.part_bytes
        found = self._stored(source, wanted, folder)
        if found == wanted:
            return wanted
        if found is not None:
            if wanted.path.endswith(".parquet") and _differs_in_time_only(dataset, source, wanted.path, folder):
                log.info("%s is there from an earlier fetch of the same samples: it stays", wanted.path)
                return found
            log.warning(
                "%s in %s is damaged (%d bytes, not %d): written again", wanted.path, dataset.url, found.size, wanted.size
            )
        for _ in range(_TRIES):
            dataset.put_file(source, wanted.path, part_bytes)
            found = self._stored(source, wanted, folder)
            if found == wanted:
                return wanted
            log.warning("%s in %s does not read back as written", wanted.path, dataset.url)
        raise TransientError(f"{wanted.path} in {dataset.url} does not read back as written, {_TRIES} times: is the store sound?")

    def _stored(self, source: Path, wanted: StoredObject, folder: Path) -> StoredObject | None:
        """What the store holds: by its own checksum where that is known to be the source's, else by reading it back."""
        if self.dataset.holds(source, wanted.path, self.settings.part_bytes):
            return wanted
        return _read_back(self.dataset, wanted.path, folder)


def _mb(size: int) -> int:
    return -(-size // 1_000_000)


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
    objects = [StoredObject(**entry) for entry in uploaded.extra["objects"]]
    sizes = {entry.path: entry.size for place in unit_folders(objects) for entry in dataset.walk(place)}
    return all(sizes.get(entry.path) == entry.size for entry in objects)

"""What the service answers from: each kNN index of the dataset, with the rows, images and model that belong to it.

In: a dataset's URL and a folder for what is made of a version's metadata. Out: ``Collections``, which can follow the dataset.
Guaranteed: an index is only ever joined with the metadata and shards of its own version. What does not belong here: searching.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wat2mds.errors import ConfigError, DataError, nearest
from wat2mds.search.reading import IndexRecord, SearchIndex, list_indices, open_index
from wat2mds.serve.encoder import Encoder
from wat2mds.serve.images import Images
from wat2mds.serve.rows import FORMAT, Rows, build_rows
from wat2mds.versions import Version, read_version

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """One index and what belongs to it."""

    name: str
    version: Version
    index: SearchIndex
    rows: Rows
    images: Images
    encoder: Encoder

    @property
    def bordered(self) -> bool:
        """Whether images were stored in squares, with a border around what is not square."""
        return bool(self.version.settings.get("download", {}).get("resize_mode") == "border")


class Collections:
    """The indices of a dataset by name, each of the newest version that has it, or of one version; the first is asked by default.

    What a request took stays whole until it is answered, whatever ``refresh`` brings meanwhile. Raises ConfigError where there is none, or
    the model that one was made with is not here.
    """

    def __init__(
        self, dataset_url: str, folder: Path, names: Sequence[str] = (), version: int | None = None, device: str = "auto"
    ) -> None:
        self.dataset_url = dataset_url
        self._folder, self._wanted, self._version, self._device = folder, tuple(names), version, device
        self._by_name: dict[str, Collection] = {}
        self._left: list[Path] = []
        self.refresh()

    def refresh(self) -> bool:
        """Take up what was published since, all of it or, where that fails, nothing; whether anything was. One thread's work.

        Files of metadata that nothing is asked of any more are removed by the next call: requests may still read them.
        """
        for path in self._left:
            path.unlink(missing_ok=True)
        self._left = []
        records = self._records()
        before = self._by_name
        if [one.index.record for one in before.values()] == records:
            return False
        encoders = {_model(one.index.record): one.encoder for one in before.values()}
        versions = {one.version.number: (one.version, one.rows, one.images) for one in before.values()}
        found: dict[str, Collection] = {}
        for record in records:
            model = _model(record)
            if model not in encoders:
                encoders[model] = Encoder(*model, self._device)
            if encoders[model].dim != record.dim:
                raise DataError(
                    f"index {record.name} holds vectors of {record.dim} floats, {record.clip_model} makes {encoders[model].dim}"
                )
            if record.version not in versions:
                stated = read_version(self.dataset_url, record.version)
                versions[record.version] = (stated, self._rows(stated), Images(self.dataset_url, stated))
            stated, rows, images = versions[record.version]
            index = open_index(self.dataset_url, record.name, record.version)
            found[record.name] = Collection(record.name, stated, index, rows, images, encoders[model])
        self._by_name = found
        served = {one.rows.path for one in found.values()}
        self._left = [path for path in {one.rows.path for one in before.values()} if path not in served]
        return True

    def _records(self) -> list[IndexRecord]:
        """Of what is served, the best first: who asks for none in particular gets the one that finds most."""
        every = sorted(list_indices(self.dataset_url), key=lambda r: r.version)
        newest = {record.name: record for record in every if self._version in (None, record.version)}
        for name in self._wanted:
            if name not in newest:
                raise ConfigError(f"{self.dataset_url} has no index {name!r}.{nearest(name, newest)}")
        if not newest:
            of = f" of version {self._version}" if self._version is not None else ""
            raise ConfigError(f"{self.dataset_url} has no kNN index{of}: `wat2mds index build` makes one")
        chosen = (record for record in newest.values() if not self._wanted or record.name in self._wanted)
        return sorted(chosen, key=lambda r: (-r.version, -r.recall, r.name))

    def _rows(self, version: Version) -> Rows:
        place = hashlib.sha256(f"{self.dataset_url}\0{version.delta_version}\0{FORMAT}".encode()).hexdigest()[:16]
        path = self._folder / f"rows-{place}-{version.number:06d}.sqlite"
        if not path.is_file():
            log.info("reading the metadata of version %d, %d samples", version.number, version.samples)
            self._folder.mkdir(parents=True, exist_ok=True)
            build_rows(self.dataset_url, version, path)
        rows = Rows(path)
        if rows.count != version.samples:
            raise DataError(f"{path} has {rows.count} rows, version {version.number} has {version.samples}: remove the file")
        return rows

    @property
    def every(self) -> list[Collection]:
        return list(self._by_name.values())

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    @property
    def default(self) -> Collection:
        return self.every[0]

    def get(self, name: str | None) -> Collection:
        """Raises KeyError for a name that is none's."""
        return self.default if name is None else self._by_name[name]


@contextmanager
def kept_current(collections: Collections, seconds: float) -> Iterator[None]:
    """Look for what was published, each so many seconds, in a thread; what goes wrong is logged, and what is served stays."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            try:
                if collections.refresh():
                    told = (f"{one.name} of version {one.version.number}, {one.rows.count} samples" for one in collections.every)
                    log.info("serving now: %s", "; ".join(told))
            except Exception as error:
                log.warning("what is served stays as it is, because looking for a newer version failed: %s", error)

    thread = threading.Thread(target=look, name="refresh", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def _model(record: IndexRecord) -> tuple[str, str]:
    return record.clip_model, record.clip_pretrained

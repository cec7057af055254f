"""What the service answers from: each kNN index of the dataset, with the rows, images and model that belong to it.

In: a dataset's URL and a folder for what is made when it starts. Out: ``Collections``. Guaranteed: an index is only ever joined
with the metadata and shards of its own version. What does not belong here: searching.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wat2mds.errors import ConfigError, DataError, nearest
from wat2mds.search.reading import SearchIndex, list_indices, open_index
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

    Raises ConfigError where there is none, or the model that one was made with is not here.
    """

    def __init__(
        self, dataset_url: str, folder: Path, names: Sequence[str] = (), version: int | None = None, device: str = "auto"
    ) -> None:
        self.dataset_url = dataset_url
        newest = {r.name: r for r in sorted(list_indices(dataset_url), key=lambda r: r.version) if version in (None, r.version)}
        for name in names:
            if name not in newest:
                raise ConfigError(f"{dataset_url} has no index {name!r}.{nearest(name, newest)}")
        # The best first: who asks for none in particular gets the one that finds most.
        chosen = sorted(
            (r for r in newest.values() if not names or r.name in names), key=lambda r: (-r.version, -r.recall, r.name)
        )
        if not chosen:
            of = f" of version {version}" if version is not None else ""
            raise ConfigError(f"{dataset_url} has no kNN index{of}: `wat2mds index build` makes one")
        encoders: dict[tuple[str, str], Encoder] = {}
        versions: dict[int, tuple[Version, Rows, Images]] = {}
        self._by_name: dict[str, Collection] = {}
        for record in chosen:
            model = (record.clip_model, record.clip_pretrained)
            if model not in encoders:
                encoders[model] = Encoder(*model, device)
            if encoders[model].dim != record.dim:
                raise DataError(
                    f"index {record.name} holds vectors of {record.dim} floats, {record.clip_model} makes {encoders[model].dim}"
                )
            if record.version not in versions:
                stated = read_version(dataset_url, record.version)
                versions[record.version] = (stated, self._rows(folder, stated), Images(dataset_url, stated))
            stated, rows, images = versions[record.version]
            index = open_index(dataset_url, record.name, record.version)
            self._by_name[record.name] = Collection(record.name, stated, index, rows, images, encoders[model])

    def _rows(self, folder: Path, version: Version) -> Rows:
        place = hashlib.sha256(f"{self.dataset_url}\0{version.delta_version}\0{FORMAT}".encode()).hexdigest()[:16]
        path = folder / f"rows-{place}-{version.number:06d}.sqlite"
        if not path.is_file():
            log.info("reading the metadata of version %d, %d samples", version.number, version.samples)
            folder.mkdir(parents=True, exist_ok=True)
            build_rows(self.dataset_url, version, path)
        rows = Rows(path)
        if rows.count != version.samples:
            raise DataError(f"{path} has {rows.count} rows, version {version.number} has {version.samples}: remove the file")
        return rows

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    @property
    def default(self) -> Collection:
        return next(iter(self._by_name.values()))

    def get(self, name: str | None) -> Collection:
        """Raises KeyError for a name that is none's."""
        return self.default if name is None else self._by_name[name]

"""Version records: a dataset's published states, and how they are read.

In: a dataset's URL. Out: ``Version``, read from ``versions/N/version.json``. Guaranteed: the conditional create of a record is the commit
of a publish, so that a version is whole when its record exists; what the record does not name is no part of it, whatever else
lies in the dataset's folder. What does not belong here: making a version (``stages/publish``), reading samples (``reading.py``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from wat2mds.errors import DataError, TransientError, nearest
from wat2mds.manifest import Flow
from wat2mds.store import Layout, Store, join

if TYPE_CHECKING:
    from deltalake import DeltaTable

FORMAT = 1


@dataclass(frozen=True)
class StoredObject:
    """One object: path from the dataset's folder, bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TableFile:
    """One file of the Delta table that holds rows of a unit: path from the table's folder, rows."""

    path: str
    rows: int


@dataclass(frozen=True)
class PublishedUnit:
    """One WAT file's part of a version. ``digests`` and ``flows`` are by stage: what made it, and its funnel."""

    unit_name: str
    snapshot: str
    segment: str
    wat_file: str
    samples: int
    shards: int
    digests: dict[str, str]
    flows: list[dict[str, Any]]
    objects: list[StoredObject]
    table_files: list[TableFile] = field(default_factory=list)
    profile: str = ""
    settings: str = ""

    @property
    def key(self) -> str:
        return unit_key(self.snapshot, self.segment, self.wat_file)

    def object_ending(self, suffix: str) -> StoredObject:
        """Raises DataError where the unit has none."""
        for entry in self.objects:
            if entry.path.endswith(suffix):
                return entry
        raise DataError(f"{self.unit_name} has no object {suffix}: it holds {', '.join(o.path for o in self.objects)}")


@dataclass(frozen=True)
class Version:
    """One published state of a dataset. ``index`` is the merged MDS index, whose shards are named from the dataset's folder;
    ``missing`` are WAT files that were to be built but are in no version yet."""

    number: int
    delta_version: int
    index: StoredObject
    units: dict[str, PublishedUnit]
    missing: list[str]
    published_units: list[str]
    batch: str
    profile: str
    settings: dict[str, Any]
    settings_digest: str
    clip_model: str
    code: str
    published_at: str
    format: int = FORMAT

    @property
    def samples(self) -> int:
        return sum(unit.samples for unit in self.units.values())

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


def unit_key(snapshot: str, segment: str, wat_file: str) -> str:
    """Names a WAT file within a dataset."""
    return f"{snapshot}.{segment}.{wat_file}"


def version_numbers(dataset_url: str) -> list[int]:
    """Numbers of the versions whose record exists, ascending."""
    store = Store(dataset_url)
    return [number for number in _candidates(store) if store.exists(Layout.version_path(number))]


def newest_number(dataset_url: str) -> int | None:
    """None where nothing is published yet."""
    store = Store(dataset_url)
    # A folder may lack its record: the merged index is written first, and its publisher may have died or lost the number.
    return next((number for number in reversed(_candidates(store)) if store.exists(Layout.version_path(number))), None)


def newest_version(dataset_url: str) -> Version | None:
    """None where nothing is published yet."""
    number = newest_number(dataset_url)
    return None if number is None else read_version(dataset_url, number)


def read_version(dataset_url: str, number: int | None = None) -> Version:
    """One version, the newest by default. Raises DataError where there is none of that number."""
    if number is None:
        number = newest_number(dataset_url)
        if number is None:
            raise DataError(f"{dataset_url} holds no version: nothing has been published there yet")
    where = join(dataset_url, Layout.version_path(number))
    try:
        found = Store(dataset_url).read_json(Layout.version_path(number))
    except FileNotFoundError as error:
        known = [str(n) for n in version_numbers(dataset_url)]
        raise DataError(f"{where} does not exist: there is no version {number}.{nearest(str(number), known)}") from error
    except ValueError as error:
        raise DataError(f"{where} is not a version record: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{where} is not a version record of format {FORMAT}, which this wat2mds reads")
    try:
        return Version(**(found | {"index": StoredObject(**found["index"]), "units": _units(found["units"])}))
    except (TypeError, KeyError) as error:
        raise DataError(f"{where} is not a version record: {error}") from error


def read_index(dataset_url: str, version: Version) -> bytes:
    """The version's merged MDS index, as checked against its record. Raises TransientError where it reads otherwise."""
    try:
        content = Store(dataset_url).read(version.index.path)
    except FileNotFoundError as error:
        raise DataError(f"version {version.number}: {error}; the version was withdrawn or damaged") from error
    if hashlib.sha256(content).hexdigest() != version.index.sha256:
        raise TransientError(f"{join(dataset_url, version.index.path)} is not the index that version {version.number} records")
    return content


def open_table(dataset_url: str, version: Version) -> DeltaTable:
    """The metadata table as it was at a version: one row a published sample, schema METADATA."""
    from deltalake import DeltaTable

    uri, options = table_location(dataset_url)
    return DeltaTable(uri, version=version.delta_version, storage_options=options)


def table_location(dataset_url: str) -> tuple[str, dict[str, str] | None]:
    """URI and options for deltalake; it reads credentials, region and endpoint from the AWS_ variables, as the store does."""
    store = Store(Layout.of(dataset_url).metadata)
    if store.local is not None:
        return str(store.local), None
    # Conditional puts make Delta's commits safe without a lock table; stated, because older delta-rs wanted DynamoDB.
    return store.url, {"aws_allow_http": "true", "aws_conditional_put": "etag"}


def published_flow(version: Version, wat_file: str) -> Flow:
    """The last line of a WAT file's funnel; ``wat_file`` is ``<snapshot>.<segment>.<number>``. Raises DataError if it is not in it."""
    if wat_file not in version.units:
        raise DataError(f"version {version.number} holds no WAT file {wat_file}.{nearest(wat_file, version.units)}")
    unit = version.units[wat_file]
    return Flow("uploaded", "published", unit.samples, unit.samples)


def _candidates(store: Store) -> list[int]:
    return sorted(int(name) for name in store.names("versions")[1] if name.isdigit())


def _units(found: dict[str, Any]) -> dict[str, PublishedUnit]:
    return {
        key: PublishedUnit(
            **(
                unit
                | {
                    "objects": [StoredObject(**entry) for entry in unit["objects"]],
                    "table_files": [TableFile(**entry) for entry in unit["table_files"]],
                }
            )
        )
        for key, unit in found.items()
    }

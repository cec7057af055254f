"""Version records: a dataset's published states, and how they are read.

In: a dataset's URL. Out: ``Version``, read from ``versions/N/version.json``. Guaranteed: the conditional create of a record is the commit
of a publish, so that a version is whole when its record exists; what the record does not name is no part of it, whatever else
lies in the dataset's folder. A version stands until ``withdrawn.json`` is created beside its record; the newest always stands.
What does not belong here: making a version (``stages/publish``), removing objects, reading samples (``reading.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wat2mds.errors import DataError, TransientError, nearest
from wat2mds.manifest import Flow
from wat2mds.store import Layout, Store, join
from wat2mds.units import PublishedUnit, SegmentList, StoredObject, TableFile, Units, sum_flows, unit_key

if TYPE_CHECKING:
    from deltalake import DeltaTable

FORMAT = 2
__all__ = [
    "PublishedUnit",
    "StoredObject",
    "TableFile",
    "Units",
    "Version",
    "Withdrawal",
    "newest_number",
    "newest_version",
    "open_table",
    "published_flow",
    "read_index",
    "read_record",
    "read_version",
    "standing_numbers",
    "table_location",
    "unit_key",
    "version_numbers",
    "withdraw",
    "withdrawal_of",
]


@dataclass(frozen=True)
class Version:
    """One published state of a dataset. ``index`` is the merged MDS index, whose shards are named from the dataset's folder;
    ``missing`` are WAT files that were to be built but are in no version yet; ``models`` are those of the settings it was published
    with, by their part in filter, each unit naming its own settings; ``published_units`` are the WAT files that this version brought."""

    number: int
    delta_version: int
    index: StoredObject
    units: Units
    missing: list[str]
    published_units: list[str]
    batch: str
    profile: str
    settings: dict[str, Any]
    settings_digest: str
    models: dict[str, str]
    code: str
    published_at: str
    format: int = FORMAT

    @property
    def samples(self) -> int:
        return self.units.samples

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Flows of all WAT files, summed by stage; each unit holds its own."""
        return sum_flows(flow for entry in self.units.lists.values() for flow in entry.flows)

    def to_json(self) -> bytes:
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("units", "index")}
        content["index"] = asdict(self.index)
        content["segments"] = {name: asdict(entry) for name, entry in self.units.lists.items()}
        return json.dumps(content, indent=1, sort_keys=True).encode()


@dataclass(frozen=True)
class Withdrawal:
    """Why and when (UTC) a version was withdrawn."""

    number: int
    reason: str
    withdrawn_at: str


def version_numbers(dataset_url: str) -> list[int]:
    """Numbers of the versions whose record exists, withdrawn ones too, ascending."""
    store = Store(dataset_url)
    return [number for number in _candidates(store) if store.exists(Layout.version_path(number))]


def standing_numbers(dataset_url: str) -> list[int]:
    """Numbers of the versions that can be opened, ascending."""
    store = Store(dataset_url)
    folders = ((number, store.names(f"versions/{number:06d}")[0]) for number in _candidates(store))
    return [number for number, names in folders if "version.json" in names and "withdrawn.json" not in names]


def newest_number(dataset_url: str) -> int | None:
    """None where nothing is published yet."""
    store = Store(dataset_url)
    # A folder may lack its record: the merged index is written first, and its publisher may have died or lost the number.
    return next((number for number in reversed(_candidates(store)) if store.exists(Layout.version_path(number))), None)


def newest_version(dataset_url: str) -> Version | None:
    """None where nothing is published yet."""
    number = newest_number(dataset_url)
    return None if number is None else read_record(dataset_url, number)


def read_version(dataset_url: str, number: int | None = None) -> Version:
    """A version that stands, the newest by default. Raises DataError where there is none of that number, or it was withdrawn."""
    if number is None:
        number = newest_number(dataset_url)
        if number is None:
            raise DataError(f"{dataset_url} holds no version: nothing has been published there yet")
        return read_record(dataset_url, number)
    if found := withdrawal_of(dataset_url, number):
        later = next((n for n in standing_numbers(dataset_url) if n > number), None)
        raise DataError(
            f"version {number} of {dataset_url} was withdrawn on {found.withdrawn_at} ({found.reason}). "
            f"The next that stands is {later}"
        )
    return read_record(dataset_url, number)


def read_record(dataset_url: str, number: int) -> Version:
    """A version's record, whether it stands or was withdrawn. Raises DataError where there is none of that number."""
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
        lists = {
            name: SegmentList(**(entry | {"stored": StoredObject(**entry["stored"])}))
            for name, entry in found.pop("segments").items()
        }
        return Version(**(found | {"index": StoredObject(**found["index"]), "units": Units(Store(dataset_url).url, lists)}))
    except (TypeError, KeyError) as error:
        raise DataError(f"{where} is not a version record: {error}") from error


def withdraw(dataset_url: str, numbers: Iterable[int], reason: str) -> list[Withdrawal]:
    """Withdraw versions for good: they cannot be opened any more, and vacuum removes what they alone hold. Again is no error.

    Raises DataError, with nothing withdrawn, for a number that does not exist and for the newest, which readers get by default.
    """
    store = Store(dataset_url)
    newest = newest_number(dataset_url)
    asked = sorted(set(numbers))
    for number in asked:
        read_record(dataset_url, number)
        if number == newest:
            raise DataError(
                f"version {number} is the newest of {dataset_url}, which readers get by default: publish what is to stand in its place "
                f"first, then withdraw it. Nothing was withdrawn"
            )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for number in asked:
        store.create(_mark(number), json.dumps(asdict(Withdrawal(number, reason, now)), indent=1).encode())
    return [found for number in asked if (found := withdrawal_of(dataset_url, number))]


def withdrawal_of(dataset_url: str, number: int) -> Withdrawal | None:
    """None where the version stands or never was."""
    try:
        return Withdrawal(**Store(dataset_url).read_json(_mark(number)))
    except FileNotFoundError:
        return None


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


def _mark(number: int) -> str:
    return Layout.version_path(number).replace("version.json", "withdrawn.json")


def _candidates(store: Store) -> list[int]:
    return sorted(int(name) for name in store.names("versions")[1] if name.isdigit())

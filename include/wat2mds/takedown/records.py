"""What was asked to be taken down, and the tombstones that keep it out: entries as hashes, without content.

In: a dataset's URL, entries. Out: numbered records below ``takedowns/``. Guaranteed: a record is a conditional create, after which
``tombstones`` names its entries to everybody; asked for twice, the same entries are one record; nothing here is ever removed but marks of
what is to go. What does not belong here: doing it (``applying.py``).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from wat2mds import __version__
from wat2mds.errors import DataError
from wat2mds.settings import digest
from wat2mds.store import Store, join
from wat2mds.takedown.entries import Entries, entries_of, merged, text_words
from wat2mds.units import PublishedUnit, StoredObject

FOLDER = "takedowns"
_DOOMED = f"{FOLDER}/doomed"
_FORMAT = 1
# Of one process: a dataset's entries, by the records that they are of.
_loaded: dict[tuple[str, ...], Entries] = {}


@dataclass(frozen=True)
class Takedown:
    """What was asked for: ``entries`` by kind; ``lists`` are the names of what they were read from; ``pdq_distance`` in bits, 0: none."""

    number: int
    reason: str
    lists: list[str]
    counts: dict[str, int]
    entries: dict[str, StoredObject]
    pdq_distance: int
    asked: str
    requested_at: str
    code: str
    format: int = _FORMAT


def record(dataset: Store, entries: Entries, lists: list[str], reason: str, pdq_distance: int) -> Takedown:
    """Write entries and their record; the record that there is where the same was asked for before."""
    stored = {kind: _store(dataset, kind, words) for kind, words in sorted(entries.words.items())}
    asked = digest({kind: entry.sha256 for kind, entry in stored.items()}, pdq_distance)
    while True:
        known = takedowns(dataset)
        if found := next((takedown for takedown in known if takedown.asked == asked), None):
            return found
        number = max((takedown.number for takedown in known), default=0) + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Takedown(
            number, reason, lists, entries.counts, stored, pdq_distance, asked, now, f"wat2mds {__version__}"
        )  # fmt: skip
        if dataset.create(path_of(number, "request.json"), _json(asdict(made))):
            return made


def takedowns(dataset: Store) -> list[Takedown]:
    """All that were ever asked for, by number."""
    numbers = sorted(int(name) for name in dataset.names(FOLDER)[1] if name.isdigit())
    return [_read(dataset, number) for number in numbers if dataset.exists(path_of(number, "request.json"))]


def unfinished(dataset: Store) -> list[Takedown]:
    """Those without a report."""
    return [takedown for takedown in takedowns(dataset) if not dataset.exists(path_of(takedown.number, "report.json"))]


def read_entries(dataset: Store, takedown: Takedown) -> Entries:
    """Its entries, and the uids that they matched so far. Raises DataError for what is not as it was written."""
    words = {kind: _load(dataset, entry) for kind, entry in takedown.entries.items()}
    asked = entries_of(words, takedown.pdq_distance)
    uids = [_load_npy(dataset, path.path) for path in dataset.walk(path_of(takedown.number, "uids"))]
    return merged([asked, *(entries_of({"uid": found}) for found in uids)])


def tombstones(dataset_url: str) -> Entries:
    """All entries of all takedowns of a dataset; none where there never was one, at the cost of a listing."""
    dataset = Store(dataset_url)
    names = [entry.path for entry in dataset.walk(FOLDER) if entry.path.endswith(("/request.json", ".npy"))]
    if not names:
        return Entries()
    key = (dataset.url, *names)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = merged([read_entries(dataset, takedown) for takedown in takedowns(dataset)] or [Entries()])
    return _loaded[key]


def keep_uids(dataset: Store, takedown: Takedown, uids: Iterable[str]) -> None:
    """Keep the uids of what was found, so that what names a sample by its uid alone is known when the rest of it is gone."""
    words = entries_of({"uid": text_words("uid", sorted(set(uids)))}).words.get("uid")
    if words is None or (read_entries(dataset, takedown).places("uid", words) >= 0).all():
        return
    content = _npy(words)
    dataset.create(path_of(takedown.number, f"uids/{hashlib.sha256(content).hexdigest()[:16]}.npy"), content)


def keep_found(dataset: Store, takedown: Takedown, counts: dict[str, Any]) -> dict[str, Any]:
    """What the first look found; later ones find less, since some of it is gone."""
    dataset.create(path_of(takedown.number, "found.json"), _json(counts))
    found: dict[str, Any] = dataset.read_json(path_of(takedown.number, "found.json"))
    return found


@dataclass(frozen=True)
class Doom:
    """Objects of a unit that go as soon as no version that stands names them; ``mark`` is where that is written."""

    unit_name: str
    paths: list[str]
    mark: str


def doom(dataset: Store, before: PublishedUnit, after: PublishedUnit) -> None:
    """Mark what a unit's successor does without."""
    kept = {entry.path for entry in after.objects}
    paths = [entry.path for entry in before.objects if entry.path not in kept]
    content = {"unit_name": before.unit_name, "paths": paths}
    dataset.create(f"{_DOOMED}/{before.unit_name}-{digest(paths)}.json", _json(content))


def doomed(dataset: Store) -> list[Doom]:
    """All marks."""
    marks = [f"{_DOOMED}/{name}" for name in dataset.names(_DOOMED)[0]]
    return [Doom(**dataset.read_json(mark), mark=mark) for mark in marks]


def finish(dataset: Store, takedown: Takedown, report: dict[str, Any]) -> str:
    """Write what was done; the report's URL."""
    path = path_of(takedown.number, "report.json")
    dataset.write(path, _json(report))
    return join(dataset.url, path)


def path_of(number: int, name: str) -> str:
    """Of a takedown's part, from the dataset's folder."""
    return f"{FOLDER}/{number:06d}/{name}"


def _read(dataset: Store, number: int) -> Takedown:
    where = join(dataset.url, path_of(number, "request.json"))
    try:
        found = dataset.read_json(path_of(number, "request.json"))
        if found["format"] != _FORMAT:
            raise DataError(f"{where} is of format {found['format']}; this wat2mds reads {_FORMAT}")
        return Takedown(**(found | {"entries": {kind: StoredObject(**entry) for kind, entry in found["entries"].items()}}))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where} is not the record of a takedown: {error}") from error


def _store(dataset: Store, kind: str, words: np.ndarray) -> StoredObject:
    content = _npy(words)
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"{FOLDER}/entries/{sha256[:16]}.{kind}.npy"
    dataset.create(path, content)
    return StoredObject(path, len(content), sha256)


def _load(dataset: Store, entry: StoredObject) -> np.ndarray:
    content = dataset.read(entry.path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DataError(f"{join(dataset.url, entry.path)} is not what was recorded: it was damaged. Ask for the takedown again")
    found: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _load_npy(dataset: Store, path: str) -> np.ndarray:
    found: np.ndarray = np.load(io.BytesIO(dataset.read(path)), allow_pickle=False)
    return found


def _npy(words: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, words)
    return out.getvalue()


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()

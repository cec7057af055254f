"""Block lists: samples that known lists name by hash, by look (PDQ), by URL or by domain. Matched before anything is scored.

In: download's tables and lists, one entry a line, ``#`` for comments. Out: which uid is on which list. Guaranteed: what is on a list has no
pixels in download's tables any more, before a later stage reads them; the report names uid and list only; a sample whose pixels were
deleted stays blocked, also after its list was taken away. Deleting pixels is the one change to stored files in place: the manifest
keeps saying what was fetched. What does not belong here: what is done with a blocked sample (decisions).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wat2mds.errors import ConfigError, DataError
from wat2mds.identity import normalize_host, normalize_url
from wat2mds.lineage import parent
from wat2mds.manifest import Input, Manifest, Unit
from wat2mds.models.near_duplicates import NONE, Index, hash_rows
from wat2mds.schema import SAMPLES
from wat2mds.settings import PAIR_STAGES, Settings
from wat2mds.stage_settings import FilterSettings
from wat2mds.store import Store, join, split
from wat2mds.takedown.entries import Entries, marks_in
from wat2mds.takedown.records import tombstones

log = logging.getLogger(__name__)
REPORT = "blocked.json"
SETTINGS = {"block_lists", "pdq_max_distance", "pdq_min_quality"}
EARLIER = "earlier"
TAKEDOWN = "takedown"
_DELETED = "blocked: the image was deleted"
_READS = ["uid", "url", "md5", "sha1", "sha256", "pdq", "pdq_quality", "error_message"]
_HEX = {"md5": 32, "sha1": 40, "sha256": 64, "pdq": 64}


@dataclass(frozen=True)
class BlockList:
    """One list. ``name`` is its kind and its file's name; entries are in the form that is compared, those of a list of PDQ hashes in
    an index."""

    name: str
    kind: str
    entries: frozenset[str]
    index: Index
    source: Input


def read_lists(given: FilterSettings) -> list[BlockList]:
    """The lists of ``filter.block_lists``. Raises ConfigError for a file that is not there or an entry that is not of its kind."""
    found = []
    for text in given.block_lists:
        kind, _, url = text.partition(":")
        folder, name = split(url)
        try:
            content = Store(folder).read(name)
        except FileNotFoundError as error:
            raise ConfigError(f"filter.block_lists: {url} does not exist") from error
        entries = set()
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            entry = (line if kind == "url" else line.partition("#")[0]).strip()
            if entry and not entry.startswith("#"):
                entries.add(_entry(kind, entry, f"filter.block_lists: {url}, line {number}"))
        identity = hashlib.sha256(content).hexdigest()
        index = Index(hash_rows(sorted(entries) if kind == "pdq" else []))
        source = Input(f"list:{text}", identity)
        found.append(BlockList(f"{kind}:{name}", kind, frozenset(() if kind == "pdq" else entries), index, source))
    return found


def _entry(kind: str, text: str, where: str) -> str:
    if kind in _HEX:
        if len(text) != _HEX[kind] or not set(text.lower()) <= set("0123456789abcdef"):
            raise ConfigError(f"{where}: {text[:80]!r} is no {kind}: {_HEX[kind]} hex digits are expected")
        return text.lower()
    try:
        return normalize_url(text) if kind == "url" else normalize_host(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text[:80]!r} is no {kind}: {error}") from error


def block(samples: Manifest, out: str, settings: Settings) -> Manifest:
    """Find what is blocked, delete its pixels from download's tables, and keep the report. Returns the unit's manifest."""
    lists = read_lists(settings.filter)
    # The folder too: tables fetched again hold pixels again.
    inputs: list[Manifest | Input] = [samples, Input(samples.base, samples.folder), *(entry.source for entry in lists)]
    fingerprint = settings.filter.model_dump(mode="json", include=SETTINGS) | {"part": "blocked"}
    with Unit("filter", join(out, "blocked"), inputs, settings, fingerprint=fingerprint) as unit:
        if unit.done:
            return unit.manifest
        # Not an input: a takedown that comes later concerns what is made later, and publish; what is done is its own to mend.
        entries = _tombstones(samples)
        found: dict[str, list[str]] = {}
        for name in samples.matching(".parquet"):
            try:
                path = samples.fetch(name, unit.scratch)
                here = find(path, lists, settings.filter)
            except FileNotFoundError as error:
                raise DataError(
                    f"{samples.file(name)} is gone, and has to be compared with these block lists: delete {samples.url} and run download "
                    f"again (in Airflow: clear its task with what follows); what is published a takedown removes without it"
                ) from error
            if entries:
                uids = pq.read_table(path, columns=["uid"])["uid"].filter(pa.array(marks_in(path, entries)))
                here |= {uid: [name for name in here.get(uid, []) if name != EARLIER] + [TAKEDOWN] for uid in uids.to_pylist()}
            _delete_pixels(path, samples.file(name), set(here), unit.scratch / "without.parquet")
            found |= here
        unit.path(REPORT).write_text(json.dumps(dict(sorted(found.items())), indent=1))
        if found:
            log.warning("filter: %d samples are on block lists; their images were deleted", len(found))
        return unit.commit([], {"blocked": len(found)})


def _tombstones(samples: Manifest) -> Entries:
    """Of the dataset that dedup recorded; none where it recorded none."""
    try:
        dataset = parent(samples, PAIR_STAGES).extra.get("dataset")
    except DataError:
        return Entries()
    return tombstones(dataset["url"]) if dataset else Entries()


def read_report(blocked: Manifest, folder: Path) -> dict[str, list[str]]:
    """uid: names of the lists that hold it."""
    report: dict[str, list[str]] = json.loads(blocked.fetch(REPORT, folder).read_bytes())
    return report


def find(path: Path, lists: Sequence[BlockList], given: FilterSettings) -> dict[str, list[str]]:
    """uid: names of the lists that hold it, for one of download's tables. Reads no pixels, writes nothing."""
    table = pq.read_table(path, columns=_READS)
    uids = table["uid"].to_pylist()
    found: dict[str, list[str]] = {}
    for entry in lists:
        for row in np.flatnonzero(_matches(table, entry, given)):
            found.setdefault(uids[row], []).append(entry.name)
    for row in np.flatnonzero(_deleted(table)):
        found.setdefault(uids[row], [EARLIER])
    return found


def _matches(table: pa.Table, entry: BlockList, given: FilterSettings) -> np.ndarray:
    if entry.kind == "pdq":
        return _near(table, entry.index, given)
    if entry.kind in _HEX:
        return np.array([value is not None and value.lower() in entry.entries for value in table[entry.kind].to_pylist()], bool)
    return np.array([_listed(url, entry) for url in table["url"].to_pylist()], bool)


def _listed(url: str, entry: BlockList) -> bool:
    try:
        if entry.kind == "url":
            return normalize_url(url) in entry.entries
        labels = normalize_host(urlsplit(url).hostname or "").split(".")
    except ValueError:
        return False
    return any(".".join(labels[start:]) in entry.entries for start in range(len(labels)))


def _near(table: pa.Table, listed: Index, given: FilterSettings) -> np.ndarray:
    """Rows whose PDQ is good enough to be compared and at most so many bits from one of the list (ThreatExchange: 31, 50)."""
    usable = _true(pc.and_(pc.is_valid(table["pdq"]), pc.greater_equal(table["pdq_quality"], given.pdq_min_quality)))
    rows = np.flatnonzero(usable)
    found = np.zeros(table.num_rows, bool)
    found[rows] = listed.first(hash_rows(table["pdq"].take(rows).to_pylist()), given.pdq_max_distance) != NONE
    return found


def _deleted(table: pa.Table) -> np.ndarray:
    return _true(pc.equal(table["error_message"], _DELETED))


def _delete_pixels(path: Path, url: str, uids: set[str], scratch: Path) -> None:
    """Put a table without the images of ``uids``, and what EXIF says of them, in the place of the stored one. Atomic."""
    if not uids:
        return
    named = pa.array(sorted(uids), pa.string())
    with pq.ParquetFile(path) as file:
        marked = file.read(columns=["uid", "error_message"])
        if _true(pc.and_(pc.is_in(marked["uid"], value_set=named), pa.array(~_deleted(marked)))).sum() == 0:
            return
        compression = {name: "none" if name == "jpg" else "zstd" for name in SAMPLES.names()}
        with pq.ParquetWriter(scratch, SAMPLES.schema, compression=compression) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                gone = pc.is_in(table["uid"], value_set=named)
                for column, value in (("jpg", None), ("exif", None), ("error_message", _DELETED)):
                    at = table.column_names.index(column)
                    field = table.schema.field(at)
                    table = table.set_column(at, field, pc.if_else(gone, pa.scalar(value, field.type), table[column]))
                writer.write_table(table)
    folder, name = split(url)
    Store(folder).put_file(scratch, name)
    scratch.unlink()


def _true(mask: pa.ChunkedArray | pa.Array) -> np.ndarray:
    return np.array(pc.fill_null(mask, False).to_pylist(), dtype=bool)

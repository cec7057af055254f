"""Objects that hold what is taken down, and that no version that stands names any more.

In: a dataset whose newest version is without it. Out: the paths that went. Guaranteed: what a standing version names stays; nothing
waits for a grace, since no publish may name what goes here: an object goes where it was marked, belongs to a withdrawn version, or holds
what is listed. What does not belong here: withdrawing, intermediate files (``work.py``), what nobody named for other reasons
(``stages/publish/vacuum.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
from deltalake import DeltaTable

from wat2mds.groups import FOLDER as GROUPS
from wat2mds.search.records import FOLDER as SEARCH
from wat2mds.store import Object, Store
from wat2mds.subsets.definition import folder as subset_folder
from wat2mds.takedown.entries import Entries
from wat2mds.takedown.finding import tables
from wat2mds.takedown.records import doomed
from wat2mds.units import UNIT_FOLDERS
from wat2mds.versions import read_record, standing_numbers, table_location

log = logging.getLogger(__name__)
# What is younger, and not published, may be at work: a download takes half a day before it leaves anything on a remote store.
AT_WORK = timedelta(days=1)
_RECORDS = ("version.json", "withdrawn.json")


def remove_doomed(dataset: Store) -> list[str]:
    """What is marked; a mark goes when all of its objects have."""
    marks = doomed(dataset)
    if not marks:
        return []
    named = _named(dataset)
    gone: list[str] = []
    for doom in marks:
        left = [path for path in doom.paths if path in named]
        gone += _delete(dataset, [path for path in doom.paths if path not in named])
        if f"release/{doom.unit_name}" not in named:
            gone += _delete(dataset, [entry.path for entry in dataset.walk(f"release/{doom.unit_name}")])
            parts = [f"{subset_folder(name)}/parts/{doom.unit_name}.parquet" for name in dataset.names("subsets")[1]]
            gone += _delete(dataset, [path for path in parts if dataset.exists(path)])
        if not left:
            dataset.delete(doom.mark)
    return gone


def remove_withdrawn(dataset: Store) -> list[str]:
    """What was derived from versions that do not stand any more: cards, statistics, kNN indices, subsets."""
    standing, gone = set(standing_numbers(dataset.url)), list[str]()
    for folder in ("versions", SEARCH, *(subset_folder(name) for name in dataset.names("subsets")[1])):
        for name in dataset.names(folder)[1]:
            if name.isdigit() and int(name) not in standing:
                there = [entry.path for entry in dataset.walk(f"{folder}/{name}")]
                gone += _delete(dataset, [path for path in there if path.rpartition("/")[2] not in _RECORDS])
    named = _named(dataset)
    gone += _delete(dataset, [e.path for e in dataset.walk(f"{SEARCH}/objects") if e.path not in named])
    for name in dataset.names("subsets")[1]:
        gone += _remove_shards(dataset, subset_folder(name))
    return gone


def remove_listed(dataset: Store, entries: Entries, *, alone: bool) -> tuple[list[str], list[str]]:
    """(paths that went, units that may be at work and wait): tables that no standing version names and that hold what is listed, with
    the other objects of their units."""
    named, gone, waiting = _named(dataset), list[str](), set[str]()
    units: dict[str, list[Object]] = {}
    for entry in (entry for folder in UNIT_FOLDERS for entry in dataset.walk(folder)):
        if entry.path not in named:
            units.setdefault(entry.path.split("/")[1], []).append(entry)
    for unit_name, objects in units.items():
        parquet = [entry.path for entry in objects if entry.path.endswith(".parquet")]
        if not any(_holds(dataset, path, entries) for path in parquet):
            continue
        if not alone and max(entry.modified for entry in objects) > datetime.now(UTC) - AT_WORK:
            waiting.add(unit_name)
            continue
        # Tables last: by them a killed attempt's successor knows what the others were.
        gone += _delete(dataset, sorted((entry.path for entry in objects), key=lambda path: path.endswith(".parquet")))
    loose = [entry.path for folder in (GROUPS, "metadata") for entry in dataset.walk(folder) if entry.path not in named]
    gone += _delete(
        dataset,
        [path for path in loose if path.endswith(".parquet") and "/_delta_log/" not in path and _holds(dataset, path, entries)],
    )
    return gone, sorted(waiting)


def shorten_log(dataset: Store) -> list[str]:
    """Delta's log holds the least and the greatest uid of each file: commits before the newest version's go, but for those of versions
    that stand, which get a checkpoint each (a gap between commits is no error before a checkpoint)."""
    needed = sorted({read_record(dataset.url, number).delta_version for number in standing_numbers(dataset.url)})
    commits: dict[int, list[str]] = {}
    for entry in dataset.walk("metadata/_delta_log"):
        number = entry.path.rpartition("/")[2].partition(".")[0]
        if number.isdigit() and needed and int(number) <= needed[-1]:
            commits.setdefault(int(number), []).append(entry.path)
    if all(commit in needed for commit in commits):
        return []
    uri, options = table_location(dataset.url)
    for commit in needed:  # ascending: the last one is what readers are pointed to
        if not any(".checkpoint" in path for path in commits[commit]):
            DeltaTable(uri, version=commit, storage_options=options).create_checkpoint()
    return _delete(dataset, [path for commit, paths in sorted(commits.items()) if commit not in needed for path in paths])


def _remove_shards(dataset: Store, folder: str) -> list[str]:
    """Shards of a subset that none of its records names."""
    named: set[str] = set()
    newest: str | None = None
    for name in dataset.names(folder)[1]:
        if name.isdigit() and dataset.exists(f"{folder}/{name}/mds.json"):
            record = dataset.read_json(f"{folder}/{name}/mds.json")
            named.update(source["uids"].removesuffix(".uids") for source in record["shards"])
            newest = record["index"]["path"]
    gone = _delete(dataset, [e.path for e in dataset.walk(f"{folder}/mds/shards") if e.path.partition(".")[0] not in named])
    copy = f"{folder}/mds/index.json"
    if dataset.exists(copy):
        if newest is None:
            gone += _delete(dataset, [copy])
        elif (content := dataset.read(newest)) != dataset.read(copy):
            dataset.write(copy, content)
    return gone


def _named(dataset: Store) -> set[str]:
    # Here, not above: publish, of which it is a part, removes what is marked.
    from wat2mds.stages.publish.vacuum import named_objects

    return named_objects(dataset.url, standing_numbers(dataset.url))


def _holds(dataset: Store, path: str, entries: Entries) -> bool:
    """Whether a table names what is listed, its groups' founders too."""
    try:
        with dataset.open(path) as source, pq.ParquetFile(source) as file:
            groups = file.read(columns=["phash_group"]) if "phash_group" in file.schema_arrow.names else None
        if groups is not None and "uid" in entries.words:
            uids = Entries({"uid": entries.words["uid"]})
            if np.any(uids.any_of(groups.rename_columns(["uid"]))):
                return True
        return any(bool(entries.any_of(table).any()) for table in tables(dataset, path, entries))
    except FileNotFoundError:
        return False


def _delete(dataset: Store, paths: Iterable[str]) -> list[str]:
    gone = list(paths)
    for path in gone:
        dataset.delete(path)
    return gone

"""A takedown from its record to its report: every step can be repeated, and each is complete before what it replaces goes.

In: a dataset, what is asked. Out: ``takedowns/N/report.json``. Guaranteed: the order below, by which a killed takedown is completed by the
next one, and a publish beside it either sees the tombstones or makes no version.

1. the record: from here on dedup, filter and publish leave out what is listed
2. a version without it: units, groups of near-duplicates, table
3. what hangs on the newest version: root index, release view, card, kNN indices, subsets
4. older versions that held it are withdrawn
5. objects, upload's manifests, intermediate files, reports
6. the report, unless something may still be at work

What does not belong here: how each is done.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from wat2mds import __version__, subsets
from wat2mds.derived import derive
from wat2mds.failures import outcomes_of
from wat2mds.groups import read_groups
from wat2mds.progress import Progress
from wat2mds.search.records import list_indices
from wat2mds.stages.publish import refresh_derived, replace_units
from wat2mds.store import Store
from wat2mds.takedown.entries import Entries
from wat2mds.takedown.finding import Found, find
from wat2mds.takedown.records import (
    Takedown,
    doom,
    finish,
    keep_found,
    keep_uids,
    read_entries,
    takedowns,
    tombstones,
    unfinished,
)
from wat2mds.takedown.regrouping import names_gone, regrouped
from wat2mds.takedown.removing import remove_doomed, remove_listed, remove_withdrawn, shorten_log
from wat2mds.takedown.rewriting import without
from wat2mds.takedown.subsets import clear_definitions, drop_stale
from wat2mds.takedown.work import clean_reports, clean_work
from wat2mds.units import PublishedUnit, round_key, round_of
from wat2mds.versions import (
    Version,
    newest_number,
    newest_version,
    read_record,
    standing_numbers,
    version_numbers,
    withdraw,
    withdrawal_of,
)

log = logging.getLogger(__name__)
_EXAMPLES = 10


@dataclass
class Look:
    """What is named in the versions that stand: by unit, each unit once."""

    found: dict[tuple[str, str], Found] = field(default_factory=dict)
    newest: set[tuple[str, str]] = field(default_factory=set)

    def counts(self) -> dict[str, Any]:
        """By part of the dataset, by kind of entry (a row that two kinds name counts twice), and some uids."""
        hits = [found for found in self.found.values() if found]
        samples = {uid for found in hits for uid in found.samples}
        newest = {uid for ident, found in self.found.items() if ident in self.newest for uid in found.samples}
        kinds: Counter[str] = Counter()
        for found in hits:
            kinds += found.by_kind
        return {
            "samples": len(samples),
            "in_newest_version": len(newest),
            "outcomes": len({uid for found in hits for uid in found.outcomes}),
            "wat_files": len({found.unit.key for found in hits}),
            "rows_by_kind": dict(sorted(kinds.items())),
            "examples": sorted(samples)[:_EXAMPLES],
        }

    def uids(self) -> set[str]:
        return {uid for found in self.found.values() for uid in (*found.samples, *found.outcomes)}

    def see(self, dataset: Store, units: Iterable[PublishedUnit], entries: Entries) -> list[Found]:
        """What is named of these units; those that were looked at are not read again."""
        wanted = list(units)
        new = {identity(unit): unit for unit in wanted if identity(unit) not in self.found}
        with Progress("takedown", len(new), "WAT files") as progress:
            for done, (ident, found) in enumerate(zip(new, find(dataset, new.values(), entries), strict=True), 1):
                self.found[ident] = found
                progress.update(done, f"{sum(bool(other) for other in self.found.values())} hold what is listed")
        return [replace(self.found[identity(unit)], unit=unit) for unit in wanted]


def look(dataset_url: str, entries: Entries) -> Look:
    """What is named in all versions that stand; nothing is written."""
    dataset, seen = Store(dataset_url), Look()
    for number in reversed(standing_numbers(dataset_url)):
        version = read_record(dataset_url, number)
        hits = seen.see(dataset, version.units.values(), entries)
        if number == newest_number(dataset_url):
            seen.newest = {identity(found.unit) for found in hits}
    return seen


def complete(dataset_url: str, *, alone: bool = False) -> list[dict[str, Any]]:
    """Every takedown that has no report yet, by number; where there is none, what runs left that were at work meanwhile. The reports.

    ``alone``: no run is at work, so that nothing waits for one. Raises what publishing raises.
    """
    dataset = Store(dataset_url)
    done = [apply(dataset_url, takedown, alone=alone) for takedown in unfinished(dataset)]
    if not done and takedowns(dataset):
        removed, waiting = _remove(dataset, tombstones(dataset_url), alone=alone, whole=False)
        log.info(
            "takedown: none is unfinished; %d objects that came since went, %d WAT files may be at work",
            len(removed),
            len(waiting),
        )
    return done


def apply(dataset_url: str, takedown: Takedown, *, alone: bool = False) -> dict[str, Any]:
    """All steps after the record; the report, which is stored unless a WAT file may be at work (``waiting``)."""
    dataset = Store(dataset_url)
    entries = read_entries(dataset, takedown)
    seen = look(dataset_url, entries)
    keep_uids(dataset, takedown, seen.uids())
    found = keep_found(dataset, takedown, seen.counts())
    version, withdrawn = newest_version(dataset_url), list[int]()
    if version is not None:
        version = replace_units(dataset_url, lambda newest: _successors(dataset, newest, takedown, entries, seen))
        entries = read_entries(dataset, takedown)
        _bring_up(dataset, entries)
        withdrawn = _withdraw(dataset, takedown, entries, seen)
    removed, waiting = _remove(dataset, entries, alone=alone, whole=True)
    report = {
        "takedown": takedown.number,
        "dataset": dataset.url,
        "reason": takedown.reason,
        "requested_at": takedown.requested_at,
        "listed": takedown.counts,
        "pdq_distance": takedown.pdq_distance,
        "found": found,
        "version": version.number if version is not None else None,
        "withdrawn": _withdrawn_for(dataset, takedown),
        "removed_objects": dict(sorted(Counter(path.partition("/")[0] for path in removed).items())),
        "waiting": waiting,
        "finished_at": "" if waiting else datetime.now(UTC).isoformat(timespec="seconds"),
        "code": f"wat2mds {__version__}",
    }
    log.info(
        "takedown %d: %d samples of %d WAT files; version %s, %d withdrawn, %d objects went", takedown.number, found["samples"],
        found["wat_files"], report["version"], len(withdrawn), len(removed),
    )  # fmt: skip
    if not waiting:
        finish(dataset, takedown, report)
    return report


def _successors(dataset: Store, newest: Version, takedown: Takedown, entries: Entries, seen: Look) -> dict[str, PublishedUnit]:
    """Units of the newest version without what is named, by key; none where it holds nothing of it."""
    hits = [found for found in seen.see(dataset, newest.units.values(), entries) if found]
    keep_uids(dataset, takedown, (uid for found in hits for uid in (*found.samples, *found.outcomes)))
    ours: dict[str, PublishedUnit] = {}
    for found in hits:
        made = without(dataset, found)
        doom(dataset, found.unit, made)
        ours[found.unit.key] = made
    for key, unit in list(ours.items()):
        following = round_key(key, round_of(key) + 1)
        later = ours.get(following, newest.units.get(following))
        if later is not None and later.retry_of == newest.units[key].retriable_uids:
            # What it asked for again were these failures, of which some are named no more.
            ours[following] = replace(later, retry_of=unit.retriable_uids)
    return regrouped(dataset, newest.units, ours, read_entries(dataset, takedown))


def _bring_up(dataset: Store, entries: Entries) -> None:
    """What readers get with the newest version. Indices and subsets before older versions are withdrawn: from these they are updated."""
    refresh_derived(dataset.url, derive=_derive)
    if names := sorted({record.name for record in list_indices(dataset.url)}):
        from wat2mds.search.building import update  # loads faiss

        update(dataset.url, names)
    clear_definitions(dataset, entries)
    subsets.refresh(dataset.url)
    drop_stale(dataset)


def _derive(dataset_url: str, version: Version) -> None:
    derive(dataset_url, version)


def _withdraw(dataset: Store, takedown: Takedown, entries: Entries, seen: Look) -> list[int]:
    """Older versions that hold what is named."""
    newest, numbers = newest_version(dataset.url), list[int]()
    assert newest is not None
    groups = {unit.groups.path for unit in newest.units.values() if unit.groups is not None}
    for number in standing_numbers(dataset.url):
        if number == newest.number:
            continue
        version = read_record(dataset.url, number)
        held = any(seen.see(dataset, version.units.values(), entries))
        if held or any(
            unit.groups is not None and unit.groups.path not in groups and names_gone(read_groups(dataset, unit), entries)
            for unit in version.units.values()
        ):
            numbers.append(number)
    return [found.number for found in withdraw(dataset.url, numbers, _reason(takedown))] if numbers else []


def _reason(takedown: Takedown) -> str:
    return f"takedown {takedown.number}: {takedown.reason}"


def _withdrawn_for(dataset: Store, takedown: Takedown) -> list[int]:
    marks = [withdrawal_of(dataset.url, number) for number in version_numbers(dataset.url)]
    return [mark.number for mark in marks if mark is not None and mark.reason == _reason(takedown)]


def _remove(dataset: Store, entries: Entries, *, alone: bool, whole: bool) -> tuple[list[str], list[str]]:
    """(paths that went, WAT files and units that may be at work)."""
    version = newest_version(dataset.url)
    removed, waiting = list[str](), list[str]()
    if version is not None:
        # Before its objects go, so that a publish that is repeated finds what there is now.
        cleaned = clean_work(dataset, version.units, entries, alone=alone, whole=whole)
        removed, waiting = cleaned.removed, cleaned.waiting
        removed += remove_doomed(dataset) + remove_withdrawn(dataset)
    loose, at_work = remove_listed(dataset, entries, alone=alone)
    removed += [*loose, *shorten_log(dataset), *clean_reports(dataset, entries)]
    return removed, sorted({*waiting, *at_work})


def identity(unit: PublishedUnit) -> tuple[str, str]:
    """What decides what a unit's tables hold."""
    outcomes = outcomes_of(unit)
    return unit.unit_name, outcomes.path if outcomes is not None else ""

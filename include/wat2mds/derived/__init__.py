"""What is derived from a version beside the root index: the release view, its statistics, its summary, the dataset card.

In: a dataset's URL and a version's record. Out, in this order: each new WAT file's part of the release view and its statistics below
``release/<unit>/``; ``versions/N/release.json`` and ``statistics.json``; ``versions/N/card/`` (``README.md``, ``index.html`` and the
pictures); for the newest version copies in the dataset's folder, ``README.md`` and ``card.html``; ``versions/N/summary.json``.
Guaranteed: nothing here is read by a publish or names anything that the record does not; all of it can be made again by ``wat2mds
derive``; the cost of one more version is that of its new WAT files. What does not belong here: the root index (publish), judging the
data (validate, verify).

    release.py        LAION's columns as parquet; the few large files that other tools take
    statistics.py     counts that add up
    summaries.py      work, failures, costs and history, carried on from version to version, for the dashboard
    work.py           what the stages of WAT files took, how downloads ended
    deviations.py     what differs from LAION, and known limits
    card.py           what a card says, with tables.py
    html.py           how it looks, with markdown.py, plots.py, pictures.py, contact_sheet.py
"""

from __future__ import annotations

import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from wat2mds.derived import html, markdown, release, statistics
from wat2mds.derived.card import Card, build_card
from wat2mds.derived.contact_sheet import draw_sheet
from wat2mds.derived.pictures import stored_images
from wat2mds.derived.plots import standalone
from wat2mds.derived.statistics import Statistics
from wat2mds.derived.summaries import make_summary
from wat2mds.errors import DataError
from wat2mds.schema import LAION_VIEW
from wat2mds.settings import digest
from wat2mds.store import Store, join, split
from wat2mds.unit_rows import read_rows
from wat2mds.versions import PublishedUnit, StoredObject, Version, newest_number, read_index

log = logging.getLogger(__name__)
# Units at a time: each holds its metadata rows, some tens of megabytes.
_THREADS = 4
# Parts that a publish makes; a batch has up to 60. More are missing where a dataset was published without them, or from the lists.
_MOST_AT_A_PUBLISH = 200
# Versions back whose list of parts is looked for, where those between were withdrawn or lack theirs.
_BACK = 10


@dataclass(frozen=True)
class Derived:
    """``made`` is how many WAT files' parts were made now; the others were there."""

    card: str
    parts: int
    rows: int
    made: int


def derive_quietly(dataset_url: str, version: Version) -> None:
    """``derive`` after a publish: the version is committed and whole without it, so whatever goes wrong here is logged, not raised."""
    try:
        done = derive(dataset_url, version, at_most=_MOST_AT_A_PUBLISH)
    except Exception as error:
        log.warning(
            "version %d is published, but release view, card or summary are not complete: %s: %s. Make them: wat2mds derive --version %d",
            version.number,
            type(error).__name__,
            error,
            version.number,
        )
    else:
        log.info("card: %s", done.card)


def derive(dataset_url: str, version: Version, *, anew: bool = False, at_most: int | None = None) -> Derived:
    """Make what is missing of a version's release view, statistics and card; ``anew``: make the parts again though they are there.

    Raises DataError or TransientError where an object that the record names is gone or damaged, and DataError where more than
    ``at_most`` parts are missing.
    """
    dataset = Store(dataset_url)
    known = {} if anew else _known_parts(dataset, version)
    missing = sum(unit.unit_name not in known for unit in version.units.values())
    if at_most is not None and missing > at_most:
        raise DataError(f"the parts of {missing:,} WAT files are missing, which takes longer than a publish should")
    made: list[str] = []

    def part(unit: PublishedUnit) -> tuple[StoredObject, Statistics | None]:
        entry = known.get(unit.unit_name)
        if entry is not None:
            return entry, None
        rows = read_rows(dataset, unit, _COLUMNS)
        found = statistics.of_rows(rows)
        dataset.write(_statistics_path(unit), found.to_bytes())
        made.append(unit.key)
        return release.write_part(dataset, unit, rows), found

    with ThreadPoolExecutor(_THREADS) as pool:
        units = list(version.units.values())
        parts = list(pool.map(part, units))
        total = _sum(dataset, version, dict(zip(version.units, parts, strict=True)), pool)
    _check_counts(version, total)
    listing = {
        "version": version.number,
        "columns": release.SCHEMA.names,
        "rows": version.samples,
        "parts": [
            {
                "unit": unit.key,
                "unit_name": unit.unit_name,
                "path": p.path,
                "rows": unit.samples,
                "bytes": p.size,
                "sha256": p.sha256,
            }
            for unit, (p, _) in zip(units, parts, strict=True)
        ],
    }
    dataset.write(release.list_path(version.number), json.dumps(listing, indent=1, sort_keys=True).encode())
    summed = {"units": sorted(unit.unit_name for unit in units), **total.to_json()}
    dataset.write(
        statistics_path(version.number), json.dumps(summed, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")
    )
    where = _write_card(dataset, version, total)
    make_summary(dataset, version, lambda unit: _of_unit(dataset, unit), at_most=at_most)
    return Derived(where, len(units), version.samples, len(made))


_COLUMNS = sorted({*statistics.COLUMNS, *LAION_VIEW.values()})
# Another way of counting has another name.
_COUNTED = digest(statistics.FORMAT, statistics.COLUMNS)


def card_path(number: int) -> str:
    return f"versions/{number:06d}/card/index.html"


def _statistics_path(unit: PublishedUnit) -> str:
    return f"release/{unit.unit_name}/statistics.{_COUNTED}.json"


def statistics_path(number: int) -> str:
    """From the dataset's folder."""
    return f"versions/{number:06d}/statistics.json"


def _known_parts(dataset: Store, version: Version) -> dict[str, StoredObject]:
    """Parts that an earlier version's list, or this one's, names; those it took over are not looked at again."""
    for number in range(version.number, max(0, version.number - _BACK), -1):
        try:
            listing = dataset.read_json(release.list_path(number))
            found = {e["unit_name"]: StoredObject(e["path"], e["bytes"], e["sha256"]) for e in listing["parts"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
        current = {unit.unit_name: release.part_path(unit) for unit in version.units.values()}
        kept = {name: entry for name, entry in found.items() if current.get(name) == entry.path}
        if number == version.number:  # asked for again: parts may have gone since
            there = {(entry.path, entry.size) for entry in dataset.walk("release")}
            kept = {name: entry for name, entry in kept.items() if (entry.path, entry.size) in there}
        return kept
    return {}


def _sum(
    dataset: Store, version: Version, parts: dict[str, tuple[StoredObject, Statistics | None]], pool: ThreadPoolExecutor
) -> Statistics:
    """From the version before, where all its units are still in this one; else from each unit's own."""
    total, counted = _counted_before(dataset, version)

    def one(key: str) -> Statistics:
        found = parts[key][1]
        return found if found is not None else _of_unit(dataset, version.units[key])

    for found in pool.map(one, [key for key, unit in version.units.items() if unit.unit_name not in counted]):
        total.add(found)
    return total


def _counted_before(dataset: Store, version: Version) -> tuple[Statistics, set[str]]:
    current = {unit.unit_name for unit in version.units.values()}
    for number in range(version.number - 1, max(0, version.number - _BACK), -1):
        try:
            found = dataset.read_json(statistics_path(number))
            if (units := set(found["units"])) <= current:
                return Statistics.from_json(found), units
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
        break  # a WAT file was replaced: what it had cannot be taken away again
    return Statistics(), set()


def _of_unit(dataset: Store, unit: PublishedUnit) -> Statistics:
    try:
        return Statistics.from_json(dataset.read_json(_statistics_path(unit)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        found = statistics.of_rows(read_rows(dataset, unit, statistics.COLUMNS))
        dataset.write(_statistics_path(unit), found.to_bytes())
        return found


def _check_counts(version: Version, total: Statistics) -> None:
    if total.samples != version.samples:
        raise DataError(
            f"version {version.number} holds {version.samples} samples, but its statistics count {total.samples}: "
            f"make them again with `wat2mds derive --anew --version {version.number}`"
        )


def _write_card(dataset: Store, version: Version, total: Statistics) -> str:
    pictures = stored_images(dataset, read_index(dataset.url, version), total.shown)
    made = build_card(split(dataset.url)[1], dataset.url, version, total, pictures)
    folder = f"versions/{version.number:06d}/card/"
    for figure in made.figures:
        dataset.write(f"{folder}{figure.name}.svg", standalone(figure.svg).encode())
    if pictures:
        dataset.write(f"{folder}samples.jpg", _sheet(made))
    page = html.render(made).encode("utf-8", "replace")
    dataset.write(f"{folder}README.md", markdown.render(made, "").encode("utf-8", "replace"))
    dataset.write(card_path(version.number), page)
    if newest_number(dataset.url) == version.number:
        dataset.write("README.md", markdown.render(made, folder).encode("utf-8", "replace"))
        dataset.write("card.html", page)
    return join(dataset.url, card_path(version.number))


def _sheet(card: Card) -> bytes:
    shown: list[Any] = [(image, sample["caption"], sample["similarity"]) for sample, image in card.pictures]
    out = io.BytesIO()
    draw_sheet(shown, f"{card.title}: {len(shown)} of {card.version.samples:,} samples").save(out, "JPEG", quality=85)
    return out.getvalue()

"""What the pages show, read from the store: a few objects a page.

In: a root, names and numbers as they stand in an address. Out: ``Listed``, ``Dataset``, ``VersionView``; None for what is not there.
Guaranteed: a name or number that is none is not looked for; the newest version's summary answers for all versions, so that what a page
reads does not grow with them. What does not belong here: HTML.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from wat2mds.derived import statistics_path
from wat2mds.derived.statistics import Statistics
from wat2mds.derived.summaries import Row, Summary, read_summary, summary_of_record
from wat2mds.errors import Wat2MdsError
from wat2mds.settings import Settings
from wat2mds.store import Layout, Store, join
from wat2mds.versions import Version, Withdrawal, newest_number, read_record, withdrawal_of

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_BATCH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}")
_THREADS = 8
PAGE_ROWS = 20


@dataclass(frozen=True)
class Listed:
    """A dataset among the others; ``summary`` is None where nothing is published yet, or where ``error`` says what is wrong."""

    name: str
    summary: Summary | None
    error: str = ""


@dataclass(frozen=True)
class Dataset:
    """One dataset at its newest version. ``statistics`` is None where they were not made; ``indices`` are the names of the kNN
    indices of that version; ``disk`` (total, used, free bytes) of a store on a local disk."""

    name: str
    url: str
    record: Version
    summary: Summary
    statistics: Statistics | None
    settings: Settings | None
    indices: list[str]
    disk: tuple[int, int, int] | None


@dataclass(frozen=True)
class VersionView:
    """One version. ``summary`` is None where it is withdrawn; then ``row`` still counts it. ``report`` is its run's, where it is the
    newest of that batch."""

    dataset: str
    number: int
    newest: int
    summary: Summary | None
    row: Row | None
    withdrawal: Withdrawal | None
    report: dict[str, Any] | None


def is_name(name: str) -> bool:
    """Whether it may be a dataset's: what else stands in an address is looked for nowhere."""
    return _NAME.fullmatch(name) is not None


def dataset_url(root: str, name: str) -> str:
    return Layout(root, name).dataset


def require_store(root: str) -> None:
    """One look without the patience of stages: a page says at once that the store does not answer. Raises TransientError or ConfigError."""
    Store(root, retry=False).names()


def list_datasets(root: str) -> list[Listed]:
    """By name. Raises TransientError or ConfigError where the store cannot be listed; what is wrong with one dataset stands at it."""
    names = [name for name in Store(join(root, "datasets")).names()[1] if is_name(name)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda name: _listed(root, name), names))


def read_dataset(root: str, name: str) -> Dataset | None:
    """None where there is no such dataset or nothing is published in it."""
    url = dataset_url(root, name)
    number = newest_number(url)
    if number is None:
        return None
    store, record = Store(url), read_record(url, number)
    disk = shutil.disk_usage(store.local) if store.local is not None else None
    return Dataset(
        name=name,
        url=url,
        record=record,
        summary=read_summary(store, number) or summary_of_record(record),
        statistics=_statistics(store, number),
        settings=_settings(record),
        indices=[file.removesuffix(".json") for file in store.names(f"search/{number:06d}")[0] if file.endswith(".json")],
        disk=(disk.total, disk.used, disk.free) if disk is not None else None,
    )


def read_version_view(root: str, name: str, number: int) -> VersionView | None:
    """None where there is no version of that number."""
    url = dataset_url(root, name)
    newest = newest_number(url)
    store = Store(url)
    if newest is None or not 1 <= number <= newest or not store.exists(Layout.version_path(number)):
        return None
    last = read_summary(store, newest)
    row = next((row for row in last.history if row.first <= number <= row.number), None) if last is not None else None
    if (withdrawal := withdrawal_of(url, number)) is not None:
        return VersionView(name, number, newest, None, row, withdrawal, None)
    summary = read_summary(store, number) or summary_of_record(read_record(url, number))
    return VersionView(name, number, newest, summary, row, None, _report(url, summary))


def withdrawn_among(url: str, numbers: Iterable[int]) -> set[int]:
    """Which of these versions are withdrawn: one look a version, so for those that a page lists."""
    asked = list(numbers)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda number: withdrawal_of(url, number), asked)
        return {number for number, withdrawal in zip(asked, found, strict=True) if withdrawal is not None}


def read_card(root: str, name: str, number: int) -> bytes | None:
    """A version's card; None where it has none or is withdrawn."""
    url = dataset_url(root, name)
    if withdrawal_of(url, number) is not None:
        return None
    try:
        return Store(url).read(f"versions/{number:06d}/card/index.html")
    except FileNotFoundError:
        return None


def _listed(root: str, name: str) -> Listed:
    url = dataset_url(root, name)
    try:
        number = newest_number(url)
        if number is None:
            return Listed(name, None)
        return Listed(name, read_summary(Store(url), number) or summary_of_record(read_record(url, number)))
    except Wat2MdsError as error:
        return Listed(name, None, str(error))


def _statistics(store: Store, number: int) -> Statistics | None:
    try:
        return Statistics.from_json(store.read_json(statistics_path(number)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _settings(record: Version) -> Settings | None:
    try:
        return Settings.model_validate(record.settings)
    except ValueError:  # of a wat2mds that had other ones
        return None


def _report(url: str, summary: Summary) -> dict[str, Any] | None:
    """A batch's report is replaced by the next run of the same batch: then it is not this version's."""
    if not _BATCH.fullmatch(summary.batch):
        return None
    try:
        found = Store(Layout.of(url).reports).read_json(f"{summary.batch}.json")
        return found if found["version"] == summary.number else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None

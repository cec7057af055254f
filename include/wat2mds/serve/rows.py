"""A version's metadata in a local file, made when the version is first served and only read from then on.

In: a dataset and a version. Out: ``Rows``: samples by uid, by number, by condition, and counts. Guaranteed: the file is written
once, whole, and opened read-only; memory is one batch of rows and SQLite's cache; numbers are 0 to n - 1 and the same for the same
version. What does not belong here: the metadata table itself (``versions.py``).

SQLite, because what is asked for most is a thousand samples by uid: a lookup in its B-tree costs the same at any size.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from wat2mds.serve.filters import SIDES, Condition
from wat2mds.versions import Version, open_table

FORMAT = 1
COLUMNS = (
    *("uid", "url", "caption", "page_url", "license", "license_type", "license_version", "language", "similarity", "clip_model"),
    *("nsfw", "punsafe", "pwatermark", "aesthetic", "phash_group", "width", "height", "original_width", "original_height"),
    *("mime", "original_bytes", "sha256", "crawl_date", "snapshot", "segment", "wat_file", "shard", "shard_row"),
)
_OWN = ("host", "short_side")
_BATCH = 20_000
_CACHE_KIB = 64 * 1024

Row = dict[str, Any]


def build_rows(dataset_url: str, version: Version, path: Path) -> None:
    """Write a version's rows into a new file; it is there when it is whole."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    names = [*COLUMNS, *_OWN]
    database = sqlite3.connect(partial)
    try:
        database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
        database.execute(f"CREATE TABLE rows (number INTEGER PRIMARY KEY, {', '.join(names)})")
        insert = f"INSERT INTO rows VALUES ({', '.join('?' * (len(names) + 1))})"
        table = open_table(dataset_url, version).to_pyarrow_dataset()
        number = 0
        for batch in table.scanner(
            columns=list(COLUMNS), batch_size=_BATCH, batch_readahead=2, fragment_readahead=1
        ).to_batches():
            database.executemany(insert, ((number + n, *values) for n, values in enumerate(_values(batch))))
            number += batch.num_rows
        database.execute("CREATE UNIQUE INDEX by_uid ON rows (uid)")
        database.execute(f"PRAGMA user_version={FORMAT}")
        database.commit()
    finally:
        database.close()
    partial.replace(path)


class Rows:
    """The rows of one file. Threads may ask at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._own = threading.local()
        self.count = int(self._ask("SELECT count(*) FROM rows", [])[0][0])

    def by_uid(self, uid: str) -> Row | None:
        found = self.take(Condition(()), [uid], 1)
        return found[0] if found else None

    def by_numbers(self, numbers: Sequence[int]) -> dict[int, Row]:
        listed = json.dumps(list(numbers))
        rows = self._ask("SELECT * FROM rows WHERE number IN (SELECT value FROM json_each(?))", [listed])
        return {row["number"]: dict(row) for row in rows}

    def take(self, condition: Condition, among: Sequence[str] | None, limit: int) -> list[Row]:
        """Up to ``limit`` rows for which the condition holds, of these uids or, where that is None, of all; by uid."""
        source, values = _pool(among)
        return [
            dict(row)
            for row in self._ask(
                f"SELECT * FROM rows WHERE {source} AND {condition.sql} ORDER BY uid LIMIT ?",
                [*values, *condition.values, limit],
            )
        ]

    def counts(
        self, column: str, condition: Condition, among: Sequence[str] | None, limit: int, most: int, *, fold: bool
    ) -> list[tuple[Any, int]]:
        """The ``most`` frequent values of a column, among the first ``limit`` rows for which the condition holds.

        ``fold``, here and below: near-duplicates count as one.
        """
        source, values = _pool(among)
        rows = self._ask(
            f"SELECT {column}, count(DISTINCT one) AS n FROM (SELECT {column}, {_one(fold)} AS one FROM rows"
            f" WHERE {source} AND {condition.sql} ORDER BY uid LIMIT ?) GROUP BY 1 ORDER BY n DESC, 1 LIMIT ?",
            [*values, *condition.values, limit, most],
        )
        return [(row[0], int(row[1])) for row in rows]

    def size(self, condition: Condition, among: Sequence[str] | None, limit: int, *, fold: bool) -> int:
        """How many of the first ``limit`` rows for which the condition holds there are."""
        source, values = _pool(among)
        chosen = f"SELECT {_one(fold)} AS one FROM rows WHERE {source} AND {condition.sql} ORDER BY uid LIMIT ?"
        sql = f"SELECT count(DISTINCT one) FROM ({chosen})"
        return int(self._ask(sql, [*values, *condition.values, limit])[0][0])

    def side_counts(self, condition: Condition, among: Sequence[str] | None, limit: int, *, fold: bool) -> list[tuple[int, int]]:
        """For each of SIDES, how many of these rows have a shorter side of at least so many pixels."""
        source, values = _pool(among)
        sums = ", ".join(f"count(DISTINCT CASE WHEN short_side >= {side} THEN one END)" for side in SIDES)
        chosen = f"SELECT short_side, {_one(fold)} AS one FROM rows WHERE {source} AND {condition.sql} ORDER BY uid LIMIT ?"
        [row] = self._ask(f"SELECT {sums} FROM ({chosen})", [*values, *condition.values, limit])
        return [(side, int(n)) for side, n in zip(SIDES, row, strict=True)]

    def _ask(self, sql: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.executescript(f"PRAGMA query_only=ON; PRAGMA cache_size=-{_CACHE_KIB}; PRAGMA temp_store=MEMORY;")
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            self._own.connection = connection
        found: list[sqlite3.Row] = connection.execute(sql, values).fetchall()
        return found


def host_of(url: str) -> str | None:
    """The host of an image's URL, lower case; None for a URL that has none."""
    try:
        return urlsplit(url).hostname or None
    except ValueError:
        return None


def _values(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    columns: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in COLUMNS}
    columns["crawl_date"] = [when and when.isoformat() for when in columns["crawl_date"]]
    columns = {name: [None if isinstance(v, float) and math.isnan(v) else v for v in column] for name, column in columns.items()}
    hosts = [host_of(url) for url in columns["url"]]
    sides = [
        min(width, height) if width and height else None
        for width, height in zip(columns["original_width"], columns["original_height"], strict=True)
    ]
    return zip(*columns.values(), hosts, sides, strict=True)


def _pool(among: Sequence[str] | None) -> tuple[str, list[Any]]:
    if among is None:
        return "1", []
    return "uid IN (SELECT value FROM json_each(?))", [json.dumps(list(among))]


def _one(fold: bool) -> str:
    """SQL for what counts as one."""
    return "coalesce(phash_group, uid)" if fold else "uid"

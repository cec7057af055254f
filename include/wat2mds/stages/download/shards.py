"""Cutting a table of unique pairs into the shards that workers download, each in an order of fetching that spreads hosts.

In: unique.parquet. Out: Arrow files as img2dataset's Downloader reads them, made one by one as they are asked for. Guaranteed: shard
n holds rows n × size to (n + 1) × size of the table; ``position`` is a row's place in its shard, ``turn`` its place in the order of
fetching. Both follow from the table alone. What does not belong here: downloading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.errors import TransientError
from wat2mds.stages.download.space import Space

COLUMNS = ["turn", "position", "uid", "url", "caption"]
_WANTED = ["uid", "url", "caption"]


class Task(NamedTuple):
    """One shard: its number, its Arrow file (removed when it is done), the folder of its journal and table, and its rows."""

    number: int
    source: str
    folder: str
    rows: int


def interleave(urls: Sequence[str]) -> list[int]:
    """Positions in an order that spreads each host's URLs evenly over the whole."""
    hosts = [host_of(url) for url in urls]
    total = Counter(hosts)
    seen: Counter[str] = Counter()
    places = []
    for position, host in enumerate(hosts):
        places.append(((seen[host] + 0.5) / total[host], position))
        seen[host] += 1
    return [position for _, position in sorted(places)]


def cut(table: Path, size: int, inputs: Path, outputs: Path, finished: Container[int], space: Space) -> Iterator[Task]:
    """Write and name one shard after the other, but for those that are finished."""
    for number, rows in enumerate(_slices(table, size)):
        if number in finished:
            continue
        turns = interleave(rows.column("url").to_pylist())
        shard = rows.take(pa.array(turns, pa.int64()))
        shard = shard.add_column(0, "position", pa.array(turns, pa.int64()))
        shard = shard.add_column(0, "turn", pa.array(range(len(turns)), pa.int64()))
        path = inputs / f"{number:05d}.arrow"
        try:
            space.write(partial(_write, shard, path))
        except OSError as error:
            raise TransientError(f"cannot write {path}: {error}") from error
        yield Task(number, str(path), str(outputs), len(turns))


def _write(shard: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, shard.schema) as writer:
        writer.write_table(shard)


def _slices(path: Path, size: int) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    waiting = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=size, columns=_WANTED):
            pending.append(batch)
            waiting += batch.num_rows
            while waiting >= size:
                whole = pa.Table.from_batches(pending)
                yield whole.slice(0, size)
                pending, waiting = whole.slice(size).to_batches(), waiting - size
    if waiting:
        yield pa.Table.from_batches(pending)


def host_of(url: str) -> str:
    """The URL's host; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""

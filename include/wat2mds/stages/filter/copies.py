"""The same bytes under many URLs of a WAT file: "image not found", a parked domain's picture, a template's ornament.

In: download's tables. Out: for each scored sample how many URLs, on how many hosts, gave bytes of its SHA-256. Guaranteed: kept beside the
scores, so that decisions can be made anew when the samples are gone; counted over all of the WAT file's images, also those on a
block list, so that the numbers do not depend on lists. What does not belong here: images that look alike (``models``), what is
published of other WAT files.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from wat2mds.manifest import Manifest

COLUMNS = ("copies_urls", "copies_hosts")


def with_copies(scores: pa.Table, samples: Manifest, folder: Path) -> pa.Table:
    """The scores with ``COLUMNS`` filled in. Fetched files go to ``folder``."""
    urls: dict[str, set[str]] = defaultdict(set)
    bytes_of: dict[str, str] = {}
    for name in samples.matching(".parquet"):
        table = pq.read_table(samples.fetch(name, folder), columns=["uid", "url", "sha256"])
        for uid, url, sha256 in zip(*(table[column].to_pylist() for column in ("uid", "url", "sha256")), strict=True):
            if sha256 is not None:
                bytes_of[uid] = sha256
                urls[sha256].add(url)
    hosts = {sha256: len({_host(url) for url in found}) for sha256, found in urls.items()}
    own = [bytes_of[uid] for uid in scores["uid"].to_pylist()]
    for column, counts in zip(COLUMNS, ([len(urls[sha]) for sha in own], [hosts[sha] for sha in own]), strict=True):
        at = scores.column_names.index(column)
        scores = scores.set_column(at, scores.schema.field(at), pa.array(counts, pa.int32()))
    return scores


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""

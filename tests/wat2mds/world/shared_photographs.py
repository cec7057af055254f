"""The real photographs of ../shared as rows for ``wat2mds.world.photographs``: 1,000 rows of a Common Crawl index, 1,000 of Flickr8k."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from wat2mds.world.photographs import Photograph

_FLICKR_A_PAGE = 25


def fondant_rows(data: Path) -> Iterator[Photograph]:
    """Pages, URLs, alts and licences as found by Common Crawl; 758 of the 1,000 images are at hand, the rest are dead links."""
    images: dict[str, bytes] = {}
    for part in sorted((data / "laion_meta" / "fondant-images").glob("*.parquet")):
        table = pq.read_table(part, columns=["id", "data"])
        images |= dict(zip(table.column("id").to_pylist(), table.column("data").to_pylist(), strict=True))
    for row in pq.read_table(data / "laion_meta" / "fondant-cc-1000-index.parquet").to_pylist():
        kind = row["license+type"]
        license_url = f"https://creativecommons.org/licenses/{kind}/4.0/" if kind else None
        yield Photograph(row["webpage+url"], row["url"], row["alt+text"], images.get(row["id"]), license_url)


def flickr_captions(data: Path) -> dict[str, list[str]]:
    """What people wrote for each photograph, by its file's name."""
    captions: dict[str, list[str]] = defaultdict(list)
    with (data / "photos" / "flickr8k-1000.captions.txt").open(encoding="utf-8", newline="") as file:
        for name, text in csv.reader(file):
            captions[name].append(text)
    return dict(captions)


def flickr_rows(data: Path) -> Iterator[Photograph]:
    """Each photograph with its first caption, 25 on a page."""
    captions = flickr_captions(data)
    for number, path in enumerate(sorted((data / "photos" / "flickr8k-1000").glob("*.jpg"))):
        page = f"https://album.photos.example.org/page-{number // _FLICKR_A_PAGE:03d}.html"
        yield Photograph(page, f"https://album.photos.example.org/full/{path.name}", captions.get(path.name, [None])[0], path)

"""A world of images that one has: rows of (page, image URL, alt text, licence, bytes) become a crawl and the web that serves it.

In: rows. Out, in a folder: ``crawl/`` (a mirror of Common Crawl with one snapshot of one segment) and ``web/`` (answers for
``origin.py``). Guaranteed: rows of one page stand together on it, in their order; a row without bytes is a dead link; the same rows
give the same bytes. What does not belong here: pictures that the project draws (``demo_world.py``), what must become of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, write_mirror
from wat2mds.world.origin import Answer, AnswerTable, Origin, first_of, folder_source
from wat2mds.world.page import Link, Page, anchor, image


@dataclass(frozen=True)
class Photograph:
    """One image link. ``license_url``: a Creative Commons link of its page. ``content``: None where it is not to be had."""

    page_url: str
    url: str
    alt: str | None
    content: bytes | Path | None
    license_url: str | None = None


@dataclass(frozen=True)
class PhotographWorld:
    """What was written: so many pages, image links and images."""

    folder: Path
    pages: int
    links: int
    images: int

    @property
    def crawl(self) -> Path:
        return self.folder / "crawl"

    def origin(self, port: int = 0) -> Origin:
        """The images' web, not yet started; the crawl's mirror too, under hosts that the web does not know."""
        return Origin(first_of(AnswerTable.load(self.folder / "web"), folder_source(self.crawl)), port)


def write_photograph_world(
    folder: Path,
    rows: Iterable[Photograph],
    *,
    snapshot: str,
    segment: str,
    start: datetime,
    wat_files: int = 1,
) -> PhotographWorld:
    """Write the rows as one snapshot, its pages spread evenly over ``wat_files`` WAT files."""
    by_page: dict[str, list[Photograph]] = {}
    table = AnswerTable()
    links = 0
    for row in rows:
        by_page.setdefault(row.page_url, []).append(row)
        links += 1
        if row.content is not None and row.url not in table:
            table.add(row.url, Answer(row.content))
    pages = [
        Page(url, _links(shown), start + timedelta(seconds=number), title=url)
        for number, (url, shown) in enumerate(by_page.items())
    ]
    share = -(-len(pages) // wat_files)
    parts = [pages[number * share : (number + 1) * share] for number in range(wat_files)]
    crawl_segment = CrawlSegment(segment, start, parts)
    write_mirror(folder / "crawl", [CrawlSnapshot(snapshot, start, start + timedelta(days=14), [crawl_segment])])
    table.save(folder / "web")
    return PhotographWorld(folder, len(pages), links, len(table))


def _links(shown: list[Photograph]) -> tuple[Link, ...]:
    licenses = dict.fromkeys(row.license_url for row in shown if row.license_url)
    return (*(image(row.url, row.alt) for row in shown), *(anchor(url, "License", rel="license") for url in licenses))

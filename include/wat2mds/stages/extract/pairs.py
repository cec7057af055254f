"""From one record to pairs: which links count, where they point, what they say.

Rules and their sources: ``IMG@/src`` links with alt text, relative URLs resolved against page and ``<base>`` (cc2dataset's PR 42:
+72 % pairs; LAION lost them), captions of 5 to 2,000 characters (LAION-400M). A byte test saves the JSON of records without images.

With ``extract.compatibility = "cc2dataset"`` the pairs are cc2dataset 1.5.0's: every non-empty alt as found, URLs joined as it joins
them and neither normalised nor tested but for http(s), records that are not valid as they stand left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import compress
from operator import not_
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from stringzilla import find

from wat2mds.drops import DropReason
from wat2mds.identity import identities
from wat2mds.pairs.captions import clean_caption, clean_captions
from wat2mds.pairs.licenses import find_license
from wat2mds.pairs.rules import admit_all
from wat2mds.pairs.urls import Base, join_all
from wat2mds.schema import PAIRS
from wat2mds.stage_settings import ExtractSettings
from wat2mds.stages.extract.pages import HTML, IMAGE_LINK, Link, Page, read_page
from wat2mds.stages.extract.records import Record

ROWS_PER_GROUP = 20_000
_METADATA = re.compile(rb"\nWARC-Type:[ \t]*metadata[ \t]*\r?\n", re.IGNORECASE)
_TARGET = re.compile(rb"\nWARC-Target-URI:[ \t]*([^\r\n]+)", re.IGNORECASE)
_DATE = re.compile(rb"\nWARC-Date:[ \t]*([^\r\n]+)", re.IGNORECASE)


# What nearly every record is: an enum's attributes are slow.
_NOT_METADATA, _NO_IMAGE_LINK, _A_PAGE = (DropReason.NOT_METADATA, ""), (DropReason.NO_IMAGE_LINK, ""), (None, "")
# Links are judged together: enough for what is done by the column to cost next to nothing for each call.
_JUDGED_AT_ONCE = 4_000


class Judged(NamedTuple):
    """What links give: for each None or why it gives no pair; and the pairs as columns of schema.PAIRS, without the hashes, which are
    made for many at once."""

    reasons: list[DropReason | None]
    pairs: dict[str, list[str]]


def judge(links: Sequence[Link], bases: Sequence[Base], settings: ExtractSettings) -> Judged:
    """The pairs that links give, each with the base of its page."""
    captions = clean_captions([link.alt or "" for link in links])
    sources = ["alt"] * len(links)
    if settings.title_fallback:
        for i, link in enumerate(links):
            if not captions[i] and link.title:
                captions[i], sources[i] = clean_caption(link.title), "title"
    admitted = admit_all([link.url for link in links], bases, captions, settings)
    reasons = [None if isinstance(found, tuple) else found for found in admitted]
    made = [pair for pair in admitted if isinstance(pair, tuple)]
    taken = [reason is None for reason in reasons]
    urls, normalized = [url for url, _ in made], [normalized for _, normalized in made]
    return Judged(reasons, _columns(urls, normalized, list(compress(captions, taken)), list(compress(sources, taken))))


def judge_as_cc2dataset(links: Sequence[Link], bases: Sequence[Base], settings: ExtractSettings) -> Judged:
    """cc2dataset 1.5.0, ``extract_documents_from_wat``. A link without url makes it lose the whole file; here it loses the link."""
    del settings
    no_url, no_caption = DropReason.NO_URL, DropReason.NO_CAPTION  # an enum's attributes are slow
    reasons = [(no_url if link.url is None else None) if link.alt else no_caption for link in links]
    taken = [reason is None for reason in reasons]
    captions: list[Any] = [link.alt for link in compress(links, taken)]
    found: list[Any] = [link.url for link in compress(links, taken)]
    urls = join_all(found, list(compress(bases, taken)))
    web = [url.startswith(("http://", "https://")) for url in urls]
    if not all(web):
        for i in compress(compress(range(len(links)), taken), map(not_, web)):
            reasons[i] = DropReason.BAD_URL
        urls, captions = list(compress(urls, web)), list(compress(captions, web))
    return Judged(reasons, _columns(urls, urls, captions, ["alt"] * len(urls)))


def _columns(urls: list[str], urls_normalized: list[str], captions: list[str], sources: list[str]) -> dict[str, list[str]]:
    return {"url": urls, "url_normalized": urls_normalized, "caption": captions, "caption_source": sources}


def base_of(page: Page, settings: ExtractSettings) -> Base:
    """What the page's relative URLs are joined to."""
    return Base(page.url or "", page.base, any_scheme=settings.compatibility is not None)


class PairMaker:
    """Collects the pairs of one WAT file as columns, and counts what it drops."""

    def __init__(self, settings: ExtractSettings, snapshot: str, segment: str, wat_file: str) -> None:
        self._settings = settings
        self._judge = judge if settings.compatibility is None else judge_as_cc2dataset
        self._place = {"snapshot": snapshot, "segment": segment, "wat_file": wat_file}
        self._links: list[Link] = []  # not judged yet,
        self._bases: list[Base] = []  # what they are joined to,
        self._waiting: list[tuple[int, tuple[Any, ...]]] = []  # how many are each page's, and its columns
        self._rows = _columns([], [], [], [])
        self._pages: list[tuple[int, tuple[Any, ...]]] = []  # how many of the rows are each page's, and its columns
        self.links = 0
        self.pairs = 0
        self.mended = 0
        self.drops: Counter[str] = Counter()

    def add(self, record: Record) -> tuple[DropReason | None, str]:
        """Take one record's links. Returns why the record gave no page with image links, or None, and what the parser said."""
        if not _is_metadata(record):
            return _NOT_METADATA
        if find(record.text, IMAGE_LINK, record.start, record.end) < 0:
            return _without_images(record)
        salvage = self._settings.compatibility is None
        if not record.exact and not salvage:
            return DropReason.BAD_RECORD, "Content-Length is not the block's length"
        try:
            page = read_page(record.text, record.start, record.end, salvage)
        except (ValueError, RecursionError) as error:
            return DropReason.BAD_RECORD, str(error) if record.exact else f"Content-Length is not the block's length; {error}"
        self.mended += not record.exact
        if page is None:
            return _NO_IMAGE_LINK
        self._take_page(page, record)
        return _A_PAGE

    def _take_page(self, page: Page, record: Record) -> None:
        if not page.url:
            page.url = _header(_TARGET, record)
        count = len(page.images)
        self.links += count
        self._links += page.images
        self._bases += [base_of(page, self._settings)] * count
        status = page.status
        license_ = find_license(page.license_links) if page.license_links else None
        self._waiting.append((count, (
            page.url or None,
            int(status) if status and status.isascii() and status.isdecimal() and len(status) <= 3 else None,
            _moment(page.date) or _moment(_header(_DATE, record)),
            record.offset,
            *(license_ or (None, None, None)),
        )))  # fmt: skip
        if len(self._links) >= _JUDGED_AT_ONCE:
            self._judge_links()

    def _judge_links(self) -> None:
        judged = self._judge(self._links, self._bases, self._settings)
        begin = 0
        for count, columns in self._waiting:
            if pairs := judged.reasons[begin : begin + count].count(None):
                self._pages.append((pairs, columns))
            begin += count
        for name, column in judged.pairs.items():
            self._rows[name] += column
        for reason, count in Counter(judged.reasons).items():
            if reason is not None:
                self.drops[reason.value] += count
        self._links, self._bases, self._waiting = [], [], []

    def groups(self, last: bool = False) -> Iterator[dict[str, Any]]:
        """What was collected since the last call, as columns of schema.PAIRS: whole pages, until they are ROWS_PER_GROUP pairs or more.
        What falls short of that waits for the next call, but for the ``last``."""
        if last:
            self._judge_links()
        while len(self._rows["url"]) >= ROWS_PER_GROUP:
            size = count = 0
            while size < ROWS_PER_GROUP:
                size += self._pages[count][0]
                count += 1
            yield self._group({name: column[:size] for name, column in self._rows.items()}, self._pages[:count])
            self._rows, self._pages = {name: column[size:] for name, column in self._rows.items()}, self._pages[count:]
        if last:
            yield self._group(self._rows, self._pages)

    def _group(self, rows: dict[str, list[str]], pages: list[tuple[int, tuple[Any, ...]]]) -> dict[str, Any]:
        size = len(rows["url"])
        self.pairs += size
        if not size:
            return {"uid": []}
        columns: dict[str, Any] = dict(rows)
        columns["uid"], columns["laion_hash"] = identities(rows["url"], rows["url_normalized"], rows["caption"])
        columns |= {name: pa.repeat(value, size) for name, value in self._place.items()}
        index = pa.array(np.repeat(np.arange(len(pages), dtype=np.int32), [count for count, _ in pages]))
        for name, column in zip(_PAGE_COLUMNS, zip(*[page for _, page in pages], strict=True), strict=True):
            columns[name] = pa.array(column, PAIRS.schema.field(name).type).take(index)
        return columns


_PAGE_COLUMNS = (
    "page_url", "page_http_status", "crawl_date", "record_offset", "license", "license_type", "license_version",
)  # fmt: skip


def _is_metadata(record: Record) -> bool:
    as_written = record.text.find(b"\nWARC-Type: metadata\r\n", record.begin, record.start) >= 0
    return as_written or _METADATA.search(record.text, record.begin, record.start) is not None


def _without_images(record: Record) -> tuple[DropReason, str]:
    if find(record.text, HTML, record.start, record.end) >= 0:
        return _NO_IMAGE_LINK
    if record.text[record.start : record.start + 64].lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{":
        return _NOT_METADATA
    return DropReason.BAD_RECORD, "no JSON object"


def _header(pattern: re.Pattern[bytes], record: Record) -> str:
    found = pattern.search(record.text, record.begin, record.start)
    return found[1].decode("utf-8", "replace").strip() if found else ""


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None

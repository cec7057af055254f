"""From one record to pairs: which links count, where they point, what they say.

Rules and their sources: ``IMG@/src`` links with alt text, relative URLs resolved against page and ``<base>`` (cc2dataset's PR 42:
+72 % pairs; LAION lost them), captions of 5 to 2,000 characters (LAION-400M). A byte test saves the JSON of records without images.

With ``extract.compatibility = "cc2dataset"`` the pairs are cc2dataset 1.5.0's: every non-empty alt as found, URLs joined as it joins
them and neither normalised nor tested but for http(s), records that are not valid as they stand left out.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from wat2mds.drops import DropReason
from wat2mds.identity import identities
from wat2mds.pairs.captions import clean_caption
from wat2mds.pairs.licenses import find_license
from wat2mds.pairs.rules import admit
from wat2mds.pairs.urls import Base
from wat2mds.schema import PAIRS
from wat2mds.stage_settings import ExtractSettings
from wat2mds.stages.extract.pages import HTML, IMAGE_LINK, Link, Page, read_page
from wat2mds.stages.extract.records import Record

_METADATA = re.compile(rb"\nWARC-Type:[ \t]*metadata[ \t]*\r?\n", re.IGNORECASE)
_TARGET = re.compile(rb"\nWARC-Target-URI:[ \t]*([^\r\n]+)", re.IGNORECASE)
_DATE = re.compile(rb"\nWARC-Date:[ \t]*([^\r\n]+)", re.IGNORECASE)


# What a link gives: a pair without its hashes, which are made for many at once. A plain tuple of these columns of schema.PAIRS,
# because the garbage collector need not follow it.
FOUND_COLUMNS = ("url", "url_normalized", "caption", "caption_source")
Found = tuple[str, str, str, str]


def judge(link: Link, base: Base, settings: ExtractSettings) -> Found | DropReason:
    """The pair that a link gives, or why it gives none."""
    caption, source = clean_caption(link.alt) if link.alt else "", "alt"
    if not caption and settings.title_fallback and link.title:
        caption, source = clean_caption(link.title), "title"
    admitted = admit(link.url, base, caption, settings)
    return admitted if isinstance(admitted, DropReason) else (*admitted, caption, source)


def judge_as_cc2dataset(link: Link, base: Base, settings: ExtractSettings) -> Found | DropReason:
    """cc2dataset 1.5.0, ``extract_documents_from_wat``. A link without url makes it lose the whole file; here it loses the link."""
    del settings
    if not link.alt:
        return DropReason.NO_CAPTION
    url = link.url
    if url is None:
        return DropReason.NO_URL
    if not url.startswith(("http://", "https://")):
        url = base.join(url)
        if not url.startswith(("http://", "https://")):
            return DropReason.BAD_URL
    return url, url, link.alt, "alt"


def base_of(page: Page, settings: ExtractSettings) -> Base:
    """What the page's relative URLs are joined to."""
    return Base(page.url or "", page.base, any_scheme=settings.compatibility is not None)


class PairMaker:
    """Collects the pairs of one WAT file as columns, and counts what it drops."""

    def __init__(self, settings: ExtractSettings, snapshot: str, segment: str, wat_file: str) -> None:
        self._settings = settings
        self._judge = judge if settings.compatibility is None else judge_as_cc2dataset
        self._place = {"snapshot": snapshot, "segment": segment, "wat_file": wat_file}
        self._rows: list[Found] = []
        self._counts: list[int] = []  # of each page's pairs
        self._pages: list[tuple[Any, ...]] = []
        self.links = 0
        self.pairs = 0
        self.mended = 0
        self.drops: Counter[str] = Counter()

    @property
    def size(self) -> int:
        return len(self._rows)

    def add(self, record: Record) -> tuple[DropReason | None, str]:
        """Take one record's links. Returns why the record gave no page with image links, or None, and what the parser said."""
        if record.text.find(IMAGE_LINK, record.start, record.end) < 0:
            return _without_images(record)
        if not _is_metadata(record):
            return DropReason.NOT_METADATA, ""
        salvage = self._settings.compatibility is None
        if not record.exact and not salvage:
            return DropReason.BAD_RECORD, "Content-Length is not the block's length"
        try:
            page = read_page(record.text, record.start, record.end, salvage)
        except (ValueError, RecursionError) as error:
            return DropReason.BAD_RECORD, str(error) if record.exact else f"Content-Length is not the block's length; {error}"
        self.mended += not record.exact
        if page is None:
            return DropReason.NO_IMAGE_LINK, ""
        self._take_page(page, record)
        return None, ""

    def _take_page(self, page: Page, record: Record) -> None:
        settings, judge_link, rows = self._settings, self._judge, self._rows
        if not page.url:
            page.url = _header(_TARGET, record)
        base = base_of(page, settings)
        before = len(rows)
        dropped: list[DropReason] = []
        for link in page.images:
            made = judge_link(link, base, settings)
            if type(made) is tuple:
                rows.append(made)
            else:
                dropped.append(made)  # type: ignore[arg-type]
        self.links += len(page.images)
        self.drops.update([reason._value_ for reason in dropped])  # an enum member's own hash is slow
        if len(rows) == before:
            return
        self._counts.append(len(rows) - before)
        status = page.status
        license_ = find_license(page.license_links) if page.license_links else None
        self._pages.append((
            page.url or None,
            int(status) if status and status.isascii() and status.isdecimal() and len(status) <= 3 else None,
            _moment(page.date) or _moment(_header(_DATE, record)),
            record.offset,
            *(license_ or (None, None, None)),
        ))  # fmt: skip

    def take(self) -> dict[str, Any]:
        """The pairs collected since the last call, as columns of schema.PAIRS."""
        rows, pages, counts = self._rows, self._pages, self._counts
        self._rows, self._pages, self._counts = [], [], []
        self.pairs += len(rows)
        if not rows:
            return {"uid": []}
        columns: dict[str, Any] = dict(zip(FOUND_COLUMNS, zip(*rows, strict=True), strict=True))
        columns["uid"], columns["laion_hash"] = identities(columns["url"], columns["url_normalized"], columns["caption"])
        columns |= {name: pa.repeat(value, len(rows)) for name, value in self._place.items()}
        index = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        for name, column in zip(_PAGE_COLUMNS, zip(*pages, strict=True), strict=True):
            columns[name] = pa.array(column, PAIRS.schema.field(name).type).take(index)
        return columns


_PAGE_COLUMNS = (
    "page_url", "page_http_status", "crawl_date", "record_offset", "license", "license_type", "license_version",
)  # fmt: skip


def _is_metadata(record: Record) -> bool:
    as_written = record.text.find(b"\nWARC-Type: metadata\r\n", record.begin, record.start) >= 0
    return as_written or _METADATA.search(record.text, record.begin, record.start) is not None


def _without_images(record: Record) -> tuple[DropReason, str]:
    if not _is_metadata(record):
        return DropReason.NOT_METADATA, ""
    if record.text.find(HTML, record.start, record.end) >= 0:
        return DropReason.NO_IMAGE_LINK, ""
    if record.text[record.start : record.start + 64].lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{":
        return DropReason.NOT_METADATA, ""
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

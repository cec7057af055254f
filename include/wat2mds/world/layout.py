"""Lays out a world: pages in WAT files, each link with its fate declared where it is made, and keeps count.

In: pages and links as a scene makes them. Out: Pages for ``wat_writer.py`` and the truth for ``expected.py``. Guaranteed: a declared
fate that contradicts what was laid out before (a duplicate of nothing, one uid published twice) raises ValueError.
What does not belong here: which pages there are (``demo_world.py``), what hosts answer (``answers.py``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from wat2mds.drops import DropReason
from wat2mds.identity import normalize_url, uid
from wat2mds.world.expected import ExpectedWat
from wat2mds.world.page import Damage, Link, Page, anchor, head_link, image
from wat2mds.world.wat_writer import RECORDS_A_PAGE, RECORDS_BEFORE_PAGES

_DUPLICATES = (DropReason.DUPLICATE_IN_WAT, DropReason.DUPLICATE_IN_BATCH, DropReason.DUPLICATE_IN_DATASET)
_BETWEEN_PAGES = timedelta(minutes=7)


class WatLayout:
    """One WAT file in the making. ``earlier``: those of its batch before it; ``claimed_before``: uids of batches built before;
    ``shown``: URL and caption of what it publishes."""

    def __init__(self, snapshot: str, segment: str, number: int, start: datetime) -> None:
        self.snapshot = snapshot
        self.segment = segment
        self.wat_file = f"{number:05d}"
        self.earlier: tuple[WatLayout, ...] = ()
        self.claimed_before: frozenset[str] = frozenset()
        self.pages: list[Page] = []
        self.seen: set[str] = set()
        self.shown: list[tuple[str, str]] = []
        self._start = start
        self._counts: Counter[str] = Counter(records=RECORDS_BEFORE_PAGES)
        self._drops: dict[str, Counter[str]] = {}
        self._published: set[str] = set()
        self._drop(DropReason.NOT_METADATA, RECORDS_BEFORE_PAGES)

    def page(self, url: str, title: str, language: str = "en", base: str | None = None) -> PageLayout:
        """A page that shows images; add links, then ``close`` it."""
        return PageLayout(self, Page(url, (), self._start + _BETWEEN_PAGES * len(self.pages), title, language, base))

    def page_without_images(self, url: str, title: str, *links: Link) -> None:
        page = self.page(url, title)
        page.links += links
        self._add(page.finished(), DropReason.NO_IMAGE_LINK)

    def other_type(self, url: str, content_type: str = "application/pdf") -> None:
        """Something fetched that is no page."""
        page = replace(self.page(url, "A document").finished(), content_type=content_type)
        self._add(page, DropReason.NOT_METADATA)

    def damaged_page(self, url: str, damage: Damage, *links: Link) -> None:
        """A page whose WAT record is damaged; all its links are lost with it."""
        page = self.page(url, "A page that cannot be read")
        page.links += links
        self._add(replace(page.finished(), damage=damage), DropReason.BAD_RECORD)

    def expected(self) -> ExpectedWat:
        drops = {stage: dict(sorted(reasons.items())) for stage, reasons in self._drops.items()}
        return ExpectedWat(self.snapshot, self.segment, self.wat_file, dict(self._counts), drops, frozenset(self._published))

    def _add(self, page: Page, reason: DropReason | None) -> None:
        self.pages.append(page)
        self._counts["records"] += RECORDS_A_PAGE
        # The WAT records of a page's request and metadata.
        self._drop(DropReason.NOT_METADATA, RECORDS_A_PAGE - 1)
        if reason is None:
            self._counts["pages"] += 1
        else:
            self._drop(reason)

    def _drop(self, reason: DropReason, times: int = 1) -> None:
        self._drops.setdefault(reason.stage, Counter())[str(reason)] += times

    def _link(self, url: str, caption: str, fate: DropReason | None) -> None:
        """Count a link of a page, which becomes the pair (url, caption) unless extract drops it."""
        self._counts["links"] += 1
        if fate is not None:
            self._drop(fate)
            if fate.stage == "extract":
                return
        self._counts["pairs"] += 1
        key = uid(normalize_url(url), caption)
        self._check(key, url, fate)
        self.seen.add(key)
        if fate in _DUPLICATES:
            return
        self._counts["unique"] += 1
        if fate is None or fate.stage == "filter":
            self._counts["samples"] += 1
        if fate is None:
            self._counts["kept"] += 1
            self._published.add(key)
            self.shown.append((url, caption))

    def _check(self, key: str, url: str, fate: DropReason | None) -> None:
        places = {
            DropReason.DUPLICATE_IN_WAT: key in self.seen,
            DropReason.DUPLICATE_IN_BATCH: any(key in other.seen for other in self.earlier),
            DropReason.DUPLICATE_IN_DATASET: key in self.claimed_before,
        }
        declared = [fate] if fate in _DUPLICATES else []
        if [reason for reason, holds in places.items() if holds] != declared:
            raise ValueError(f"{url} in {self.wat_file} is declared {fate}, but was laid out otherwise before")


@dataclass
class PageLayout:
    """One page in the making."""

    wat: WatLayout
    page: Page
    links: tuple[Link, ...] = ()
    head: tuple[Link, ...] = ()

    def image(
        self,
        href: str,
        alt: str | None,
        fate: DropReason | None = None,
        *,
        url: str | None = None,
        caption: str | None = None,
        title: str | None = None,
    ) -> None:
        """An image link as the page writes it. ``url`` and ``caption``: what it means, where that is not what is written."""
        self.links += (image(href, alt, title),)
        self.wat._link(url or href, caption if caption is not None else alt or "", fate)

    def link(self, url: str, text: str, rel: str | None = None) -> None:
        self.links += (anchor(url, text, rel),)

    def license(self, url: str) -> None:
        """A ``<link rel="license">`` in the head."""
        self.head += (head_link(url, "license"),)

    def finished(self) -> Page:
        return replace(self.page, links=self.links, head_links=self.head)

    def close(self) -> None:
        """The page is whole: put it into its WAT file."""
        self.wat._add(self.finished(), None)

"""The demo world: a small web, two snapshots of it in Common Crawl's format, and the truth about what must be published.

In: a seed and a folder. Out, in the folder: ``crawl/`` (a mirror of Common Crawl, ``mirror.py``), ``web/`` (answers for
``origin.py``), ``expected.json`` (``expected.py``). Guaranteed: the same seed gives the same bytes; the truth is declared where each
link is made and no stage is asked; a folder that is complete is not drawn again.
What does not belong here: the pages (``scenes.py``), running stages over the world.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wat2mds.drops import DropReason
from wat2mds.world import scenes
from wat2mds.world.expected import Expected
from wat2mds.world.layout import WatLayout
from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, write_mirror
from wat2mds.world.origin import AnswerTable, Origin, first_of, folder_source
from wat2mds.world.scenes import Web

# Raised whenever a drawn world would differ: a folder of another version is drawn anew.
WORLD_VERSION = 1
SEED = 2024
# Names and times are Common Crawl's own (collinfo.json); segments are numbered 0, the form's default. The newer one is built first,
# by schedule.
NEWER, OLDER = "CC-MAIN-2024-18", "CC-MAIN-2024-10"
NEWER_SEGMENT, OLDER_SEGMENT = "1712296815919.0", "1707947473347.0"
_TIMES = {
    NEWER: (datetime(2024, 4, 12, 10, 13, 54, tzinfo=UTC), datetime(2024, 4, 25, 16, 2, 16, tzinfo=UTC)),
    OLDER: (datetime(2024, 2, 20, 21, 10, 55, tzinfo=UTC), datetime(2024, 3, 5, 15, 40, 45, tzinfo=UTC)),
}
_WAT, _BATCH, _DATASET = DropReason.DUPLICATE_IN_WAT, DropReason.DUPLICATE_IN_BATCH, DropReason.DUPLICATE_IN_DATASET
_MARKER = "world.json"


@dataclass(frozen=True)
class World:
    """A drawn world. ``crawl`` serves as WAT2MDS_SOURCE, ``collinfo`` as WAT2MDS_COLLINFO, ``origin()`` as download.resolver."""

    folder: Path
    expected: Expected

    @property
    def crawl(self) -> Path:
        return self.folder / "crawl"

    @property
    def collinfo(self) -> Path:
        return self.crawl / "collinfo.json"

    @property
    def web(self) -> Path:
        return self.folder / "web"

    def origin(self, port: int = 0) -> Origin:
        """The world's web, not yet started; the crawl's mirror too, under hosts that the web does not know."""
        return Origin(first_of(AnswerTable.load(self.web), folder_source(self.crawl)), port)


def draw_world(folder: Path, seed: int = SEED, images: int = 0, wrong_share: float = 0.5) -> World:
    """Draw the world into a folder, or open it where it is there already.

    ``images``: so many more in the newer snapshot's first WAT file, ``wrong_share`` of them with the caption of another picture.
    """
    made_of: dict[str, float] = {"seed": seed, "version": WORLD_VERSION}
    if images:
        made_of |= {"images": images, "wrong_share": wrong_share}
    marker = folder / _MARKER
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_of:
        return open_world(folder)
    for part in ("crawl", "web"):
        shutil.rmtree(folder / part, ignore_errors=True)
    marker.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    web = Web(seed)
    newer = _newer(web)
    wrong = round(images * wrong_share)
    scenes.stock(newer[0], web, images - wrong, wrong)
    older = _older(web, newer)
    write_mirror(folder / "crawl", [_snapshot(newer), _snapshot(older)])
    web.table.save(folder / "web")
    Expected(tuple(wat.expected() for wat in (*newer, *older))).save(folder / "expected.json")
    marker.write_text(json.dumps(made_of), encoding="utf-8")
    return open_world(folder)


def open_world(folder: Path) -> World:
    """A world drawn before. Raises FileNotFoundError where there is none."""
    return World(folder, Expected.load(folder / "expected.json"))


def _newer(web: Web) -> list[WatLayout]:
    first, second, third = wats = _wat_files(NEWER, NEWER_SEGMENT)
    _everyday(first, web, "18a", "en", "de", "anchor")
    scenes.forum(first, web, "18a")
    scenes.odd_urls(first, web, "18a")
    scenes.text_only(first, "18a")
    scenes.judged(first, web, "18a")
    scenes.damaged(first, "18a", "cut")

    _everyday(second, web, "18b", "fr", "es", "head")
    scenes.dead_links(second, web, "18b")
    scenes.copies(second, "18b", (first.shown[:4], _BATCH), (second.shown[:2], _WAT))
    scenes.bad_images(second, web, "18b")
    scenes.foreign_captions(second, web, "18b")
    second.other_type("https://files.labor.example.edu/18b/report.pdf")

    _everyday(third, web, "18c", "ru", "ja", "text")
    scenes.opt_outs(third, web, "18c")
    scenes.formats(third, web, "18c")
    scenes.judged(third, web, "18c")
    scenes.copies(third, "18c", (first.shown[-2:], _BATCH), (second.shown[-2:], _BATCH))
    scenes.text_only(third, "18c")
    return wats


def _older(web: Web, newer: list[WatLayout]) -> list[WatLayout]:
    """The older snapshot, built after the newer one: what both hold is the newer one's."""
    first, second, third = wats = _wat_files(OLDER, OLDER_SEGMENT)
    claimed = frozenset().union(*(wat.seen for wat in newer))
    for wat in wats:
        wat.claimed_before = claimed
    _everyday(first, web, "10a", "en", "fr", "anchor")
    scenes.copies(first, "10a", (newer[0].shown[1:6], _DATASET), (newer[2].shown[:3], _DATASET))
    scenes.forum(first, web, "10a")
    scenes.foreign_captions(first, web, "10a")
    first.other_type("https://files.labor.example.edu/10a/feed.xml", "application/rss+xml")
    scenes.damaged(first, "10a", "overwritten")

    _everyday(second, web, "10b", "ja", "en", "head")
    scenes.dead_links(second, web, "10b")
    scenes.opt_outs(second, web, "10b")
    scenes.copies(second, "10b", (newer[1].shown[2:6], _DATASET), (first.shown[:2], _BATCH))
    scenes.judged(second, web, "10b")
    scenes.text_only(second, "10b")

    _everyday(third, web, "10c", "es", "ru", "text")
    scenes.bad_images(third, web, "10c")
    scenes.formats(third, web, "10c")
    scenes.odd_urls(third, web, "10c")
    scenes.copies(third, "10c", (second.shown[-3:], _BATCH), (third.shown[:1], _WAT), (newer[1].shown[-1:], _DATASET))
    scenes.text_only(third, "10c")
    return wats


def _everyday(wat: WatLayout, web: Web, key: str, language: str, other: str, license_link: str) -> None:
    """The pages that every WAT file has."""
    scenes.shop(wat, web, key)
    scenes.gallery(wat, web, key, language, 4)
    scenes.gallery(wat, web, key, other, 3)
    scenes.blog_with_base(wat, web, key, absolute=key.endswith("a"))
    scenes.encyclopedia(wat, web, key, license_link)


def _wat_files(snapshot: str, segment: str) -> list[WatLayout]:
    wats = [WatLayout(snapshot, segment, number, _TIMES[snapshot][0]) for number in range(3)]
    for number, wat in enumerate(wats):
        wat.earlier = tuple(wats[:number])
    return wats


def _snapshot(wats: list[WatLayout]) -> CrawlSnapshot:
    start, end = _TIMES[wats[0].snapshot]
    segment = CrawlSegment(wats[0].segment, start, [wat.pages for wat in wats])
    return CrawlSnapshot(wats[0].snapshot, start, end, [segment])

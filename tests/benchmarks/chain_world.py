"""A small web of real photographs for ``tests.benchmarks.chain``: a segment of two WAT files, and the folders that an nginx serves it from.

In: the photographs and captions under ../shared. Out: ``crawl/``, a mirror of Common Crawl; ``served/<host>/``, the web's files.
Each photograph is there five times: as it is, and as four parts of it, encoded anew; no two images have the same bytes. 200 hosts; 8
photographs a page with captions that people wrote for them (Flickr8k) or that Common Crawl found (Fondant). What a real web has in
shares of the same order: one link in eight is dead; of a hundred images two are web pages and one is cut off; each page shows its
host's logo, half of the pages under a URL with a fragment; icons, images without a caption or with one of two letters; one host in
200 says in robots.txt that nothing of it may be taken. No record is damaged: cc2dataset would lose its whole WAT file. The same
photographs give the same bytes.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image

from tests.wat2mds.world.shared_photographs import flickr_captions, fondant_rows
from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, write_mirror
from wat2mds.world.page import Link, Page, image

SNAPSHOT, SEGMENT, START = "CC-MAIN-2023-50", "1700679099281.0", datetime(2023, 11, 28, 8, 34, 43, tzinfo=UTC)
WAT_FILES, HOSTS, A_PAGE, TIMES = 2, 200, 8, 5
DEAD, NO_IMAGE, CUT_OFF = 0.125, 0.02, 0.01
PAGE_AS_IMAGE = (
    b"<!DOCTYPE html><html><body><h1>Image moved</h1>" + b"<p>Please log in to see this image.</p>" * 150 + b"</body></html>"
)
# Parts of a photograph, as shares of its sides: left, top, right, bottom.
PARTS = ((0.0, 0.0, 0.85, 0.9), (0.12, 0.1, 1.0, 1.0), (0.0, 0.15, 0.9, 1.0), (0.2, 0.0, 1.0, 0.8))


@dataclass(frozen=True)
class World:
    folder: Path
    links: int
    pages: int
    images: int

    @property
    def crawl(self) -> Path:
        return self.folder / "crawl"

    @property
    def served(self) -> Path:
        return self.folder / "served"


def photographs(data: Path) -> Iterator[tuple[bytes, list[str]]]:
    """Each with its captions."""
    for row in fondant_rows(data):
        if isinstance(row.content, bytes) and row.alt:
            yield row.content, [row.alt]
    captions = flickr_captions(data)
    for path in sorted((data / "photos" / "flickr8k-1000").glob("*.jpg")):
        yield path.read_bytes(), captions[path.name]


def part_of(photograph: bytes, part: tuple[float, float, float, float]) -> bytes | None:
    try:
        with Image.open(io.BytesIO(photograph)) as opened:
            width, height = opened.size
            left, top, right, bottom = part
            box = (int(left * width), int(top * height), int(right * width), int(bottom * height))
            out = io.BytesIO()
            opened.convert("RGB").crop(box).save(out, "JPEG", quality=88)
    except (OSError, ValueError):
        return None
    return out.getvalue()


def load_world(folder: Path, data: Path, most: int | None = None) -> World:
    """Written once, then found again. ``most``: of the photographs, to look at a small world."""
    known = folder / "world.json"
    if not known.exists():
        world = write_world(folder, data, most)
        known.write_text(json.dumps({"links": world.links, "pages": world.pages, "images": world.images}))
    return World(folder, **json.loads(known.read_text()))


def write_world(folder: Path, data: Path, most: int | None) -> World:
    chance = random.Random(2023)
    shutil.rmtree(folder, ignore_errors=True)
    shown: list[list[Link]] = [[] for _ in range(HOSTS)]
    found = list(photographs(data))[:most]
    good = 0
    for time in range(TIMES):
        for number, (content, captions) in enumerate(found):
            host, path = (number * TIMES + time) % HOSTS, f"/photographs/{number:05d}-{time}.jpg"
            body = content if time == 0 else part_of(content, PARTS[time - 1])
            shown[host].append(image(path if number % 3 else f"http://{name_of(host)}{path}", captions[time % len(captions)]))
            if body is None or (lot := chance.random()) < DEAD:
                continue
            if lot < DEAD + NO_IMAGE:
                body = PAGE_AS_IMAGE
            elif lot < DEAD + NO_IMAGE + CUT_OFF:
                body = body[: len(body) // 100]
            else:
                good += 1
            put(folder, host, path, body)
    pages = []
    for host, links in enumerate(shown):
        logo = part_of(found[host % len(found)][0], (0.2, 0.2, 0.8, 0.5))
        put(folder, host, "/logo.jpg", logo or PAGE_AS_IMAGE)
        for number, first in enumerate(range(0, len(links), A_PAGE)):
            around = (
                image("/logo.jpg#top" if number % 2 else "/logo.jpg", f"Logo of {name_of(host)}"),
                image("/menu.svg", "the menu's icon"),
                image(f"/pixel-{number}.png"),
                image(f"/advertisement-{number}.jpg", "ad"),
            )
            url = f"http://{name_of(host)}/album/{number:03d}.html"
            shows = (*around, *links[first : first + A_PAGE])
            pages.append(Page(url, shows, START + timedelta(seconds=len(pages)), title=f"Album {number}", language="en"))
    put(folder, HOSTS - 1, "/robots.txt", b"User-agent: *\nDisallow: /\n")
    chance.shuffle(pages)
    share = -(-len(pages) // WAT_FILES)
    segment = CrawlSegment(SEGMENT, START, [pages[n * share : (n + 1) * share] for n in range(WAT_FILES)])
    write_mirror(folder / "crawl", [CrawlSnapshot(SNAPSHOT, START, START + timedelta(days=14), [segment])])
    # The origin gives the mirror under the name that it is asked by.
    (folder / "served" / "127.0.0.1").symlink_to(folder / "crawl")
    return World(folder, sum(len(page.links) for page in pages), len(pages), good)


def name_of(host: int) -> str:
    return f"album{host:03d}.photos.example.org"


def put(folder: Path, host: int, path: str, body: bytes) -> None:
    target = folder / "served" / name_of(host) / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(body)

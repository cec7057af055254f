"""Every robots.txt of the real ones, served over sockets by a host of its own: each fetch ends with the verdict of its host's file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from protego import Protego

from wat2mds.drops import DropReason
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.fetch import Answer as Fetched
from wat2mds.stages.download.fetch import Fetcher
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.turns import Turns
from wat2mds.world.origin import Answer, Origin

PATHS = ("/photos/a.jpg", "/")
THREADS = 16


def verdict(text: bytes, url: str) -> bool:
    """By the parser alone, on the text as RFC 9309 has it: UTF-8, its first 500 KiB; UTF-16 where its first bytes say so."""
    coding = "utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return bool(Protego.parse(text[: 500 * 1024].decode(coding, "replace")).can_fetch(url, "wat2mds"))


@pytest.mark.shared
def test_every_real_robots_txt(shared: Path, tmp_path: Path) -> None:
    files = [p for p in sorted((shared / "robots").rglob("*")) if p.is_file() and p.suffix not in (".csv", ".png", ".json")]
    assert len(files) > 1000
    texts = {f"r{number}.example": path.read_bytes() for number, path in enumerate(files)}

    def source(host: str, target: str) -> Answer | None:
        if target == "/robots.txt":
            return Answer(texts[host])
        return Answer(b"image") if target in PATHS else None

    urls = [f"http://{host}{path}" for path in PATHS for host in texts]
    with Origin(source) as origin:
        settings = DownloadSettings(resolver=origin.address, host_folder=str(tmp_path), threads=THREADS, host_delay=0, retries=0)
        fetcher = Fetcher(settings, "")
        turns: Turns[Fetched] = Turns(fetcher.hosts, settings.host_patience)
        for place, url in enumerate(urls):
            turns.add(place, fetcher.image(url))
        with ThreadPoolExecutor(THREADS) as pool:
            ended = dict(pool.map(lambda _: turns.next(), urls))
        log = list(origin.log)

    allowed = {}
    for place, url in enumerate(urls):
        found = ended[place]
        assert not isinstance(found, Exception) or (isinstance(found, Refused) and found.reason is DropReason.ROBOTS), (
            url,
            found,
        )
        allowed[url] = not isinstance(found, Exception)
    assert allowed == {url: verdict(texts[url.split("/")[2]], url) for url in urls}
    assert 0.5 < sum(allowed.values()) / len(allowed) < 1
    asked = [(access.host, access.target) for access in log]
    assert sorted(host for host, target in asked if target == "/robots.txt") == sorted(texts)
    assert {f"http://{host}{target}" for host, target in asked if target in PATHS} == {url for url in urls if allowed[url]}

"""What sites say: X-Robots-Tag with its sections, tdm-reservation, robots.txt by RFC 9309."""

from __future__ import annotations

from pathlib import Path

import pytest
from protego import Protego

from wat2mds.drops import DropReason
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.robots import MAX_ROBOTS_BYTES, RobotsTexts, parse, tdm_reserved, x_robots_refusal


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["all"], None),
        (["nofollow, noarchive"], None),
        (["wat2mds: noai"], "noai"),
        (["WAT2MDS: nofollow, noindex"], "noindex"),
        (["otherbot: noai"], None),
        (["otherbot: nofollow, noindex"], None),
        (["otherbot: noindex, wat2mds: noai"], "noai"),
        (["noai, otherbot: all"], "noai"),
        (["otherbot: noai", "noimageai"], "noimageai"),
        (["*: noai"], "noai"),
        (["unavailable_after: Friday, 25 Jun 2010 15:00:00 GMT, noai"], "noai"),
        (["max-image-preview: large, noindex"], "noindex"),
        (["max-snippet: 20"], None),
        (["noaiming"], None),
        (["", ",,", ":"], None),
    ],
)
def test_x_robots_tag(headers: list[str], refused: str | None) -> None:
    assert x_robots_refusal(headers) == refused


@pytest.mark.parametrize(
    ("headers", "reserved"), [([], False), (["1"], True), ([" 1 "], True), (["0"], False), (["0", "1"], True)]
)
def test_tdm_reservation(headers: list[str], reserved: bool) -> None:
    assert tdm_reserved(headers) is reserved


def rules(status: int, text: str = "") -> RobotsTexts:
    return RobotsTexts(lambda _: (status, text.encode()), 2)


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("User-agent: *\nDisallow: /private/", "/private/a.jpg", False),
        ("User-agent: *\nDisallow: /private/", "/a.jpg", True),
        ("User-agent: wat2mds\nDisallow: /\n\nUser-agent: *\nDisallow:", "/a.jpg", False),
        ("User-agent: otherbot\nDisallow: /", "/a.jpg", True),
        ("User-agent: WAT2MDS\nAllow: /a\nDisallow: /", "/a.jpg", True),
        ("User-agent: *\nDisallow: /*.jpg$", "/a.jpg", False),
        ("<html>not a robots.txt</html>", "/a.jpg", True),
        ("\ufeffUser-agent: *\nDisallow: /", "/a.jpg", False),
    ],
)
def test_robots_txt(text: str, path: str, allowed: bool) -> None:
    texts = rules(200, text)
    if allowed:
        texts.check("http://a.example", f"http://a.example{path}", 5)
    else:
        with pytest.raises(Refused) as refused:
            texts.check("http://a.example", f"http://a.example{path}", 5)
        assert refused.value.reason is DropReason.ROBOTS


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_robots_txt_4xx_allows(status: int) -> None:
    rules(status).check("http://a.example", "http://a.example/a.jpg", 5)


@pytest.mark.parametrize("status", [500, 503])
def test_robots_txt_5xx_disallows(status: int) -> None:
    with pytest.raises(Refused) as refused:
        rules(status).check("http://a.example", "http://a.example/a.jpg", 5)
    assert refused.value.reason is DropReason.ROBOTS


def test_each_host_is_asked_once() -> None:
    asked = []

    def fetch(url: str) -> tuple[int, bytes]:
        asked.append(url)
        return 404, b""

    texts = RobotsTexts(fetch, 2)
    for _ in range(3):
        for host in ("a.example", "b.example"):
            texts.check(f"http://{host}", f"http://{host}/x.jpg", 5)
    assert asked == ["http://a.example/robots.txt", "http://b.example/robots.txt"]


def test_rules_beyond_500_kib_are_not_read() -> None:
    text = b"User-agent: *\n" + b"# filler\n" * (MAX_ROBOTS_BYTES // 9) + b"\nDisallow: /\n"
    rules = parse(text)
    assert isinstance(rules, Protego)
    assert rules.can_fetch("http://a.example/a.jpg", "wat2mds")


@pytest.mark.shared
def test_real_robots_texts_are_parsed(shared: Path) -> None:
    texts = [path for folder in ("protego", "crawler-commons", "reppy") for path in (shared / "robots" / folder).rglob("*")]
    found = [parse(path.read_bytes()) for path in texts if path.is_file()]
    assert len(found) > 30
    assert all(isinstance(rules, Protego) for rules in found)

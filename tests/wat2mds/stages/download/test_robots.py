"""What sites say: X-Robots-Tag with its sections, tdm-reservation, robots.txt by RFC 9309."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from protego import Protego

from wat2mds.drops import DropReason
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.robots import (
    MAX_ROBOTS_BYTES,
    obey_robots,
    parse,
    parse_tdm_rules,
    robots_rules,
    tdm_file_reserves,
    tdm_reserved,
    x_robots_refusal,
)
from wat2mds.stages.download.sites import SiteText


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


def check(status: int | None, text: str = "", path: str = "/a.jpg") -> None:
    obey_robots(robots_rules(SiteText(status, text.encode(), None, "", 0)), f"http://a.example{path}")


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
    if allowed:
        check(200, text, path)
    else:
        with pytest.raises(Refused) as refused:
            check(200, text, path)
        assert refused.value.reason is DropReason.ROBOTS


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_robots_txt_4xx_allows(status: int) -> None:
    check(status)


@pytest.mark.parametrize("status", [500, 503])
def test_robots_txt_5xx_disallows(status: int) -> None:
    with pytest.raises(Refused) as refused:
        check(status)
    assert refused.value.reason is DropReason.ROBOTS_UNAVAILABLE
    assert not refused.value.at_once


def test_rules_beyond_500_kib_are_not_read() -> None:
    text = b"User-agent: *\n" + b"# filler\n" * (MAX_ROBOTS_BYTES // 9) + b"\nDisallow: /\n"
    rules = parse(text)
    assert isinstance(rules, Protego)
    assert rules.can_fetch("http://a.example/a.jpg", "wat2mds")


@pytest.mark.parametrize(
    ("text", "path", "reserved"),
    [
        ('[{"location": "/", "tdm-reservation": 1}]', "/a/b.jpg", True),
        ('[{"location": "*", "tdm-reservation": 1, "tdm-policy": "https://a.example/policy.json"}]', "/a.jpg", True),
        ('[{"location": "/", "tdm-reservation": 0}]', "/a.jpg", False),
        ('[{"location": "/photos/*", "tdm-reservation": 1}]', "/photos/a.jpg", True),
        ('[{"location": "/photos/*", "tdm-reservation": 1}]', "/other/a.jpg", False),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}]', "/a/b.jpg", True),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}]', "/a.jpg.jpg", True),
        ('[{"location": "/*.jpg$", "tdm-reservation": 1}]', "/a.jpg?x=1", False),
        ('[{"location": "/a$", "tdm-reservation": 1}]', "/ab", False),
        ('[{"location": "/a%20b/", "tdm-reservation": 1}]', "/a b/c.jpg", True),
        ('[{"location": "/a/*/c/*.png", "tdm-reservation": 1}]', "/a/b/c/d.png", True),
        ('[{"location": "/(a+)+", "tdm-reservation": 1}]', "/aaaa", False),
        ('[{"location": "/open/", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]', "/open/a.jpg", False),
        ('[{"location": "/", "tdm-reservation": 0}, {"location": "/closed/", "tdm-reservation": 1}]', "/closed/a.jpg", True),
        ('\ufeff[{"location": "/", "tdm-reservation": "1"}]', "/a.jpg", True),
        ('{"location": "/", "tdm-reservation": 1}', "/a.jpg", True),
        ('[7, {"location": 3}, {"tdm-reservation": 1}, {"location": "/", "tdm-reservation": 1}]', "/a.jpg", True),
        ("<html>not found</html>", "/a.jpg", False),
        ("[" * 100_000, "/a.jpg", False),
        ("", "/a.jpg", False),
    ],
)
def test_tdmrep_json(text: str, path: str, reserved: bool) -> None:
    assert tdm_file_reserves(parse_tdm_rules(text.encode()), f"https://a.example{path}") is reserved


def test_a_location_made_to_be_slow() -> None:
    rules = parse_tdm_rules(json.dumps([{"location": "/" + "*a" * 2000 + "$", "tdm-reservation": 1}]).encode())
    assert not tdm_file_reserves(rules, "https://a.example/" + "a" * 1999 + "b")


# Verdicts by RFC 9309: file, agent, path, whether it may be fetched.
VERDICTS = [
    ("merge-rules.txt", "testy", "/a", False),
    ("merge-rules.txt", "wget", "/foo/bar", True),
    ("merge-rules.txt", "wget", "/tmp/bar", False),
    ("merge-rules.txt", "other", "/foo/bar", False),
    ("precedence-of-rules.txt", "testy", "/foo/bar", True),
    ("precedence-of-rules.txt", "testy", "/foo/baz", False),
    ("precedence-of-rules.txt", "wget", "/foo", True),
    ("rfc9309-example-longest-match-robots.txt", "foobot", "/example/page/", True),
    ("rfc9309-example-longest-match-robots.txt", "foobot", "/example/page/disallowed.gif", False),
    ("rfc9309-example-rule-group-merging.txt", "ExampleBot", "/baz", False),
    ("rfc9309-example-rule-group-merging.txt", "ExampleBot", "/foo", False),
    ("rfc9309-example-rule-group-merging.txt", "BazBot", "/foo", True),
    ("rfc9309-example-simple-robots.txt", "foobot", "/example/allowed.gif", True),
    ("rfc9309-example-simple-robots.txt", "foobot", "/other", False),
    ("rfc9309-example-simple-robots.txt", "barbot", "/example/page.html", False),
    ("rfc9309-example-simple-robots.txt", "quxbot", "/example/page.html", True),
    ("rfc9309-example-simple-robots.txt", "wat2mds", "/a.gif", False),
    ("rfc9309-example-simple-robots.txt", "wat2mds", "/publications/", True),
    ("robots-with-utf8-bom.txt", "wat2mds", "/profile", False),
    ("robots-with-utf16be-bom.txt", "wat2mds", "/profile", False),
    ("robots-with-utf16le-bom.txt", "wat2mds", "/profile", False),
    ("robots-with-utf16le-bom.txt", "wat2mds", "/a.jpg", True),
    ("extension-robots.txt", "wat2mds", "/private/", True),
    ("extension-robots.txt", "mybot", "/private/", False),
    ("extensions-group-merging.txt", "wat2mds", "/a.jpg", False),
    ("extensions-group-merging.txt", "wat2mds", "/llms.txt", True),
    ("relative-sitemap-robots.txt", "wat2mds", "/cache/a.jpg", False),
    ("malformed-path.txt", "wat2mds", "/wiki/a.jpg", True),
    ("sitemap-robots.txt", "wat2mds", "/a.jpg", True),
    ("dos-line-endings.txt", "wat2mds", "/a.jpg", True),
    ("format-errors-robots.txt", "bot3", "/a.jpg", False),
    ("format-errors-robots.txt", "bot3", "/whitespace-before-colon", True),
    ("astore.amazon.com-robots.txt", "wat2mds", "/a.jpg", True),
]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "agent", "path", "allowed"), VERDICTS)
def test_verdicts_on_edge_cases(shared: Path, name: str, agent: str, path: str, allowed: bool) -> None:
    rules = parse((shared / "robots" / "crawler-commons" / name).read_bytes())
    assert isinstance(rules, Protego)
    assert rules.can_fetch(f"http://a.example{path}", agent) is allowed


@pytest.mark.shared
def test_crawlers_that_are_named_are_refused_and_others_are_not(shared: Path) -> None:
    rules = parse((shared / "robots" / "ai.robots.txt" / "robots.txt").read_bytes())
    assert isinstance(rules, Protego)
    assert not rules.can_fetch("http://a.example/a.jpg", "GPTBot")
    assert rules.can_fetch("http://a.example/a.jpg", "wat2mds")


def _states_a_ban(text: str) -> bool:
    """Read without a parser: the lines of the first group for every agent, where a file has just one and it allows nothing."""
    lines = [line.split("#")[0].strip().lower() for line in text.splitlines()]
    fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines if ":" in line]
    agents = [value for name, value in fields if name == "user-agent"]
    return agents == ["*"] and ("disallow", "/") in fields and not any(name == "allow" for name, _ in fields)


@pytest.mark.shared
def test_real_robots_texts_have_a_verdict(shared: Path) -> None:
    """About 1,000 as hosts sent them, error pages among them; what can be told without a parser is as told."""
    texts = [p for folder in ("protego", "crawler-commons", "reppy") for p in sorted((shared / "robots" / folder).rglob("*"))]
    verdicts = {}
    for path in texts:
        if path.is_file():
            rules = parse(path.read_bytes())
            assert isinstance(rules, Protego), path.name
            verdicts[path] = rules.can_fetch("http://a.example/photos/a.jpg", "wat2mds")
    assert len(verdicts) > 1000
    for path, allowed in verdicts.items():
        text = path.read_bytes().decode("utf-8-sig", "replace")
        if _states_a_ban(text):
            assert not allowed, path.name
        if "disallow" not in text.replace("\0", "").lower():
            assert allowed, path.name
    assert 0.8 < sum(verdicts.values()) / len(verdicts) < 1

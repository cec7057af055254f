"""What a site says about being crawled: robots.txt, X-Robots-Tag, tdm-reservation, tdmrep.json.

Pure functions on texts and headers. What does not belong here: how the files come here and how long they are kept (``sites.py``), and
refusing images for other reasons.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from protego import Protego

from wat2mds.drops import DropReason
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.sites import SiteText

AGENT = "wat2mds"  # the product token that groups of robots.txt and sections of X-Robots-Tag may name
MAX_ROBOTS_BYTES = 500 * 1024  # RFC 9309 2.5: at least 500 KiB are parsed; what follows is not
_NO_RULES = Protego.parse("")
# "none" stands for "noindex, nofollow" in the documents of the search engines that defined the header.
_REFUSING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives that hold a colon themselves; any other word before a colon names an agent.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT_NAME = re.compile(r"[a-z][a-z0-9_.*-]*|\*")


def x_robots_refusal(headers: Iterable[str], agent: str = AGENT) -> str | None:
    """The directive that refuses, among all X-Robots-Tag headers of an answer.

    ``noai, otherbot: noindex, nofollow``: an agent's name opens a section that lasts to the header's end or to the next name.
    """
    for header in headers:
        section = "*"
        for part in header.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            directive = name.strip()
            if colon and directive not in _VALUED and _AGENT_NAME.fullmatch(directive):
                section, directive = directive, rest.strip()
            if section in ("*", agent) and directive in _REFUSING:
                return directive
    return None


def tdm_reserved(headers: Iterable[str]) -> bool:
    """TDM Reservation Protocol (W3C community report, 2024), the HTTP header: 1 reserves the rights."""
    return any(value.strip() == "1" for value in headers)


def robots_rules(text: SiteText) -> Protego | Refused:
    """RFC 9309 2.3.1: 4xx and too many redirects mean no rules; 5xx and unreachable mean that all is disallowed."""
    status = text.status
    if status is None:
        if text.reason is DropReason.REDIRECTS:
            return _NO_RULES
        # A host that cannot be reached is counted for that, not as one that forbids.
        return Refused(text.reason or DropReason.HTTP_ERROR, f"robots.txt: {text.message}")
    if 200 <= status < 300:
        return parse(text.body)
    if 400 <= status < 500:
        return _NO_RULES
    return Refused(DropReason.ROBOTS_UNAVAILABLE, f"robots.txt is unavailable: HTTP {status}", status=status)


def obey_robots(rules: Protego | Refused, url: str) -> None:
    """Raises Refused where the rules of its site disallow the URL, or cannot be known."""
    if isinstance(rules, Refused):
        # The answer is kept for an hour: what failed is not asked again within the task.
        raise Refused(rules.reason, str(rules), status=rules.status, later=True)
    if not rules.can_fetch(url, AGENT):
        raise Refused(DropReason.ROBOTS, "disallowed by robots.txt")


def parse(text: bytes) -> Protego | Refused:
    """The first 500 KiB of a robots.txt; a text that no parser takes disallows, as one that is unavailable does.

    UTF-8 by RFC 9309 2.3; UTF-16 where the text begins with its mark.
    """
    coding = "utf-16" if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return Protego.parse(text[:MAX_ROBOTS_BYTES].decode(coding, "replace"))
    except Exception as error:
        return Refused(DropReason.ROBOTS, f"robots.txt cannot be parsed: {error}")


@dataclass(frozen=True)
class TdmRule:
    """One entry of tdmrep.json: the paths that it holds for, and whether it reserves."""

    paths: re.Pattern[str]
    length: int  # characters of its location
    reserved: bool


def parse_tdm_rules(text: bytes) -> tuple[TdmRule, ...]:
    """The entries of a tdmrep.json that make sense, in their order; none where it is no such file.

    TDM Reservation Protocol (W3C community report, 2024), "TDM file on the origin server": a list of objects with ``location`` (a
    path, in which ``*`` stands for any characters and a last ``$`` for the end), ``tdm-reservation`` (0 or 1) and ``tdm-policy``.
    """
    try:
        entries = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return ()
    rules = []
    for entry in entries if isinstance(entries, list) else [entries]:
        location = entry.get("location") if isinstance(entry, dict) else None
        if isinstance(location, str) and location:
            rules.append(TdmRule(_paths(location), len(location), str(entry.get("tdm-reservation")).strip() == "1"))
    return tuple(rules)


def _paths(location: str) -> re.Pattern[str]:
    bounded = location.endswith("$")
    first, *others = (re.escape(part) for part in re.split(r"\*+", unquote(location[:-1] if bounded else location)))
    # An atomic group is never tried again, so that no pattern takes longer than a few passes over the URL.
    last = f".*{others.pop()}" if bounded and others else ""
    runs = "".join(f"(?>.*?{part})" for part in others)
    return re.compile(first + runs + last + (r"\Z" if bounded else ""), re.DOTALL)


def tdm_file_reserves(rules: Iterable[TdmRule], url: str) -> bool:
    """Whether the entries that hold for the URL's path reserve its rights.

    Where several hold, the first and the one with the longest location are looked at, and one that reserves is enough: what is
    called the more specific differs between readers, and a site's "no" must not be lost to that.
    """
    parts = urlsplit(url)
    target = unquote(parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    held = [rule for rule in rules if rule.paths.match(target)]
    return bool(held) and (held[0].reserved or max(held, key=lambda rule: rule.length).reserved)


def tdm_rules(text: SiteText) -> tuple[TdmRule, ...]:
    """A file that is not there reserves nothing, whatever the reason: the protocol knows no other default."""
    return parse_tdm_rules(text.body) if text.status == 200 else ()


def obey_tdm_rules(rules: tuple[TdmRule, ...], url: str) -> None:
    """Raises Refused where the file of its site reserves text and data mining for the URL."""
    if rules and tdm_file_reserves(rules, url):
        raise Refused(DropReason.TDM_RESERVED, "text and data mining reserved by /.well-known/tdmrep.json")

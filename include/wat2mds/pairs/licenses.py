"""Creative Commons links of a page. The licence is the page's, not the image's; the order of links does not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MARKER = b"creativecommons.org"
_DOMAIN = MARKER.decode()
_LICENSE = re.compile(
    r"^(?:https?:)?//(?:www\.)?creativecommons\.org/(?:licenses/(?P<type>[a-z][a-z-]*)|publicdomain/(?P<domain>zero|mark))"
    r"(?:/(?P<version>\d\.\d))?(?:[/?#]|$)",
    re.IGNORECASE,
)
_PUBLIC_DOMAIN = {"zero": "cc0", "mark": "pdm"}


class License(NamedTuple):
    """Link as found, canonical type (``by-sa``, ``cc0``, ``pdm``), version."""

    url: str
    type: str
    version: str | None


def may_be_license(url: str) -> bool:
    """Whether it is worth asking for a licence: most links of a page are not."""
    return _DOMAIN in url.lower()


def find_license(links: Iterable[tuple[str, str | None]]) -> License | None:
    """The page's licence among (URL, rel) links: one with ``rel=license`` first, else the smallest by (type, version, URL)."""
    found = []
    for url, rel in links:
        match = _LICENSE.match(url.strip())
        if match:
            kind = (match["type"] or _PUBLIC_DOMAIN[match["domain"].lower()]).lower()
            declared = "license" in (rel or "").lower().split()
            found.append((not declared, kind, match["version"] or "", url.strip()))
    if not found:
        return None
    _, kind, version, url = min(found)
    return License(url, kind, version or None)

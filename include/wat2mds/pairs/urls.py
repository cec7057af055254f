"""Where a link points: absolute URLs as a browser would find them, and the hosts that are public.

In: a page's URL, its ``<base>`` and a link's URL. Out: the absolute URL. Guaranteed: the short ways give what ``urljoin`` gives
(a property test holds them to it). What does not belong here: the URL for identity (``identity.py``).
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urljoin

import numpy as np
import pyarrow as pa
import tldextract

from wat2mds.pairs.columns import like

_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=False)
_WHITE = re.compile(r"[\s\x1c-\x1f]")
# Without dot segments, parameters, fragments and empty queries, joining is putting together.
_CHARACTERS = r"[^/?#;\\\x00-\x1f]"
_NO_DOTS = r"(?!\.{1,2}(?:[/?]|$))"
_QUERY = r"(?:\?[^#;\x00-\x1f]+)?"
_PATH = rf"{_NO_DOTS}{_CHARACTERS}*(?:/{_NO_DOTS}{_CHARACTERS}*)*{_QUERY}"
_PLAIN_BASE = re.compile(rf"(https?://[A-Za-z0-9.:-]+)(/(?:{_NO_DOTS}{_CHARACTERS}+/)*){_NO_DOTS}{_CHARACTERS}*(?:\?[^#\s]*)?")
_FROM_ROOT = re.compile(rf"/(?!/){_PATH}")
_FROM_FOLDER = re.compile(rf"(?! )((?:\.\.?/)*)(?![^/?]*:)({_NO_DOTS}{_CHARACTERS}+(?:/{_NO_DOTS}{_CHARACTERS}+)*/?{_QUERY})")
# For many at once (RE2): URLs that stay as they are, and ones from the root or folder for which the same holds.
_ABSOLUTE = r"^https?://[!-~]*$"
_SEGMENT = r"[A-Za-z0-9_~!$&'()*+,=@%-](?:[A-Za-z0-9._~!$&'()*+,=@% -]*[A-Za-z0-9._~!$&'()*+,=@%-])?"
_RELATIVE = rf"^(?:/|\./|//[A-Za-z0-9.-]+/)?(?:{_SEGMENT}/)*{_SEGMENT}(?:\?[!-\"$-:<-~]+)?$"
_FROM_SCHEME = re.compile(rf"//[A-Za-z0-9.-]+/{_PATH}")


class Base:
    """What the URLs of one page are joined to."""

    def __init__(self, page_url: str, base: str | None, *, any_scheme: bool = False) -> None:
        self.url = page_url
        if base and base.strip():
            try:
                joined = urljoin(page_url, base if any_scheme else base.strip())
            except ValueError:
                joined = page_url
            if any_scheme or joined[:5].lower() in ("http:", "https"):
                self.url = joined
        self._simple = self.url.startswith(("http://", "https://"))
        self._prefixes: dict[str, str] = {}

    def join(self, url: str) -> str:
        """``urljoin``; what it refuses stays as it is."""
        if url.startswith("data:"):
            return url
        try:
            if self._simple:
                if _FROM_ROOT.fullmatch(url):
                    return self._prefix("/") + url[1:]
                relative = _FROM_FOLDER.fullmatch(url)
                if relative:
                    return self._prefix(relative[1]) + relative[2]
                if _FROM_SCHEME.fullmatch(url):
                    return self.url.partition("/")[0] + url
            return urljoin(self.url, url)
        except ValueError:
            return url

    def join_plain(self, url: str) -> str:
        """``join`` of one that is like ``_RELATIVE``."""
        if not self._simple:
            return self.join(url)
        if url.startswith("//"):
            return self.url.partition("/")[0] + url
        cut = 1 if url[0] == "/" else 2 if url.startswith("./") else 0
        return self._prefix(url[:cut]) + url[cut:]

    def _prefix(self, path: str) -> str:
        """What stands before a path's end once ``path`` is joined: ``../`` of http://a/b/c/d is http://a/b/."""
        found = self._prefixes.get(path)
        if found is None:
            plain = _PLAIN_BASE.fullmatch(self.url) if path in ("", "/") else None
            found = plain[1] + ("/" if path else plain[2]) if plain else urljoin(self.url, path + "x")[:-1]
            self._prefixes[path] = found
        return found


def resolve(url: str, base: Base) -> str:
    """An absolute URL, as a browser would find it: stripped, ``&amp;`` decoded, joined to the page's base."""
    if (" " in url or not url.isprintable()) and _WHITE.search(url):  # all white space else is not printable
        url = url.strip().translate({9: None, 10: None, 13: None})
    if "&amp;" in url:
        url = url.replace("&amp;", "&")
    if url.startswith(("http://", "https://")) or url[:8].lower().startswith(("http://", "https://")):
        return url
    return base.join(url)


def resolve_all(urls: list[str], bases: list[Base]) -> list[str]:
    """``resolve`` of each."""
    column = pa.array(urls, pa.string())
    entities = like(column, "&amp;")
    stays, plain = like(column, _ABSOLUTE) & ~entities, like(column, _RELATIVE) & ~entities
    resolved = list(urls)
    for i in np.flatnonzero(plain).tolist():
        resolved[i] = bases[i].join_plain(urls[i])
    for i in np.flatnonzero(~(stays | plain)).tolist():
        resolved[i] = resolve(urls[i], bases[i])
    return resolved


def join_all(urls: list[str], bases: list[Base]) -> list[str]:
    """``Base.join`` of each that is not absolute, none otherwise: no white space is stripped, no entity decoded."""
    joined = list(urls)
    relative = [i for i, url in enumerate(urls) if not url.startswith(("http://", "https://"))]
    for i, plain in zip(relative, like([urls[i] for i in relative], _RELATIVE).tolist(), strict=True):
        joined[i] = bases[i].join_plain(urls[i]) if plain else bases[i].join(urls[i])
    return joined


@lru_cache(maxsize=65536)
def is_public_name(host: str) -> bool:
    """Whether a host is a name below a public suffix: no literal address, no localhost, no internal name."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    found = _suffixes(name)
    return bool(found.suffix and found.domain) and not found.ipv4 and not found.ipv6

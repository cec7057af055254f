"""Which URL and caption make a pair, and why others do not: the rules that ``extract`` and ``import`` hold in common.

Captions of 5 to 2,000 characters (LAION-400M), URLs of at most 2,000; public host names only. In: a link's URL, the page's base, a
cleaned caption. Out: a pair's identity, or the one drop reason. What does not belong here: where URL and text were found.
"""

from __future__ import annotations

from typing import NamedTuple

from wat2mds.drops import DropReason
from wat2mds.identity import laion_hash, normalize_url, uid
from wat2mds.pairs.urls import Base, is_public_name, resolve
from wat2mds.stage_settings import ExtractSettings


class Pair(NamedTuple):
    """A pair's identity; the names are columns of schema.PAIRS."""

    uid: str
    laion_hash: int
    url: str
    url_normalized: str
    caption: str


def make_pair(url: str | None, base: Base, caption: str, settings: ExtractSettings) -> Pair | DropReason:
    """The pair of a URL, resolved against ``base``, and a caption, cleaned (``captions.clean_caption``)."""
    found = admit(url, base, caption, settings)
    if isinstance(found, DropReason):
        return found
    absolute, normalized = found
    return Pair(uid(normalized, caption), laion_hash(absolute, caption), absolute, normalized, caption)


def admit(url: str | None, base: Base, caption: str, settings: ExtractSettings) -> tuple[str, str] | DropReason:
    """The absolute URL and the one for identity, of what makes a pair; ``make_pair`` without the hashes."""
    if not url or not url.strip():
        return DropReason.NO_URL
    if not caption:
        return DropReason.NO_CAPTION
    if len(caption) < settings.min_caption_chars:
        return DropReason.SHORT_CAPTION
    if len(caption) > settings.max_caption_chars:
        return DropReason.LONG_CAPTION
    url = resolve(url, base)
    if not url.startswith(("http://", "https://")):
        scheme, colon, _ = url.partition(":")
        if scheme.lower() not in ("http", "https"):
            return DropReason.DATA_URL if colon and scheme.isalpha() else DropReason.BAD_URL
    if len(url) > settings.max_url_chars:
        return DropReason.LONG_URL
    try:
        normalized = normalize_url(url)
        host = normalized.split("/", 3)[2]
    except (ValueError, IndexError):
        return DropReason.BAD_URL
    path = normalized.partition("?")[0] if "?" in normalized else normalized
    if path.lower().endswith(settings.unwanted_suffixes):
        return DropReason.UNWANTED_TYPE
    if not is_public_name(host):
        return DropReason.PRIVATE_HOST
    return url, normalized

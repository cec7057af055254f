"""Which URL and caption make a pair, and why others do not: the rules that ``extract`` and ``import`` hold in common.

Captions of 5 to 2,000 characters (LAION-400M), URLs of at most 2,000; public host names only. In: a link's URL, the page's base, a
cleaned caption. Out: a pair's identity, or the one drop reason. What does not belong here: where URL and text were found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from wat2mds.drops import DropReason
from wat2mds.identity import NORMAL_URL, laion_hash, normalize_url, uid
from wat2mds.pairs.columns import like
from wat2mds.pairs.urls import Base, is_public_name, resolve, resolve_all
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
    return admit_absolute(resolve(url, base), settings)


def admit_absolute(url: str, settings: ExtractSettings) -> tuple[str, str] | DropReason:
    """``admit`` of what is resolved, with a caption of admissible length."""
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


def admit_all(
    urls: Sequence[str | None], bases: Sequence[Base], captions: Sequence[str], settings: ExtractSettings
) -> list[tuple[str, str] | DropReason]:
    """``admit`` of each; those that it is bound to admit as they stand are found together."""
    least, most = settings.min_caption_chars, settings.max_caption_chars
    found: list[Any] = [
        None if url and least <= len(text) <= most and url.strip() else admit(url, base, text, settings)
        for url, base, text in zip(urls, bases, captions, strict=True)
    ]
    likely = [(i, url) for i, (url, made) in enumerate(zip(urls, found, strict=True)) if url and made is None]
    resolved = resolve_all([url for _, url in likely], [bases[i] for i, _ in likely])
    for (i, _), url, plain in zip(likely, resolved, _plain(resolved, settings), strict=True):
        found[i] = (url, url) if plain else admit_absolute(url, settings)
    return found


def _plain(urls: list[str], settings: ExtractSettings) -> list[bool]:
    """Which absolute URLs are normal, of admissible length, on public hosts, and with no suffix that could be unwanted."""
    column = pa.array(urls, pa.string())
    normal = like(column, NORMAL_URL) & (pc.binary_length(column).to_numpy() <= settings.max_url_chars)
    if settings.unwanted_suffixes:
        normal &= ~like(column, rf"(?i)^[^?]*(?:{'|'.join(map(re.escape, settings.unwanted_suffixes))})(?:\?|$)")
    return [
        bool(is_normal) and is_public_name(url.split("/", 3)[2]) for is_normal, url in zip(normal.tolist(), urls, strict=True)
    ]

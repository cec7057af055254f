"""What a WAT record's JSON says of a page: where it was, its ``<base>``, its image links, its links for the licence.

In: the block of a metadata record. Out: a Page; ValueError for what is no JSON object. Guaranteed: odd types (numbers for URLs, lists
for headers since December 2024, invalid UTF-8) are made to fit or left out, they never cost the page. What does not belong here:
which links count (``pairs.py``).

Two ways, one result: nearly every record is as Common Crawl's extractor writes it, with flat link objects, so those that are images
are cut out of the bytes and nothing else is decoded. Where that does not give valid JSON, all of the record is.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from stringzilla import find

from wat2mds.pairs.licenses import MARKER, may_be_license

IMAGE_LINK = b'"IMG@/src"'
_BEFORE_IMAGE = b'{"path":'  # a link begins with its path; one that does not has the long way tell
# Objects that are links wherever they stand; what names Creative Commons elsewhere, as a script or a meta tag, has the long way tell.
_MAY_NAME_LICENSE = (b'{"path":"A@/href"', b'{"path":"LINK@/href"', b'{"path":"IMG@/src"')
_OPENS, _CLOSES = b"{}"
HTML = b'"HTML-Metadata"'
_HEADER = b'"WARC-Header-Metadata":'
_STATUS = b'"Response-Message":'
_IMAGE_PATH = "IMG@/src"


class Link(msgspec.Struct, gc=False):
    """One link of a page; an image where ``path`` is IMG@/src."""

    path: str = ""
    url: str | None = None
    alt: str | None = None
    title: str | None = None
    rel: str | None = None


class Page(msgspec.Struct, gc=False):
    """A page with its image links. ``license_links`` are (URL, rel) of those that name Creative Commons."""

    images: list[Link]
    url: str | None = None
    date: str | None = None
    status: str | None = None
    base: str | None = None
    license_links: list[tuple[str, str | None]] = []


class _Head(msgspec.Struct, rename={"base": "Base", "links": "Link"}):
    base: str | None = None
    links: list[Link] | None = None


class _Html(msgspec.Struct, rename={"links": "Links", "head": "Head"}):
    links: list[Link] | None = None
    head: _Head | None = None


class _Status(msgspec.Struct, rename={"code": "Status"}):
    code: str | None = None


class _Response(msgspec.Struct, rename={"html": "HTML-Metadata", "status": "Response-Message"}):
    html: _Html | None = None
    status: _Status | None = None


class _Payload(msgspec.Struct, rename={"response": "HTTP-Response-Metadata"}):
    response: _Response | None = None


class _Header(msgspec.Struct, rename={"uri": "WARC-Target-URI", "date": "WARC-Date"}):
    uri: str | None = None
    date: str | None = None


class _Envelope(msgspec.Struct, rename={"payload": "Payload-Metadata", "header": "WARC-Header-Metadata"}):
    payload: _Payload | None = None
    header: _Header | None = None


class _Wat(msgspec.Struct, rename={"envelope": "Envelope"}):
    envelope: _Envelope | None = None


_links = msgspec.json.Decoder(list[Link])
_header = msgspec.json.Decoder(_Header)
_status = msgspec.json.Decoder(_Status)
_strict = msgspec.json.Decoder(_Wat)


def read_page(text: bytes | bytearray, start: int, end: int, salvage: bool = True) -> Page | None:
    """The page of the block ``text[start:end]``, or None where it has no image link. Raises ValueError or RecursionError for damaged
    JSON. Without ``salvage`` what is not valid as it stands is damaged, as it is to cc2dataset.
    """
    page = _cut_page(text, start, end)
    if page is not None:
        return page if page.images else None
    data = text[start:end].strip() if salvage else text[start:end]
    try:
        wat = _strict.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if not salvage:
            raise
        decoded = data.decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
        # Old tools let the JSON run past Content-Length; what follows a whole object is not looked at.
        found, _ = json.JSONDecoder(strict=False).raw_decode(decoded)
        if not isinstance(found, dict):
            raise ValueError("the record's block is not a JSON object") from None
        wat = msgspec.convert(_tame(found), _Wat)
    envelope = wat.envelope or _Envelope()
    response = envelope.payload.response if envelope.payload else None
    html = response.html if response else None
    if response is None or html is None:
        return None
    images = [link for link in html.links or () if link.path == _IMAGE_PATH]
    if not images:
        return None
    header = envelope.header or _Header()
    head = html.head or _Head()
    links = [*(html.links or ()), *(head.links or ())] if MARKER in data else []
    return Page(
        images,
        header.uri,
        header.date,
        response.status.code if response.status else None,
        head.base,
        _license_links(links),
    )


def _cut_page(text: bytes | bytearray, start: int, end: int) -> Page | None:
    """The short way, without a copy of the block ``text[start:end]``; None where the record wants the long one. Quotation marks within
    JSON strings are escaped, so a key or value in its own quotes is found as what it is; a brace within a string gives invalid JSON,
    and so the long way."""
    html = find(text, HTML, start, end)
    if html < 0 or text[end - 1] != _CLOSES or text[start] != _OPENS:
        return None
    head = find(text, b'"Head":', html, end)
    if head >= 0 and text.find(b'"Base"', head, find(text, b'"Links":', head, end)) >= 0:
        return None
    cut = []
    at = find(text, IMAGE_LINK, html, end)
    while at >= 0:
        begin, ends = at - len(_BEFORE_IMAGE), text.find(b"}", at, end)
        if ends < 0 or not text.startswith(_BEFORE_IMAGE, begin):
            return None
        cut.append(text[begin:ends])
        at = find(text, IMAGE_LINK, ends, end)
    images = len(cut)
    at = find(text, MARKER, start, end)
    while at >= 0:
        begin, ends = text.rfind(b"{", html, at), text.find(b"}", at, end)
        if begin < 0 or ends < 0 or not text.startswith(_MAY_NAME_LICENSE, begin):
            return None
        cut.append(text[begin:ends])
        at = find(text, MARKER, ends, end)
    try:
        links = _links.decode(b"[" + b"},".join(cut) + b"}]" if cut else b"[]")
        header = _header.decode(_flat_object(text, text.rfind(_HEADER, start, end), end))
        status = _status.decode(_flat_object(text, find(text, _STATUS, start, end), end))
    except (ValueError, msgspec.DecodeError):
        return None
    if len(links) != len(cut):  # one ran into the next: nothing that is valid does
        return None
    found = [link for link in links[:images] if link.path == _IMAGE_PATH]
    return Page(found, header.uri, header.date, status.code, license_links=_license_links(links[images:]))


def _license_links(links: list[Link]) -> list[tuple[str, str | None]]:
    return [(link.url, link.rel) for link in links if link.url and may_be_license(link.url)]


def _flat_object(text: bytes | bytearray, key: int, end: int) -> bytes | bytearray:
    """The object that is the value of the key at a position."""
    return text[text.find(b"{", key, end) : text.find(b"}", key, end) + 1] if key >= 0 else b"{}"


_TEXT_KEYS = {"path", "url", "alt", "title", "rel", "Base", "Status", "WARC-Target-URI", "WARC-Date"}
_OBJECT_KEYS = {
    "Envelope", "Payload-Metadata", "WARC-Header-Metadata", "HTTP-Response-Metadata", "Response-Message", "HTML-Metadata", "Head",
}  # fmt: skip


def _tame(value: dict[str, Any]) -> dict[str, Any]:
    """Keep what the typed structs can hold; a repeated header's first value stands (a list since December 2024)."""
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if key in _TEXT_KEYS:
            first = item[0] if isinstance(item, list) and item else item
            if isinstance(first, str | int | float) and not isinstance(first, bool):
                kept[key] = str(first).encode("utf-8", "replace").decode()
        elif key in _OBJECT_KEYS and isinstance(item, dict):
            kept[key] = _tame(item)
        elif key in ("Links", "Link") and isinstance(item, list):
            kept[key] = [_tame(link) for link in item if isinstance(link, dict)]
    return kept

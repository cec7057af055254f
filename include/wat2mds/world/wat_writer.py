"""Writes WAT files in Common Crawl's format.

In: pages. Out: a ``.warc.wat.gz`` of one gzip member a record: the WAT's own warcinfo, the metadata of the WARC's warcinfo, and for
each page the metadata of its request, its response and its metadata record, as published in 2024 (ia-web-commons 1.1.10; the shape
is that of CC-MAIN-2024-22 and, for order and member layout, of the files of 2016).
Guaranteed: the WARC records that the metadata speaks of are really made, so that every length, offset, digest and CRC is true; ids
are derived from names; the same arguments give the same bytes.
What does not belong here: where WAT files lie in a crawl (``mirror.py``), what is on the pages (``demo_world.py``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wat2mds.world.page import Page, html

RECORDS_BEFORE_PAGES = 2
RECORDS_A_PAGE = 3
_CONFORMS_TO = "http://bibnum.bnf.fr/WARC/WARC_ISO_28500_version1_latestdraft.pdf"
_HOSTNAME = "ip-10-67-67-159.ec2.internal"
_HTTP_REQUEST = "application/http; msgtype=request"
_HTTP_RESPONSE = "application/http; msgtype=response"
_FIELDS = "application/warc-fields"


@dataclass(frozen=True)
class _Source:
    """A record of the WARC file that the WAT file is made from."""

    headers: dict[str, str]
    block: bytes
    payload_metadata: dict[str, Any]

    def record(self) -> bytes:
        return self.head() + self.block + b"\r\n\r\n"

    def head(self) -> bytes:
        return _head("WARC/1.0", self.headers)


def write_wat(
    path: Path,
    pages: Iterable[Page],
    *,
    snapshot: str,
    warc_filename: str | None = None,
    extracted: datetime | None = None,
) -> int:
    """Write one WAT file; returns its number of records.

    ``warc_filename`` is the WARC file that it claims to be made from (by default the same name without ``.wat``);
    ``extracted`` when it was made (by default a week after the first page was fetched).
    """
    pages = list(pages)
    warc = warc_filename or path.name.replace(".warc.wat.gz", ".warc.gz")
    first = min((page.date for page in pages), default=datetime(2024, 1, 1, tzinfo=UTC))
    made = extracted or first + timedelta(days=7)
    records = [_wat_warcinfo(warc, made)]
    offset = 0
    for source, page in _sources(pages, warc, snapshot, first):
        body = source.record()
        packed = _member(body)
        envelope = _envelope(source, warc, offset, packed, body)
        records.append(_wat_record(source, envelope, warc, made, page.damage if page else ""))
        offset += len(packed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(_member(record) for record in records))
    return len(records)


def _sources(pages: Iterable[Page], warc: str, snapshot: str, first: datetime) -> Iterable[tuple[_Source, Page | None]]:
    """The WARC file's records in order; with the page where its WAT record may be damaged: the response's."""
    info = _warcinfo(warc, snapshot, first)
    yield info, None
    for number, page in enumerate(pages):
        ids = {kind: _id(warc, str(number), page.url, kind) for kind in ("request", "response", "metadata")}
        shared = {"WARC-Date": _zulu(page.date), "WARC-Warcinfo-ID": info.headers["WARC-Record-ID"]}
        yield _request(page, ids, shared), None
        yield _response(page, ids, shared), page
        yield _metadata(page, ids, shared), None


def _warcinfo(warc: str, snapshot: str, first: datetime) -> _Source:
    fields = {
        "isPartOf": snapshot,
        "publisher": "Common Crawl",
        "description": f"Wide crawl of the web for {first:%B %Y}",
        "operator": "Common Crawl Admin (info@commoncrawl.org)",
        "hostname": _HOSTNAME.partition(".")[0],
        "software": "Apache Nutch 1.19 (modified, https://github.com/commoncrawl/nutch/)",
        "robots": "checked via crawler-commons 1.5-SNAPSHOT (https://github.com/crawler-commons/crawler-commons)",
        "format": "WARC File Format 1.1",
    }
    block = _fields(fields)
    headers = {
        "WARC-Type": "warcinfo",
        "WARC-Date": _zulu(first),
        "WARC-Record-ID": _id(warc, "warcinfo"),
        "Content-Length": str(len(block)),
        "Content-Type": _FIELDS,
        "WARC-Filename": warc,
        "WARC-Block-Digest": _digest(block),
    }
    metadata = {
        "Actual-Content-Length": str(len(block)),
        "Trailing-Slop-Length": "4",
        "Block-Digest": _digest(block),
        "Headers-Corrupt": True,
        "Actual-Content-Type": _FIELDS,
        "WARC-Info-Metadata": fields,
    }
    return _Source(headers, block, metadata)


def _request(page: Page, ids: Mapping[str, str], shared: Mapping[str, str]) -> _Source:
    parts = urlsplit(page.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    http = {
        "User-Agent": "CCBot/2.0 (https://commoncrawl.org/faq/)",
        "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language": "en-US,en;q=0.5",
        "Accept-Encoding": "br,gzip",
        "Host": parts.netloc,
        "Connection": "Keep-Alive",
    }
    head = _head(f"GET {target} HTTP/1.1", http)
    message = {
        "Request-Message": {"Method": "GET", "Path": target, "Version": "HTTP/1.1"},
        **_http_metadata(head, http, b""),
    }
    block = head + b"\r\n"  # Common Crawl's request blocks end with one line break more than HTTP's
    headers = _http_headers("request", page, ids, shared, block, b"")
    return _Source(headers, block, _payload_metadata(_HTTP_REQUEST, {"HTTP-Request-Metadata": message}, block))


def _response(page: Page, ids: Mapping[str, str], shared: Mapping[str, str]) -> _Source:
    body = html(page) if page.is_html else b"%PDF-1.4\n" + page.title.encode() + b"\n%%EOF\n"
    reason = HTTPStatus(page.status).phrase
    http = {
        "Date": format_datetime(page.date.astimezone(UTC), usegmt=True),
        "Content-Type": page.content_type,
        "Server": "nginx",
        "X-Crawler-Content-Encoding": "gzip",
        "Content-Length": str(len(body)),
    }
    head = _head(f"HTTP/1.1 {page.status} {reason}", http)
    message: dict[str, Any] = {
        "Response-Message": {"Status": str(page.status), "Version": "HTTP/1.1", "Reason": reason},
        **_http_metadata(head, http, body, _html_metadata(page) if page.is_html else None),
    }
    headers = _http_headers("response", page, ids, shared, head + body, body)
    headers["WARC-Identified-Payload-Type"] = page.content_type.partition(";")[0]
    return _Source(headers, head + body, _payload_metadata(_HTTP_RESPONSE, {"HTTP-Response-Metadata": message}, head + body))


def _metadata(page: Page, ids: Mapping[str, str], shared: Mapping[str, str]) -> _Source:
    fields = {"fetchTimeMs": str(100 + zlib.crc32(page.url.encode()) % 900), "charset-detected": "UTF-8"}
    block = _fields(fields) + b"\r\n"
    headers = {
        "WARC-Type": "metadata",
        "WARC-Date": shared["WARC-Date"],
        "WARC-Record-ID": ids["metadata"],
        "Content-Length": str(len(block)),
        "Content-Type": _FIELDS,
        "WARC-Warcinfo-ID": shared["WARC-Warcinfo-ID"],
        "WARC-Concurrent-To": ids["response"],
        "WARC-Target-URI": page.url,
        "WARC-Payload-Digest": _digest(block),
        "WARC-Block-Digest": _digest(block),
    }
    records = {"Metadata-Records": [{"Name": name, "Value": value} for name, value in fields.items()]}
    metadata = _payload_metadata("application/metadata-fields", {"WARC-Metadata-Metadata": records}, block)
    return _Source(headers, block, metadata)


def _html_metadata(page: Page) -> dict[str, Any]:
    """What the extractor finds in the page; parts that would be empty are left out, as it does."""
    head: dict[str, Any] = {}
    if page.language:
        head["Metas"] = [{"name": "HTML@/lang", "content": page.language}]
    head["Title"] = page.title
    if page.base is not None:
        head["Base"] = page.base
    if page.head_links:
        head["Link"] = [dict(link) for link in page.head_links]
    found: dict[str, Any] = {"Head": head}
    if page.links:
        found["Links"] = [dict(link) for link in page.links]
    return found


def _http_headers(
    kind: str, page: Page, ids: Mapping[str, str], shared: Mapping[str, str], block: bytes, payload: bytes
) -> dict[str, str]:
    return {
        "WARC-Type": kind,
        "WARC-Date": shared["WARC-Date"],
        "WARC-Record-ID": ids[kind],
        "Content-Length": str(len(block)),
        "Content-Type": f"application/http; msgtype={kind}",
        "WARC-Warcinfo-ID": shared["WARC-Warcinfo-ID"],
        **({"WARC-Concurrent-To": ids["request"]} if kind == "response" else {}),
        "WARC-IP-Address": _address(urlsplit(page.url).netloc),
        "WARC-Target-URI": page.url,
        "WARC-Payload-Digest": _digest(payload),
        "WARC-Block-Digest": _digest(block),
    }


def _http_metadata(
    head: bytes, http: dict[str, str], entity: bytes, html_metadata: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "Headers-Length": str(len(head)),
        "Headers": http,
        **({} if html_metadata is None else {"HTML-Metadata": html_metadata}),
        "Entity-Length": str(len(entity)),
        "Entity-Digest": _digest(entity),
        "Entity-Trailing-Slop-Length": "0",
    }


def _payload_metadata(content_type: str, content: dict[str, Any], block: bytes) -> dict[str, Any]:
    return {
        "Actual-Content-Type": content_type,
        **content,
        "Actual-Content-Length": str(len(block)),
        "Trailing-Slop-Length": "4",
        "Block-Digest": _digest(block),
    }


def _envelope(source: _Source, warc: str, offset: int, packed: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body)
    content = {
        "Container": {
            "Filename": warc,
            "Compressed": True,
            "Offset": str(offset),
            "Gzip-Metadata": {
                "Deflate-Length": str(len(packed)),
                "Header-Length": "10",
                "Footer-Length": "8",
                # Java's int is signed.
                "Inflated-CRC": str(crc - (1 << 32) if crc >= 1 << 31 else crc),
                "Inflated-Length": str(len(body)),
            },
        },
        "Envelope": {
            "Payload-Metadata": source.payload_metadata,
            "Format": "WARC/1.0",
            "WARC-Header-Length": str(len(source.head())),
            "WARC-Header-Metadata": source.headers,
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _wat_warcinfo(warc: str, made: datetime) -> bytes:
    block = _fields(
        {
            "Software-Info": "ia-web-commons.1.1.10-SNAPSHOT-20240513074037",
            "Extracted-Date": format_datetime(made.astimezone(UTC), usegmt=True),
            "ip": "10.67.67.159",
            "hostname": _HOSTNAME,
            "format": "WARC File Format 1.0",
            "conformsTo": _CONFORMS_TO,
        }
    )
    block += b"\r\n"
    headers = {
        "WARC-Type": "warcinfo",
        "WARC-Date": _zulu(made),
        "WARC-Filename": warc.replace(".warc.gz", ".warc.wat.gz"),
        "WARC-Record-ID": _id(warc, "wat", "warcinfo"),
        "Content-Type": _FIELDS,
        "Content-Length": str(len(block)),
    }
    return _head("WARC/1.0", headers) + block + b"\r\n\r\n"


def _wat_record(source: _Source, envelope: bytes, warc: str, made: datetime, damage: str) -> bytes:
    block = _spoil(envelope, damage)
    headers = {
        "WARC-Type": "metadata",
        "WARC-Target-URI": source.headers.get("WARC-Target-URI", warc),
        "WARC-Date": _zulu(made),
        "WARC-Record-ID": _id(warc, "wat", source.headers["WARC-Record-ID"]),
        "WARC-Refers-To": source.headers["WARC-Record-ID"],
        "Content-Type": "application/json",
        "Content-Length": str(len(block)),
    }
    return _head("WARC/1.0", headers) + block + b"\r\n\r\n"


def _spoil(envelope: bytes, damage: str) -> bytes:
    if damage == "cut":
        return envelope[: envelope.rindex(b'"IMG@/src"') + 24]
    if damage == "overwritten":
        at = envelope.index(b'{"path":"IMG@/src"')
        return envelope[:at] + bytes(8) + envelope[at + 8 :]
    return envelope


def _member(record: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(record) + packer.flush()


def _head(first_line: str, headers: Mapping[str, str]) -> bytes:
    lines = [first_line, *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _fields(fields: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _id(*names: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(names))}>"


def _address(host: str) -> str:
    """An address for the record to name, out of the block kept for documentation (RFC 5737)."""
    return f"203.0.113.{zlib.crc32(host.encode()) % 254 + 1}"


def _zulu(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

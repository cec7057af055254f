"""Who a pair is: the normalised URL, the uid, and LAION-5B's own hash.

The URL that is downloaded stays as found; the normalised one exists for identity alone. What does not belong here:
deciding which pairs are wanted (``stages/extract``).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit

import idna
import mmh3

DEFAULT_PORTS = {"http": 80, "https": 443}
UID_PATTERN = r"^[0-9a-f]{32}$"
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
# RFC 3986 2.3: unreserved characters, whose percent-encoding is equivalent to themselves.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Characters that may stand in a path or query as they are (RFC 3986 3.3, 3.4); all others are percent-encoded as UTF-8.
_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]|]")


def _decode_unreserved(match: re.Match[str]) -> str:
    byte = int(match.group(1), 16)
    return chr(byte) if byte in _UNRESERVED else f"%{match.group(1).upper()}"


def _normalize_part(text: str) -> str:
    if "%" in text:
        text = _PERCENT.sub(_decode_unreserved, text)
    if " " in text:  # nearly always what is unsafe
        text = text.replace(" ", "%20")
    return _UNSAFE.sub(lambda m: "".join(f"%{b:02X}" for b in m.group().encode("utf-8", "surrogatepass")), text)


@lru_cache(maxsize=65536)
def normalize_host(host: str) -> str:
    """Lower case, IDNA (UTS 46) for names beyond ASCII, no trailing dot. Raises ValueError for a name that cannot be one."""
    host = host.rstrip(".").lower()
    if not host:
        raise ValueError("empty host")
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(str(error)) from error


# A URL with nothing to normalise but its host: most of them, and worth a shorter way.
_PLAIN = re.compile(r"(https?)://([A-Za-z0-9\-.]+)(/[A-Za-z0-9\-._~!$&'()*+,;=:@/?|]*)", re.ASCII)


# The same for many at once (RE2): URLs that are normal as they stand. Percent-encoded are capitals and what is not unreserved.
_KEPT = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/|\[\]]|%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|[46]0|5[B-E]|7[BCDF])"
NORMAL_URL = rf"^https?://[a-z0-9\-.]*[a-z0-9\-]/(?:(?:\?|{_KEPT})*(?:{_KEPT}))?$"


# Printable ASCII without a port: nothing to do but percent-encoding, as for blanks.
_ASCII = re.compile(r"(https?)://([A-Za-z0-9\-.]+)(/[ -\"$->@-~]*)(?:\?([ -\"$-~]*))?", re.ASCII)


def normalize_url(url: str) -> str:
    """The URL for identity: scheme and host lower case, IDNA, default port and fragment dropped, percent-encoding
    normalised (RFC 3986 6.2.2). Raises ValueError where the URL has no valid host or port."""
    plain = _PLAIN.fullmatch(url)
    if plain:
        host = normalize_host(plain[2])
        return url if host == plain[2] else f"{plain[1]}://{host}{plain[3]}"
    ascii_ = _ASCII.fullmatch(url)
    if ascii_:
        scheme, host, path, query = ascii_.groups()
        rest = f"?{_normalize_part(query)}" if query else ""
        return f"{scheme}://{normalize_host(host)}{_normalize_part(path)}{rest}"
    return _normalize_any(url)


def _normalize_any(url: str) -> str:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    host = normalize_host(parts.hostname or "")
    port = parts.port
    netloc = host if port is None or port == DEFAULT_PORTS.get(scheme) else f"{host}:{port}"
    return urlunsplit((scheme, netloc, _normalize_part(parts.path) or "/", _normalize_part(parts.query), ""))


def uid(url_normalized: str, caption: str) -> str:
    """BLAKE2b-128 of normalised URL, NUL, caption: 32 hex digits, stable across runs; the join key of everything."""
    data = f"{url_normalized}\0{caption}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def laion_hash(url: str, caption: str) -> int:
    """LAION-5B's join key, signed 64 bits (laion-prepro, laion5B/safety/compute_hashes.py), of the URL as found."""
    return mmh3.hash64((url + caption).encode("utf-8", "surrogatepass"))[0]


def identities(urls: Sequence[str], urls_normalized: Sequence[str], captions: Sequence[str]) -> tuple[list[str], list[int]]:
    """``uid`` and ``laion_hash`` of many pairs, without a call for each."""
    blake2b, hash64, code, errors = hashlib.blake2b, mmh3.hash64, "utf-8", "surrogatepass"
    keys = zip(urls_normalized, captions, strict=True)
    uids = [blake2b(f"{url}\0{caption}".encode(code, errors), digest_size=16).hexdigest() for url, caption in keys]
    return uids, [hash64((url + caption).encode(code, errors))[0] for url, caption in zip(urls, captions, strict=True)]

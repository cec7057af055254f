"""uid, laion_hash and the URL's normal form."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wat2mds.identity import _PLAIN, _normalize_any, identities, laion_hash, normalize_url, uid


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.COM/a.jpg", "http://example.com/a.jpg"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/x", "https://example.com:8443/x"),
        ("http://example.com/a#frag", "http://example.com/a"),
        ("http://example.com/%7euser/%c3%a9", "http://example.com/~user/%C3%A9"),
        ("http://example.com/é?q=ü", "http://example.com/%C3%A9?q=%C3%BC"),
        ("http://Bücher.de/x", "http://xn--bcher-kva.de/x"),
        ("http://example.com/a b", "http://example.com/a%20b"),
        ("http://example.com./a", "http://example.com/a"),
        ("http://user:secret@example.com/a", "http://example.com/a"),
    ],
)
def test_normal_form(url: str, normal: str) -> None:
    assert normalize_url(url) == normal
    assert normalize_url(normal) == normal


@pytest.mark.parametrize("url", ["http:///a", "http://[::1/a", "http://a:99999/", "http://exa mple.com:x/"])
def test_what_has_no_host_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        normalize_url(url)


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=60))
def test_normal_form_is_stable(path: str) -> None:
    try:
        once = normalize_url("http://example.com/" + path)
    except ValueError:
        return
    assert normalize_url(once) == once


_PIECES = [
    "/",
    "//",
    ".",
    "a",
    "B",
    "?",
    "??",
    "#",
    " ",
    "%",
    "%7e",
    "%C3",
    "[",
    "]",
    "|",
    "\\",
    ";",
    "&",
    '"',
    "<",
    ":80",
    "é",
    "\t",
    "\x7f",
]


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(["http", "https"]), st.lists(st.sampled_from(_PIECES), max_size=8).map("".join))
def test_the_short_way_normalises_as_the_long_one(scheme: str, rest: str) -> None:
    url = f"{scheme}://Ex.com./{rest}"
    if not _PLAIN.fullmatch(url):
        assert normalize_url(url) == _normalize_any(url)


def test_identities_are_uid_and_laion_hash() -> None:
    urls, normal, captions = ["http://A/é", "x"], ["http://a/%C3%A9", "y"], ["caption", "lone \ud800"]
    uids, hashes = identities(urls, normal, captions)
    assert uids == [uid(*pair) for pair in zip(normal, captions, strict=True)]
    assert hashes == [laion_hash(*pair) for pair in zip(urls, captions, strict=True)]


def test_uid_separates_its_fields() -> None:
    """cc2dataset joins alt and URL without a separator, so that ("ab", "c") and ("a", "bc") collide."""
    assert uid("http://a/x", "yz") != uid("http://a/xy", "z")
    assert uid("u", "c") == hashlib.blake2b(b"u\0c", digest_size=16).hexdigest()


def test_laion_hash_is_laions() -> None:
    """mmh3.hash64(url + text)[0], signed: laion-prepro's compute_hashes.py. The value is MurmurHash3 x64 128's of the empty string."""
    assert laion_hash("", "") == 0
    assert laion_hash("ab", "c") == laion_hash("a", "bc")
    assert -(2**63) <= laion_hash("http://a/x.jpg", "caption") < 2**63

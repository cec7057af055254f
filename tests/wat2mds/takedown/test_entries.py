"""Which rows a list names: every kind, what is compared, and lists that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wat2mds.errors import ConfigError
from wat2mds.takedown import entries as entries_module
from wat2mds.takedown.entries import KINDS, Entries, entries_of, merged, text_words
from wat2mds.takedown.lists import read_list, texts_of, unmatched

ROWS = {
    "uid": ["0" * 31 + str(n) for n in range(6)],
    "url_normalized": [
        *("https://example.org/a.jpg", "https://img.example.org/b.jpg", "https://notexample.org/c.jpg"),
        *("https://other.net/d.jpg", "https://other.net/%C3%A9.jpg", "https://xn--bcher-kva.example/f.jpg"),
    ],
    "page_url": [
        "https://example.org/page",
        None,
        "https://other.net/p?q=1",
        "http://www.example.org:80/page",
        "not a URL",
        None,
    ],
    "md5": [f"{n:032x}" for n in range(5)] + [None],
    "sha256": [f"{n:064x}" for n in range(6)],
    "sha1": [f"{n:040X}" for n in range(6)],
    "pdq": ["f" * 64, "f" * 56 + "0" * 8, "0" * 64, "0" * 60 + "000f", None, "a" * 64],
    "pdq_quality": [90, 49, 100, 60, None, 50],
}
TABLE = pa.table({name: pa.array(values) for name, values in ROWS.items()})


def rows(kind: str, *values: str, distance: int = 0) -> list[int]:
    found = entries_of({kind: text_words(kind, values)}, distance)
    return np.flatnonzero(found.any_of(TABLE)).tolist()


def test_every_kind() -> None:
    assert rows("uid", "0" * 32, "0" * 31 + "5") == [0, 5]
    assert rows("url", "HTTPS://Example.org:443/a.jpg#x", "https://other.net/é.jpg") == [0, 4]
    assert rows("url", "https://bücher.example/f.jpg") == [5]
    assert rows("page", "http://www.example.org/page") == [3]
    assert rows("md5", "0" * 31 + "1") == [1]


def test_hashes_are_compared_by_128_bits() -> None:
    table = pa.table({"sha256": [f"{n:032x}{0:032x}" for n in range(4)], "sha1": [f"{n:032X}{7:08X}" for n in range(4)]})
    for kind, value in (("sha256", f"{2:032x}{0:032x}"), ("sha1", f"{2:032x}{7:08x}")):
        found = entries_of({kind: text_words(kind, [value])})
        assert np.flatnonzero(found.any_of(table)).tolist() == [2]


def test_a_domain_stands_for_its_subdomains_and_its_pages() -> None:
    assert rows("domain", "example.org") == [0, 1, 3]
    assert rows("domain", "img.example.org") == [1]
    assert rows("domain", "*.Other.NET.") == [2, 3, 4]
    with pytest.raises(ValueError, match="host name with a dot"):
        text_words("domain", ["net"])


def test_pdq_exactly_and_by_distance() -> None:
    assert rows("pdq", "f" * 64) == [0]
    assert rows("pdq", "F" * 56 + "0" * 8) == [1], "of whatever quality"
    assert rows("pdq", "0" * 63 + "1", distance=31) == [2, 3]
    assert rows("pdq", "f" * 57 + "0" * 7, distance=31) == [0], "row 1 is of too little quality"


def test_too_many_for_a_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries_module, "MOST_NEAR", 2)
    words = text_words("pdq", ["0" * 64, "1" * 64, "2" * 64])
    assert entries_of({"pdq": words}).counts == {"pdq": 3}
    with pytest.raises(ConfigError, match="3 PDQ hashes cannot be searched by distance"):
        entries_of({"pdq": words}, 31)


def test_many_are_found_as_few_are() -> None:
    rng = np.random.default_rng(1)
    for width in (2, 4):
        words = rng.integers(0, 1 << 63, (20_000, width)).astype(np.uint64)
        words[:500, 0] = words[0, 0]  # hashes that begin alike
        kind = "pdq" if width == 4 else "md5"
        found = merged([entries_of({kind: words[::4]}), entries_of({kind: words[1::4]}), Entries()])
        places = found.places(kind, words)
        assert ((places >= 0) == (np.arange(len(words)) % 4 < 2)).all()
        assert (found.words[kind][places[places >= 0]] == words[places >= 0]).all()


def test_lists_in_each_form(tmp_path: Path) -> None:
    text, table, parquet = tmp_path / "a.txt", tmp_path / "b.csv", tmp_path / "c.parquet"
    text.write_text("# a comment\n\n" + "0" * 32 + "  # so\n")
    table.write_text(f"kind,value\nmd5, {1:032x} \ndomain,example.org\n")
    pq.write_table(pa.table({"value": ["https://a.org/1", "https://a.org/2"]}), parquet)
    assert {kind: len(words) for kind, words in read_list(text, text.name, "uid").items()} == {"uid": 1}
    assert {kind: len(words) for kind, words in read_list(table, table.name, None).items()} == {"md5": 1, "domain": 1}
    assert {kind: len(words) for kind, words in read_list(parquet, parquet.name, "url").items()} == {"url": 2}
    assert texts_of(table, table.name, None, 5) == [f"{1:032x}"]
    found = entries_of(read_list(table, table.name, None))
    found.watch()
    found.any_of(TABLE.slice(2))
    assert unmatched(found, table, table.name, None) == [f"md5 {1:032x}"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("a.txt", "0\n", None, "say of what kind"),
        ("a.txt", "0\n", "md4", "is no kind of entry. Did you mean 'md5'"),
        ("a.txt", f"{0:032x}\nxyz\n", "md5", "a.txt, entry 2: 'xyz' is no md5: 32 hex digits"),
        ("a.txt", "ftp://a.org/1\n", "url", "entry 1: 'ftp://a.org/1' is no url"),
        ("a.txt", "localhost\n", "domain", "host name with a dot"),
        ("a.txt", "\n# nothing\n", "url", "lists nothing"),
        ("a.csv", "sort,value\nmd5,0\n", None, "a list has kind and value"),
        ("a.csv", "kind,value\nmd4,0\n", None, "'md4' is no kind"),
        ("a.csv", 'kind,value\n"md5,0\nurl', None, "cannot be read"),
        ("a.parquet", "no parquet", None, "cannot be read"),
    ],
)
def test_what_is_no_list(tmp_path: Path, name: str, content: str, kind: str | None, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_list(tmp_path / name, name, kind)


def test_an_empty_table_and_one_without_the_columns() -> None:
    every: Any = {kind: text_words(kind, ["https://a.org/"]) for kind in ("url", "page")} | {"md5": text_words("md5", ["0" * 32])}
    found = entries_of(every | {"domain": text_words("domain", ["a.org"])})
    assert found.matches(TABLE.slice(0, 0)) == {}
    assert found.matches(pa.table({"caption": ["https://a.org/"]})) == {}
    assert set(KINDS) == {"uid", "url", "domain", "page", "md5", "sha1", "sha256", "pdq"}

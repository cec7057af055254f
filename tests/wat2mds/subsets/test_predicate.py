"""Conditions: those that are over one row's columns select as SQL says, all else is refused, with what to write instead."""

from __future__ import annotations

import pyarrow as pa
import pytest

from wat2mds.errors import ConfigError
from wat2mds.schema import METADATA, table_of
from wat2mds.subsets.definition import presets
from wat2mds.subsets.predicate import Predicate


def rows(**columns: list) -> pa.Table:
    count = len(next(iter(columns.values())))
    text = {name: [f"{name}{n}" for n in range(count)] for name in METADATA.names() if not METADATA.schema.field(name).nullable}
    numbers = {n: list(range(count)) for n in text if not pa.types.is_string(METADATA.schema.field(n).type)}
    return table_of(METADATA, text | numbers | columns)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("similarity > 0.3", [1, 3]),
        ("similarity > 0.3 OR language = 'de'", [1, 2, 3]),
        ("language <> 'en'", [2]),  # null is neither
        ("language IS NULL", [3]),
        ("SIMILARITY > 0.3 -- a comment", [1, 3]),
        ("caption ILIKE '%RED%' AND length(caption) BETWEEN 1 AND 12", [0, 1]),
        ("regexp_matches(caption, '^a r')", [0]),
        ("CASE WHEN language = 'en' THEN similarity > 0.3 ELSE similarity > 0.9 END", [1]),
        ("language IN ('en', 'de')", [0, 1, 2]),
        ("crawl_date >= TIMESTAMPTZ '2023-12-01 00:00:00+00'", [1]),
        ("true", [0, 1, 2, 3]),
    ],
)
def test_a_condition_selects_rows(where, expected):
    table = rows(
        similarity=[0.2, 0.31, 0.1, 0.4],
        language=["en", "en", "de", None],
        caption=["a red dog", "one red cat", "ein Hund", "ABCDE"],
        crawl_date=[1_701_388_799_999, 1_701_388_800_000, None, None],
    )
    assert Predicate(where).select(table).to_pylist() == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("similarty > 0.3", "similarity"),
        ("nothing_like_it > 1", "Columns: uid, laion_hash"),
        ("WIDTH >= 1024", "original_width"),
        ("similarity >", "not SQL"),
        ("", "0 characters"),
        ("-- only a comment", "comment only"),
        ("similarity", "FLOAT"),
        ("caption > 5 + similarity AND language", "does not fit"),
        ("uid IN (SELECT uid FROM samples)", "subquery"),
        ("EXISTS (SELECT 1 FROM read_text('/etc/passwd'))", "subquery"),
        ("row_number() OVER () < 10", "window"),
        ("count(*) > 1", "count_star"),
        ("random() < 0.5", "random"),
        ("crawl_date < now()", "now"),
        ("current_setting('memory_limit') = 'x'", "current_setting"),
        ("COLUMNS(*) IS NULL", "star"),
        ("uid = ?", "parameter"),
        ("true) UNION SELECT * FROM samples WHERE (true", "says more"),
        ("true) ORDER BY (uid", "says more"),
        ("true) LIMIT (1", "says more"),
        ("true); COPY samples TO '/tmp/stolen.csv'; SELECT (true", "not SQL"),
        ("true; DROP TABLE samples", "not SQL"),
        ("list_transform([1], x -> x + 1)[1] = 2", "lambda"),
        ("x" * 60_000, "60,000 characters"),
    ],
)
def test_what_is_no_condition_is_refused(where, said):
    with pytest.raises(ConfigError, match="(?s).*" + said.replace("(", r"\(").replace("*", r"\*")):
        Predicate(where)


def test_a_condition_that_fails_on_the_rows_is_an_error_that_says_so():
    with pytest.raises(ConfigError, match="fails on the dataset's rows"):
        Predicate("CAST(caption AS INTEGER) > 1").select(rows(caption=["no number"]))


def test_a_condition_cannot_take_the_machines_memory():
    with pytest.raises(ConfigError, match="fails on the dataset's rows"):
        Predicate("length(repeat(caption, 900000000)) > 5").select(rows(caption=["ten letters"] * 3))


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_condition_with_its_source(name):
    assert presets()[name].predicate().columns
    assert presets()[name].source

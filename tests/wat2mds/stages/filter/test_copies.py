"""The same bytes under many URLs: counted over all tables of a WAT file, decided from both sides, the same from stored scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.filter.drawings import download_unit, drawings, under
from wat2mds.drops import DropReason
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.schema import SCORES, table_of
from wat2mds.settings import load_settings
from wat2mds.stages import filter as stage
from wat2mds.stages.filter.decisions import decide
from wat2mds.stages.filter.preview import preview
from wat2mds.store import Layout, split


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of 24 drawings the first twelve are one picture: seven URLs on one host, five on four others; the tables hold five each."""
    drawn = drawings(24)
    hosts = ["a", "a", "a", "a", "a", "a", "a", "b", "b", "c", "d", "e"]
    same = [
        replace(one, jpg=drawn[0].jpg, url=f"https://{host}.example.org/{n}.jpg")
        for n, (one, host) in enumerate(zip(drawn, hosts, strict=False))
    ]
    dataset = Layout((tmp_path_factory.mktemp("copies") / "root").as_uri(), "d").dataset
    return download_unit(dataset, [*same, *drawn[12:]], under("demo"), shard=5)


@pytest.mark.parametrize(
    ("urls", "hosts", "dropped"), [("11", "1", 12), ("12", "1", 0), ("11", "5", 12), ("11", "6", 0), ("", "1", 0), ("1", "2", 12)]
)
def test_from_both_sides_and_from_stored_scores(placeholders: Manifest, urls: str, hosts: str, dropped: int) -> None:
    settings = under("demo", f"filter.placeholder_urls={urls}", f"filter.placeholder_hosts={hosts}")
    work = split(split(placeholders.url)[0])[0]
    done = stage.run(placeholders, f"{work}/filter", settings)
    decided = pq.read_table(done.fetch("decisions.parquet", Path())).to_pylist()
    assert [row["drop_reason"] == "placeholder" for row in decided] == [n < dropped for n in range(24)]
    assert done.flows[0].drops.get("placeholder", 0) == dropped
    assert preview([work], settings).units[0][-1].flows == done.flows
    scores = next(i.url for i in done.inputs if "/scores/" in i.url)
    found = (
        pq.read_table(read_manifest(scores).fetch("scores.parquet", Path())).select(["copies_urls", "copies_hosts"]).to_pylist()
    )
    assert found == [{"copies_urls": 12, "copies_hosts": 5}] * 12 + [{"copies_urls": 1, "copies_hosts": 1}] * 12


def test_more_than_ten_by_default_and_a_sample_that_was_not_counted() -> None:
    row: dict[str, Any] = {"uid": "0" * 32, "language": "en", "language_probability": 0.9, "similarity": 0.5, "nsfw": "UNLIKELY"}
    settings = load_settings("laion5b", ["filter.max_punsafe=", "filter.max_pwatermark="], environment={}).filter

    def reason(**counted: int) -> object:
        table: pa.Table = table_of(SCORES, {name: [value] for name, value in (row | counted).items()})
        return decide(table, settings).reasons[0].as_py()

    assert reason() is None
    assert reason(copies_urls=10, copies_hosts=1) is None
    assert reason(copies_urls=11, copies_hosts=1) == DropReason.PLACEHOLDER

"""A list of pairs end to end without Airflow: real rows of Common Crawl whose images are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.chain import Chain
from tests.wat2mds.programs import Programs
from tests.wat2mds.world.shared_photographs import fondant_rows
from wat2mds.imports import find_files, number_files
from wat2mds.plan import WatUnit, plan_import
from wat2mds.reading import count_samples
from wat2mds.settings import load_settings
from wat2mds.store import Layout, Store
from wat2mds.versions import open_table, read_version
from wat2mds.world.origin import Answer, AnswerTable, Origin

ROWS = 40


@pytest.fixture(scope="module")
def served(shared: Path) -> Iterator[Origin]:
    """The images of fondant's index, where its URLs say they are."""
    table = AnswerTable()
    for row in fondant_rows(shared):
        if row.content is not None and row.alt and row.url not in table:
            table.add(row.url, Answer(row.content))
    with Origin(table) as origin:
        yield origin


def lists_of(shared: Path, folder: Path) -> None:
    """Two files of the index's rows with a caption, the second overlapping the first by ten."""
    index = pq.read_table(shared / "laion_meta" / "fondant-cc-1000-index.parquet")
    captioned = index.filter(pc.greater_equal(pc.utf8_length(index["alt+text"]), 5))
    folder.mkdir()
    pq.write_table(captioned.slice(0, ROWS), folder / "part-0.parquet")
    pq.write_table(captioned.slice(ROWS - 10, 20), folder / "part-1.parquet")


def plan(chain: Chain, folder: Path) -> list[WatUnit]:
    # The tiny model knows nothing of photographs: its threshold is set to keep all.
    overrides = ["filter.min_similarity=-1", "filter.min_similarity_other=-1", "download.processes=1", "download.threads=8"]
    settings = load_settings("demo", [f"download.resolver={chain.resolver}", *overrides], environment={})
    files = number_files(chain.root, "lists", "fondant", find_files([str(folder)], settings.import_.hub))
    return plan_import(chain.root, "lists", settings, "fondant", files)


@pytest.mark.shared
@pytest.mark.timeout(600)  # some fifteen programs one after the other
def test_a_list_takes_the_same_road(tmp_path: Path, shared: Path, served: Origin, programs: Programs) -> None:
    chain = Chain((tmp_path / "store").as_uri(), served.address, programs)
    lists_of(shared, tmp_path / "lists")
    units = plan(chain, tmp_path / "lists")
    published = chain.run(units)
    assert published["version"] == 1

    (report,) = [Store(Layout(chain.root, "lists").reports).read_json(name) for name in ["fondant.import.json"]]
    assert (report["failed"], report["funnel"]["problems"]) == ({}, [])
    lines = {line["stage"]: line for line in report["funnel"]["lines"] if line["stage"] != "filter"}
    assert (lines["import"]["source"], lines["import"]["entered"]) == ("rows", ROWS + 20)
    assert lines["dedup"]["drops"]["duplicate_in_batch"] >= 5, "the files overlap"
    assert lines["publish"]["left"] == published["samples"] > 5

    dataset = Layout(chain.root, "lists").dataset
    version = read_version(dataset)
    rows = open_table(dataset, version).to_pyarrow_table().to_pylist()
    assert count_samples(dataset, version) == len(rows) == published["samples"]
    assert {(row["snapshot"], row["segment"]) for row in rows} == {("fondant", "0.0")}
    assert {row["license_type"] for row in rows} & {"by", "by-sa", "by-nc-nd", "by-nc-sa"}
    index = {row["url"]: row for row in pq.read_table(tmp_path / "lists" / "part-0.parquet").to_pylist()}
    of_first = [row for row in rows if row["wat_file"] == "00000"]
    assert of_first
    assert all(index[row["url"]]["webpage+url"] == row["page_url"] for row in of_first)

    # Planned again, the files have their numbers, and nothing is imported or claimed anew.
    again = plan(chain, tmp_path / "lists")
    assert again == units
    assert all(chain.stage("import", unit)["done_before"] for unit in again)
    assert chain.stage("dedup", again)["done_before"]

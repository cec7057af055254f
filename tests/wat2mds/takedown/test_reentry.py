"""What was taken down does not come back: by what was built before and is published after, by a publisher beside it, by retries."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.search.conftest import bring
from tests.wat2mds.stages.conftest import build_wat_file
from tests.wat2mds.takedown.searching import found_below
from tests.wat2mds.takedown.test_takedown import SETTINGS, check_consistent, folder_of, listed, published, samples_of, take_down
from wat2mds import subsets
from wat2mds.failures import failures, retriable
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.retries import plan_retries
from wat2mds.search.building import update
from wat2mds.stages import convert, dedup, publish, upload
from wat2mds.store import Store
from wat2mds.takedown.applying import complete
from wat2mds.takedown.records import record, takedowns, unfinished
from wat2mds.versions import newest_number, read_version

__all__ = ["published"]


def uploaded(dataset: str, wat_file: str, count: int = 30, **options: Any) -> Manifest:
    """Built, not published."""
    made = build_wat_file(dataset, wat_file, count=count, first=int(wat_file) * 1000, settings=SETTINGS, **options)
    converted = convert.run(made.samples, made.decisions, made.out("convert"), SETTINGS)
    return upload.run(converted, dataset, made.out("upload"), SETTINGS)


def test_the_same_published_again_makes_no_version(published: str) -> None:
    """A rerun of the batch finds its upload done, and what it holds published."""
    gone = sorted(samples_of(published))[:2]
    take_down(published, listed(uid=gone))
    number = newest_number(published)
    manifests = [
        read_manifest(f"{Store(published).url}/{entry.path}")
        for entry in Store(published).walk("work")
        if "/upload/" in entry.path and entry.path.endswith(".json")
    ]
    assert len(manifests) == 3
    again = publish.run(manifests, published, SETTINGS)
    assert (again.done_before, again.version.number) == (True, number)
    for manifest in manifests:
        assert all(flow.reconciles for flow in manifest.flows)
    assert sum(manifest.flows[-1].drops.get("withdrawn", 0) for manifest in manifests) == 2


def test_built_before_and_published_after(published: str) -> None:
    """publish is the last guard: it leaves out what was listed since, and its objects go."""
    before = samples_of(published)
    late = uploaded(published, "00007")
    path = f"embeddings/{late.extra['unit_name']}/metadata/metadata_0.parquet"
    rows = pq.read_table(pa.BufferReader(Store(published).read(path)))
    uids, urls = rows["uid"].to_pylist(), rows["url"].to_pylist()
    report = take_down_beside(published, [urls[3]])
    assert report["waiting"], "what may be at work is left to it"
    assert unfinished(Store(published))
    done = publish.run([late], published, SETTINGS)
    assert done.version.units["CC-MAIN-2023-50.1700679099281.67.00007"].samples == len(uids) - 1
    assert [r["waiting"] for r in complete(published)] == [[]]
    check_consistent(published, before.keys() | set(uids) - {uids[3]})
    assert urls[3].encode() not in b"".join(p.read_bytes() for p in folder_of(published).rglob("*") if p.is_file())


def take_down_beside(dataset: str, urls: list[str]) -> dict[str, Any]:
    from wat2mds.takedown.applying import apply

    return apply(dataset, record(Store(dataset), listed(url=urls), ["a list"], "a test", 0))


def test_beside_publishers(published: str) -> None:
    """Publishers and a takedown at once, of the same samples: whoever comes first, they are gone and nothing else is."""
    before = samples_of(published)
    late = [uploaded(published, f"0001{number}") for number in range(4)]
    rows = [
        pq.read_table(pa.BufferReader(Store(published).read(f"embeddings/{m.extra['unit_name']}/metadata/metadata_0.parquet")))
        for m in late
    ]
    uids = [table["uid"].to_pylist() for table in rows]
    gone = [*sorted(before)[:3], *(some[2] for some in uids)]
    errors: list[BaseException] = []

    def run(work: Any, *given: Any) -> None:
        try:
            work(*given)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(publish.run, [manifest], published, SETTINGS)) for manifest in late]
    threads.append(threading.Thread(target=run, args=(take_down, published, listed(uid=gone))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A publisher whose WAT file's objects went beneath it says so, and its next attempt publishes the rest.
    again = [
        read_manifest(manifest.url) for manifest in late if Store(published).exists(manifest.url.removeprefix(f"{published}/"))
    ]
    if again:
        publish.run(again, published, SETTINGS)
    complete(published, alone=True)
    now = samples_of(published).keys()
    assert not now & set(gone)
    assert now >= before.keys() - set(gone)
    assert found_below(folder_of(published), [before[uid] for uid in sorted(before)[:3]]) == []
    # What build_search_index and build_subset do after a publish, which may be the last to have made a version.
    update(published)
    subsets.refresh(published)
    check_consistent(published, set(now))
    assert all(type(error).__name__ in ("TransientError", "DataError", "FileNotFoundError") for error in errors), errors


def test_retries_do_not_ask_for_it(published: str) -> None:
    """A failure that is listed is no failure any more; the others are due as before."""
    times = lambda table: table.set_column(  # noqa: E731
        table.column_names.index("fetched_at"),
        table.schema.field("fetched_at"),
        pa.array([1_700_000_000_000] * len(table), table.schema.field("fetched_at").type),
    )
    named = lambda table: times(  # noqa: E731
        table.set_column(
            table.column_names.index("drop_reason"),
            table.schema.field("drop_reason"),
            pa.array([None if s == "success" else "timeout" for s in table["status"].to_pylist()], pa.string()),
        )
    )
    bring(published, "00020", 30, SETTINGS, failed=3, changes={"samples": named})
    failed = [row for table in failures(published, read_version(published), [1.0]) for row in retriable(table).to_pylist()]
    assert len(failed) == 3
    before = samples_of(published)
    take_down(published, listed(url=[failed[0]["url"]]))
    left = [row["uid"] for table in failures(published, read_version(published), [1.0]) for row in retriable(table).to_pylist()]
    assert left == [row["uid"] for row in failed[1:]]
    assert failed[0]["url"].encode() not in b"".join(p.read_bytes() for p in folder_of(published).rglob("*") if p.is_file())
    unit = read_version(published).units["CC-MAIN-2023-50.1700679099281.67.00020"]
    assert (unit.retriable, unit.built) == (2, unit.unit_name)
    check_consistent(published, set(before))
    assert plan_retries(published, SETTINGS, early=True) == [], "settings of the fixture are not stored"


def test_dedup_and_filter_leave_it_out(published: str) -> None:
    """A later crawl: what is listed by uid, URL, domain or page is not asked for; by hash it is not scored."""
    before = list(samples_of(published).values())
    new = build_wat_file(published, "00030", count=12, first=30_000, settings=SETTINGS)
    samples = pq.read_table(new.samples.fetch("00000.parquet", folder_of(published)))
    hashed = next(row for row in samples.to_pylist() if row["jpg"] is not None)
    take_down_beside(published, [before[0].url])
    record(
        Store(published),
        listed(domain=["images1.example.org"], md5=[hashed["md5"]], page=["https://example.org/30003"]),
        [],
        "a test",
        0,
    )
    assert len(takedowns(Store(published))) == 2
    extracted = read_manifest(new.samples.inputs[0].url).inputs[0].url
    (made,) = dedup.run(
        [read_manifest(extracted)], f"{published}/ledger", f"{published}/again/{{wat_file}}/dedup", SETTINGS, published
    )
    kept = pq.read_table(made.file("unique.parquet").removeprefix("file://").replace("%20", " "))
    pages = [f"https://example.org/{n}" if n % 2 else None for n in range(30_000, 30_012)]
    assert made.flows[0].drops == {"taken_down": 4 + (pages.index("https://example.org/30003") % 3 != 1)}
    assert not [url for url in kept["url"].to_pylist() if "images1." in url]
    assert np.all([page != "https://example.org/30003" for page in kept["page_url"].to_pylist()])


def test_of_a_domain_not_even_the_name_is_left(published: str) -> None:
    """Summaries count downloads by host, and carry them forward."""

    def content() -> bytes:
        return b"".join(path.read_bytes() for path in folder_of(published).rglob("*") if path.is_file())

    assert b"images1.example.org" in content()
    take_down(published, listed(domain=["images1.example.org"]))
    assert b"images1.example.org" not in content()
    assert b"images2.example.org" in content()


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_to_do(published: str, alone: bool) -> None:
    number = newest_number(published)
    assert complete(published, alone=alone) == []
    take_down(published, listed(uid=["0" * 32], domain=["nobody.example"]))
    assert newest_number(published) == number

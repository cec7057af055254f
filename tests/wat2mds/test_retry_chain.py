"""An origin that fails three in ten with 503 on day one and serves them on day two, through the stages' programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urljoin

import pyarrow.parquet as pq
import pytest
from urllib3.util import parse_url

from tests.wat2mds.chain import Chain
from tests.wat2mds.programs import Programs
from wat2mds.manifest import read_manifest
from wat2mds.plan import WatUnit, manifest_url
from wat2mds.retries import plan_retries
from wat2mds.settings import load_settings
from wat2mds.snapshots import Registry
from wat2mds.stages.publish.verify import verify
from wat2mds.store import Layout
from wat2mds.versions import open_table, read_version
from wat2mds.world.demo_world import NEWER, World
from wat2mds.world.origin import Answer, AnswerTable, Origin

DATASET = "retried"
RULES = ("/robots.txt", "/.well-known/tdmrep.json")


def share(name: str) -> int:
    """0 to 9, by the name alone."""
    return hashlib.sha256(name.encode()).digest()[0] % 10


@dataclass
class Days:
    """The demo world's web, but one host in ten forbids all, one image in ten is gone, one in ten for good answers 503 (``ill``), and while
    ``down`` three in ten do. ``asked``: the images asked for."""

    web: AnswerTable
    down: bool = True
    asked: list[str] = field(default_factory=list)

    def hops(self, url: str) -> Iterator[str]:
        """Host and target of a URL and of what it leads to."""
        for _ in range(6):
            parts = parse_url(url)
            host, target = str(parts.host), parts.request_uri
            yield f"{host}{target}"
            answer = self.web(host, target)
            location = dict(answer.headers).get("Location") if answer else None
            if location is None:
                return
            url = urljoin(url, location)

    def fate(self, url: str) -> str:
        """What becomes of a good URL on day one."""
        for name in self.hops(url):
            if share(name.partition("/")[0]) == 0:
                return "closed"
            if share(name) <= 4:
                return ("gone", "ill", "down", "down", "down")[share(name)]
        return "good"

    def __call__(self, host: str, target: str) -> Answer | None:
        if target in RULES:
            closed = target == "/robots.txt" and share(host) == 0
            return Answer(b"User-agent: *\nDisallow: /\n") if closed else self.web(host, target)
        name = f"{host}{target}"
        self.asked.append(name)
        if share(name) in (0, 1):
            return Answer(b"", 404 if share(name) == 0 else 503)
        return Answer(b"", 503) if self.down and share(name) in (2, 3, 4) else self.web(host, target)


@pytest.fixture(scope="module")
def days(world: World) -> Days:
    return Days(AnswerTable.load(world.web))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, world: World, days: Days, programs: Programs) -> Iterator[Chain]:
    root = (tmp_path_factory.mktemp("retry") / "store").as_uri()
    Registry(root).register(NEWER, collinfo=str(world.collinfo), source=str(world.crawl))
    with Origin(days) as origin:
        yield Chain(root, origin.address, programs)


# A host that answers 503 is left alone for a while, which these hosts need not.
CALM = ("download.retries=0", "download.host_rest=0.05", "download.host_delay=0")


def due(chain: Chain, later: timedelta) -> list[WatUnit]:
    """What a run so long after now would ask for again; there is a pause of one day, then of three."""
    settings = [f"download.resolver={chain.resolver}", "download.processes=1", "upload.keep_images=true"]
    settings += ["download.retry_days=1,3", *CALM]
    given = load_settings("demo", settings, environment={})
    return plan_retries(Layout(chain.root, DATASET).dataset, given, now=datetime.now(UTC) + later)


def published(chain: Chain) -> list[str]:
    """uids of the newest version, which is sound and holds none twice."""
    dataset = Layout(chain.root, DATASET).dataset
    assert verify(dataset).problems == []
    uids: list[str] = open_table(dataset, read_version(dataset)).to_pyarrow_table(columns=["uid"])["uid"].to_pylist()
    assert len(uids) == len(set(uids)) == read_version(dataset).samples
    return sorted(uids)


def units_of(chain: Chain) -> list[str]:
    return [unit.wat_file for unit in read_version(Layout(chain.root, DATASET).dataset).units.values()]


@pytest.mark.timeout(600)  # some forty programs one after the other
def test_the_dataset_gains_exactly_what_failed_and_nothing_twice(
    chain: Chain, world: World, days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAT2MDS_DOWNLOAD__RETRY_DAYS", "1,3")
    (first,) = chain.plan(DATASET, "0", *CALM, snapshot=NEWER)
    chain.run([first])
    day_one = published(chain)
    pairs = pq.read_table(read_manifest(manifest_url(first, "dedup")).file("unique.parquet").removeprefix("file://"))
    urls = dict(zip(pairs["uid"].to_pylist(), pairs["url"].to_pylist(), strict=True))
    fates = {uid: days.fate(url) for uid, url in urls.items()}
    good = world.expected.of(NEWER)["00000"].uids
    wanted = sorted(uid for uid in good if fates[uid] in ("good", "down"))
    assert day_one == [uid for uid in wanted if fates[uid] == "good"]
    assert len(wanted) - len(day_one) >= 3

    # What failed, as a list: each with its class, attempts, and when it is due.
    listed = tmp_path / "failures.parquet"
    command = ["status", "--failures", "--root", chain.root, "--dataset", DATASET, "--out"]
    done = chain.programs.run([*command, str(listed)])
    assert done.code == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    rows = pq.read_table(listed).to_pylist()
    assert {(row["drop_reason"], row["failure"]) for row in rows} == {
        ("http_5xx", "transient"),
        ("http_404", "permanent"),
        ("robots", "policy"),
    }
    again = {row["uid"]: row for row in rows if row["failure"] == "transient"}
    assert (summary["failures"], summary["waiting"], summary["due"]) == (len(rows), len(again), 0)
    assert {row["attempts"] for row in rows} == {1}
    assert all((row["next_due"] is not None) == (row["uid"] in again) for row in rows)
    assert set(wanted) - set(day_one) < again.keys()

    # Due after a day, and then the same however often it is planned; a run that was killed after its download is gone on with.
    assert due(chain, timedelta(hours=20)) == []
    days.down, days.asked = False, []
    (unit,) = due(chain, timedelta(hours=25))
    assert unit["wat_file"] == "00000-r1"
    for stage in ("retry", "download"):
        chain.stage(stage, unit)
    assert due(chain, timedelta(hours=26)) == [unit]
    chain.run([unit])
    assert [stage for stage, _ in chain.worked()] == ["filter", "validate", "convert", "upload", "publish"]
    assert published(chain) == wanted
    assert again.keys() == {uid for uid, fate in fates.items() if fate in ("down", "ill")}
    asked = {name for uid in again for name in days.hops(urls[uid])}
    assert set(days.asked) <= asked, "404 and robots are never asked again"
    assert chain.run([unit])["version"] == 2
    assert chain.worked() == []

    # What is left is a server that fails for good: it is asked after three days, and then given up.
    days.asked = []
    assert due(chain, timedelta(days=2)) == []
    (unit,) = due(chain, timedelta(days=3, hours=1))
    chain.run([unit])
    assert published(chain) == wanted
    assert set(days.asked) <= {name for uid, fate in fates.items() if fate == "ill" for name in days.hops(urls[uid])}
    assert units_of(chain) == ["00000", "00000-r1", "00000-r2"]
    assert due(chain, timedelta(days=1000)) == []
    done = chain.programs.run([*command, str(tmp_path / "failures.csv")])
    assert json.loads(done.stdout.splitlines()[-1])["waiting"] == 0
    assert (tmp_path / "failures.csv").read_text().count("\n") - 1 == sum(
        fate in ("gone", "closed", "ill") for fate in fates.values()
    )


@pytest.mark.timeout(600)
def test_a_wat_file_that_is_published_anew_takes_the_place_of_its_retries(chain: Chain, days: Days) -> None:
    """By another threshold, which fetches nothing: what had failed is due again, and costs no request either. By another size, which
    fetches all: it gets by itself what the retries had."""
    before = published(chain)
    assert units_of(chain)[1:]
    days.asked = []
    loose = ["filter.min_similarity=-1", "filter.min_similarity_other=-1"]
    chain.run(chain.plan(DATASET, "0", *loose, *CALM, snapshot=NEWER))
    assert units_of(chain) == ["00000"]
    without = published(chain)
    chain.run(due(chain, timedelta(hours=25)))
    everything = published(chain)
    assert set(before) < set(everything)
    assert set(without) < set(everything)
    assert days.asked == []

    chain.run(chain.plan(DATASET, "0", *loose, *CALM, "download.image_size=128", snapshot=NEWER))
    assert units_of(chain) == ["00000"]
    assert published(chain) == everything

"""One Airflow for all live tests, over one store with several snapshots; one origin answers for all their hosts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_env import DAGS, PLUGINS
from tests.conftest import SHARED
from tests.wat2mds.world.shared_photographs import flickr_rows, fondant_rows
from wat2mds.deploy.launcher import Launcher
from wat2mds.deploy.rest import AirflowClient
from wat2mds.snapshots import Registry, read_collinfo
from wat2mds.store import Layout, Store
from wat2mds.versions import Version, open_table, read_version
from wat2mds.world.demo_world import NEWER, OLDER, World, draw_world
from wat2mds.world.mirror import CrawlSegment, CrawlSnapshot, wat_path, write_collinfo, write_mirror, write_wat_listing
from wat2mds.world.origin import Answer, Origin, Source, first_of
from wat2mds.world.page import Page, image
from wat2mds.world.photographs import PhotographWorld, write_photograph_world
from wat2mds.world.replay import Archive

DAG, IMPORT_DAG, RETRY_DAG, SUBSET_DAG = "build_dataset", "build_from_metadata", "retry_downloads", "build_subset"
REFRESH_DAG, INDEX_DAG, TAKEDOWN_DAG = "refresh_snapshots", "build_search_index", "apply_takedowns"
BLACKBOOK, PHOTOGRAPHS, BROKEN = "CC-MAIN-2008-18", "CC-MAIN-2020-05", "CC-MAIN-2021-04"
# Called with host and target of each request; an answer that it returns is given in place of the world's.
Hook = Callable[[str, str], "Answer | None"]
LONG_AGO = datetime(2008, 4, 30, 20, 48, 25, tzinfo=UTC)


@dataclass
class Live:
    """The running deployment."""

    airflow: Launcher
    client: AirflowClient
    world: World
    root: str
    on_request: list[Hook] = field(default_factory=list)
    refreshed: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)  # messages to people, as they came

    def refresh(self, run_id: str) -> None:
        """The end of one run of refresh_snapshots, and its result."""
        ended = self.client.wait(REFRESH_DAG, run_id, check=self.airflow.check, timeout=300)
        assert ended["state"] == "success", self.explain(run_id, REFRESH_DAG)
        self.refreshed.append(self.client.xcom(REFRESH_DAG, run_id, "refresh"))

    def layout(self, dataset: str) -> Layout:
        return Layout(self.root, dataset)

    def finish(self, run_id: str) -> str:
        ended = self.client.wait(DAG, run_id, check=self.airflow.check, timeout=600, interval=2)
        return str(ended["state"])

    def build(self, **conf: Any) -> str:
        """A manual run that must be green; its id."""
        self.client.set_paused(DAG, False)
        run_id = self.client.trigger(DAG, conf)
        assert self.finish(run_id) == "success", self.explain(run_id)
        return run_id

    def explain(self, run_id: str, dag_id: str = DAG) -> str:
        for task in self.client.tasks(dag_id, run_id):
            if task["state"] == "failed":
                log = self.client.log(dag_id, run_id, task["task_id"], map_index=task["map_index"], try_number=task["try_number"])
                return f"{task['task_id']} failed:\n" + "\n".join(log.splitlines()[-40:])
        return "no task failed"

    def message(self, title: str, run_id: str) -> dict[str, Any]:
        """What people were told of a run under this title; Airflow's processes that send messages run beside the scheduler."""
        deadline = time.monotonic() + 120
        while not (found := [told for told in self.told if told["title"] == title and run_id in told["message"]]):
            self.airflow.check()
            assert time.monotonic() < deadline, f"nobody was told of {run_id}, but: {[told['title'] for told in self.told]}"
            time.sleep(0.5)
        return found[0]

    def report(self, dataset: str, batch: str) -> dict[str, Any]:
        found: dict[str, Any] = Store(self.layout(dataset).reports).read_json(f"{batch}.json")
        return found

    def only_report(self, dataset: str) -> dict[str, Any]:
        names, _ = Store(self.layout(dataset).reports).names()
        (name,) = [name for name in names if name.endswith(".json")]
        assert f"{name.removesuffix('.json')}.html" in names, "its page for people"
        return self.report(dataset, name.removesuffix(".json"))

    def uids(self, dataset: str, version: Version | None = None) -> list[str]:
        url = self.layout(dataset).dataset
        table = open_table(url, version or read_version(url)).to_pyarrow_table(columns=["uid"])
        found: list[str] = table["uid"].to_pylist()
        return found

    def published_bytes(self, dataset: str, wat_file: str, snapshot: str = NEWER) -> dict[str, str]:
        """One WAT file's shards, their index and embeddings by path, and the table's rows but for fetched_at, which is in the
        metadata and outcomes too."""
        url = self.layout(dataset).dataset
        version = read_version(url)
        store = Store(url)
        (unit,) = [u for u in version.units.values() if (u.snapshot, u.wat_file) == (snapshot, wat_file)]
        paths = [o.path for o in unit.objects if o.path.startswith(("shards/", "embeddings/")) and "/metadata/" not in o.path]
        table = open_table(url, version).to_pyarrow_table(filters=[("snapshot", "=", snapshot), ("wat_file", "=", wat_file)])
        rows = table.drop_columns(["fetched_at"]).sort_by("uid").to_pylist()
        assert rows
        found = {path: hashlib.sha256(store.read(path)).hexdigest() for path in paths}
        return found | {"rows": hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()}


def mirror_of(folder: Path, name: str, wat: Path) -> dict[str, str]:
    """A listing of one segment whose one WAT file is ``wat``, in place."""
    segment = CrawlSegment("1209588505000.0", LONG_AGO, [[]])
    write_collinfo(folder, [CrawlSnapshot(name, LONG_AGO, LONG_AGO, [segment])])
    (path,) = write_wat_listing(folder, name, [segment])
    (folder / path).parent.mkdir(parents=True)
    (folder / path).symlink_to(wat)
    return {"collinfo": str(folder / "collinfo.json"), "source": str(folder)}


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = tmp_path_factory.mktemp("live")
    world = draw_world(base / "world")
    root = (base / "store").as_uri()
    registry = Registry(root)
    # The older snapshot is listed, but its WAT files are not yet.
    listing = world.crawl / "crawl-data" / OLDER / "wat.paths.gz"
    hidden = listing.rename(base / listing.name)
    sources: list[Source] = []
    if SHARED.is_dir():
        data = SHARED / "data"
        registry.register(BLACKBOOK, **mirror_of(base / "bb", BLACKBOOK, data / "wat/derived/example-IAH-blackbook.warc.wat.gz"))
        sources.append(Archive([data / "warc/example-IAH-blackbook.warc.gz"]))
        photographs = write_real_photographs(base / "photographs", data)
        registry.register(PHOTOGRAPHS, collinfo=str(photographs.crawl / "collinfo.json"), source=str(photographs.crawl))
        sources.append(photographs.origin()._server.source)
    broken = write_broken_crawl(base / "broken")
    registry.register(BROKEN, collinfo=str(broken / "collinfo.json"), source=str(broken))
    hooks: list[Hook] = []
    everything = first_of(world.origin()._server.source, *sources)

    def answer(host: str, target: str) -> Answer | None:
        for hook in list(hooks):
            if (made := hook(host, target)) is not None:
                return made
        return everything(host, target)

    with Origin(answer) as origin, served(world.crawl) as common_crawl, webhook() as (address, told):
        settings = {
            "WAT2MDS_SOURCE": common_crawl,
            "WAT2MDS_COLLINFO": f"{common_crawl}/collinfo.json",
            "WAT2MDS_SNAPSHOT_SEGMENTS": "1",
            "AIRFLOW_CONN_WAT2MDS_NOTIFY": json.dumps({"conn_type": "generic", "password": f"nobody://here {address}"}),
            "WAT2MDS_DATASET": "demo",
            "WAT2MDS_PROFILE": "demo",
            "WAT2MDS_SCHEDULE_FROM": read_collinfo(str(world.collinfo))[NEWER][0].isoformat(),
            "WAT2MDS_DOWNLOAD__RESOLVER": origin.address,
            "WAT2MDS_DOWNLOAD__PROCESSES": "1",
            "WAT2MDS_DOWNLOAD__HOST_REST": "0.2",
            # Another threshold is tried on what is there.
            "WAT2MDS_UPLOAD__KEEP_IMAGES": "true",
            # The LAION profiles with a model that is at hand: settings alone choose it.
            "WAT2MDS_FILTER__CLIP_MODEL": "wat2mds-tiny",
            "WAT2MDS_FILTER__LANGUAGE_CANDIDATES": "en,de,fr,es,it,nl,pt,ru,ja,zh",
        }
        with Launcher(base / "home", root, dags=DAGS, plugins=PLUGINS, settings=settings) as airflow, airflow.client() as client:
            client.wait_for_dag(DAG)
            live = Live(airflow, client, world, root, hooks, told=told)
            client.wait_for_dag(REFRESH_DAG)
            client.set_paused(REFRESH_DAG, False)
            while not (runs := client.runs(REFRESH_DAG)):  # today's
                airflow.check()
                time.sleep(0.5)
            live.refresh(runs[0]["dag_run_id"])
            hidden.rename(listing)
            live.refresh(client.trigger(REFRESH_DAG))
            yield live


@contextlib.contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web hook for messages to people: its address as Apprise writes it, and what it was sent."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"json://127.0.0.1:{server.server_address[1]}/a-token", told
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP, as Common Crawl's server gives it: its URL."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *request: Any) -> None:
            super().__init__(*request, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def write_real_photographs(folder: Path, data: Path) -> PhotographWorld:
    rows = [*fondant_rows(data), *flickr_rows(data)]
    start = datetime(2020, 1, 17, 10, 0, 0, tzinfo=UTC)
    return write_photograph_world(folder, rows, snapshot=PHOTOGRAPHS, segment="1579250589560.0", start=start)


def write_broken_crawl(folder: Path) -> Path:
    """Two WAT files, the second of which is listed but not there."""
    start = datetime(2021, 1, 15, 10, 0, 0, tzinfo=UTC)
    page = Page("http://blog.photos.example.com/", (image("/none.jpg", "an image that is gone"),), start)
    segment = CrawlSegment("1610703495936.0", start, [[page], [page]])
    write_mirror(folder, [CrawlSnapshot(BROKEN, start, start, [segment])])
    (folder / wat_path(BROKEN, segment.name, start, 1)).unlink()
    return folder

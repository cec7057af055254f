"""build_dataset through a real scheduler: by schedule, by hand and by backfill; a killed stage, a missing WAT file; real input."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.dags.live import BLACKBOOK, BROKEN, DAG, IMPORT_DAG, INDEX_DAG, PHOTOGRAPHS, RETRY_DAG, SUBSET_DAG, Hook, Live
from tests.wat2mds.chain import Chain
from tests.wat2mds.programs import Programs
from wat2mds.plan import choose_wat_files, plan_run
from wat2mds.reading import open_subset, temporary_dataset
from wat2mds.search.reading import list_indices, open_index
from wat2mds.search.vectors import StoredVectors
from wat2mds.serve.encoder import Encoder
from wat2mds.settings import load_settings
from wat2mds.snapshots import Registry
from wat2mds.store import Store
from wat2mds.subsets import built_versions
from wat2mds.versions import open_table, read_version
from wat2mds.world.demo_world import NEWER, OLDER
from wat2mds.world.origin import Answer

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def kill_once(root: str) -> Hook:
    """After some images of a download, kill -9 the stage's process: once."""
    requests = itertools.count(1)  # next() is atomic: the origin's threads call the hook at once

    def hook(host: str, target: str) -> None:
        if next(requests) != 15:
            return
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "wat2mds" in line and "download" in line and any(root in word for word in line):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    return hook


def test_new_snapshots_are_registered_as_they_appear(live: Live) -> None:
    first, second = live.refreshed
    assert (first["listed"], first["registered"]) == (2, [NEWER])
    assert f"{OLDER}/wat.paths.gz: its WAT files are not listed yet" in first["left"][OLDER]
    assert (second["known"], second["registered"], second["left"]) == (1, [OLDER], {})
    assert {NEWER, OLDER} <= {snapshot.id for snapshot in Registry(live.root).snapshots()}


def test_the_schedule_builds_the_newer_snapshot_though_a_download_is_killed(live: Live) -> None:
    live.on_request.append(kill_once(live.root))
    live.client.set_paused(DAG, False)
    key = next(Registry(live.root).get(NEWER).batches()).partition_key
    run_id = ""
    while not run_id:
        time.sleep(1)
        live.airflow.check()
        run_id = next((r["dag_run_id"] for r in live.client.runs(DAG) if r["partition_key"] == key), "")
    assert live.finish(run_id) == "success", live.explain(run_id)
    live.on_request.clear()

    tasks = live.client.tasks(DAG, run_id)
    tried = {(t["task_id"], t["rendered_map_index"]): t["try_number"] for t in tasks}
    assert max(n for (task, _), n in tried.items() if task.endswith("download")) == 2, "the killed download is tried again"
    assert {label for (task, label), _ in tried.items() if "." in task} == {"00000", "00001", "00002"}
    assert set(live.uids("demo")) == live.world.expected.uids(NEWER)
    report = live.report("demo", key)
    assert (report["failed"], report["funnel"]["problems"]) == ({}, [])
    log = live.client.log(DAG, run_id, "report")
    assert "the funnel reconciles" in log
    assert "published" in log
    killed = next(t for t in tasks if t["task_id"].endswith("download") and t["try_number"] == 2)
    first_try = live.client.log(DAG, run_id, killed["task_id"], map_index=killed["map_index"], try_number=1)
    assert "wat2mds download file:///" in first_try, "the command line is logged so that it can be pasted"
    assert "SIGKILL" in first_try

    # XCom holds URIs and counts only.
    assert len(json.dumps(live.client.xcom(DAG, run_id, "plan"))) < 3 * 2000

    # The same WAT file undisturbed, into another dataset under the same root: all its samples, and the same bytes.
    number = killed["rendered_map_index"]
    live.build(dataset="undisturbed", wat_files=str(int(number)))
    assert live.published_bytes("undisturbed", number) == live.published_bytes("demo", number)


def test_the_form_works_untouched_and_finds_its_work_done(live: Live) -> None:
    before = read_version(live.layout("demo").dataset)
    run_id = live.build()
    assert read_version(live.layout("demo").dataset).number == before.number
    units = live.client.xcom(DAG, run_id, "plan")
    assert [(u["snapshot"], u["wat_file"]) for u in units] == [(NEWER, "00000")]
    done = {
        t["task_id"]: live.client.xcom(DAG, run_id, t["task_id"], map_index=t["map_index"])
        for t in live.client.tasks(DAG, run_id)
        if t["task_id"] not in ("plan", "report")
    }
    assert {name: summary["done_before"] for name, summary in done.items()} == dict.fromkeys(done, True)


def test_a_backfill_builds_one_batch(live: Live) -> None:
    environment = live.airflow.environment()
    key = next(Registry(live.root).get(OLDER).batches()).partition_key

    def backfill(*options: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "wat2mds", "backfill", "--from", OLDER, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if "--dry-run" in options:
            assert f"would run {key}" in done.stderr
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    live.client.set_paused(DAG, False)
    looked = backfill("--dry-run")
    assert (looked["dry_run"], looked["batches"]) == (True, {key: {"wat_files": 3, "done": 0, "from": {"extract": 3}}})
    backfill()
    run_id = ""
    while not run_id:
        time.sleep(1)
        live.airflow.check()
        run_id = next((r["dag_run_id"] for r in live.client.runs(DAG, run_type=["backfill"]) if r["partition_key"] == key), "")
    for run in live.client.runs(
        DAG, state=["queued", "running"]
    ):  # what the schedule began meanwhile too, where this test runs alone
        live.finish(run["dag_run_id"])
    assert live.finish(run_id) == "success", live.explain(run_id)
    assert sorted(live.uids("demo")) == sorted(live.world.expected.uids())


def test_a_wat_file_that_is_missing_makes_the_run_red_and_holds_nobody_back(live: Live) -> None:
    run_id = live.client.trigger(DAG, {"snapshot": BROKEN, "wat_files": "0-1", "dataset": "broken"})
    assert live.finish(run_id) == "failed"
    states = {(t["task_id"], t["rendered_map_index"]): t for t in live.client.tasks(DAG, run_id)}
    extract = states["extract", "00001"]
    assert (extract["state"], extract["try_number"]) == ("failed", 1), "bad input is not tried again"
    log = live.client.log(DAG, run_id, "extract", map_index=extract["map_index"])
    assert "does not exist" in log
    assert "wat2mds extract" in log
    assert states["publish", None]["state"] == "success"
    version = read_version(live.layout("broken").dataset)
    assert [u.wat_file for u in version.units.values()] == ["00000"]
    assert [name.rpartition(".")[2] for name in version.missing] == ["00001"]
    report_log = live.client.log(DAG, run_id, "report")
    assert "1 of 2 WAT files are not published" in report_log
    message = live.message("build_dataset failed", run_id)
    assert f"{live.airflow.url}/dags/{DAG}/runs/" in message["message"]
    assert message["type"] == "failure"


@pytest.mark.shared
def test_a_real_crawl_of_2008(live: Live, shared: Path) -> None:
    """Of its 666 links with alt every one ends published or under a stated drop reason; the tiny model's threshold is set to keep
    all, for it knows nothing of photographs."""
    live.build(snapshot=BLACKBOOK, dataset="blackbook", profile="laion400m", min_similarity=-1)
    report = live.only_report("blackbook")
    assert report["funnel"]["problems"] == []
    lines = {(line["stage"], line["source"]): line for line in report["funnel"]["lines"]}
    links = lines["extract", "links"]
    with_alt = links["entered"] - links["drops"].get("no_caption", 0)
    assert with_alt == 666
    assert lines["dedup", "pairs"]["left"] == 98
    stated = sum(n for line in lines.values() for reason, n in line["drops"].items() if reason != "no_caption")
    stated -= sum(lines["extract", "records"]["drops"].values())
    assert lines["publish", "uploaded"]["left"] + stated == 666
    assert read_all(live, "blackbook") == lines["publish", "uploaded"]["left"] > 0


@pytest.mark.shared
def test_real_photographs(live: Live, shared: Path) -> None:
    """2,000 links of real pages and photographs. The tiny model knows nothing of photographs: the threshold is set to keep all, and what
    LAION-400M's zero-shot rules drop by its tags is as good as drawn by lot."""
    live.build(snapshot=PHOTOGRAPHS, dataset="photographs", profile="laion400m", min_similarity=-1, threads=32)
    report = live.only_report("photographs")
    assert report["funnel"]["problems"] == []
    lines = {(line["stage"], line["source"]): line for line in report["funnel"]["lines"]}
    assert lines["extract", "links"]["entered"] == 2000
    download = lines["download", "unique"]
    assert download["entered"] > 1400
    assert download["drops"]["too_small_bytes"] > 200, "about a quarter of Common Crawl's images are below LAION's 5,000 bytes"
    assert download["left"] > 1100
    tagged = lines["filter", "samples"]["drops"]
    # Two of Common Crawl's images stand under 17 URLs each.
    assert tagged.keys() <= {"underage", "animal", "placeholder"}
    assert read_all(live, "photographs") == lines["publish", "uploaded"]["left"] == download["left"] - sum(tagged.values()) > 500
    licensed = open_table(live.layout("photographs").dataset, read_version(live.layout("photographs").dataset)).to_pyarrow_table()
    assert {"by", "by-sa", "by-nc-nd"} & set(licensed["license_type"].to_pylist())


def read_all(live: Live, dataset: str) -> int:
    """Every sample read through a DataLoader with two workers: each uid once, each image decodes. Their number."""
    import io

    from PIL import Image
    from torch.utils.data import DataLoader

    seen: list[str] = []
    with temporary_dataset(live.layout(dataset).dataset, batch_size=16) as samples:
        for batch in DataLoader(samples, batch_size=16, num_workers=2, collate_fn=list):
            for sample in batch:
                with Image.open(io.BytesIO(sample["jpg"])) as picture:
                    picture.load()
                    assert picture.size == (sample["width"], sample["height"])
                seen.append(sample["uid"])
    assert len(seen) == len(set(seen))
    assert sorted(seen) == sorted(live.uids(dataset))
    return len(seen)


def test_the_shown_dataset_reads_whole(live: Live) -> None:
    assert read_all(live, "demo") == len(live.world.expected.uids())


def test_what_failed_for_a_day_is_gained_the_next(live: Live) -> None:
    """Three in ten images of a WAT file answer 503; retry_downloads publishes them beside the others, and then finds nothing to do.

    A subset and a kNN index of the dataset, built by DAGs of their own in between, have them too, because they were published.
    """

    def down(host: str, target: str) -> Answer | None:
        failing = target != "/robots.txt" and hashlib.sha256(f"{host}{target}".encode()).digest()[0] % 10 < 3
        return Answer(b"", 503) if failing else None

    wanted = sorted(live.world.expected.of(NEWER)["00000"].uids)
    live.on_request.append(down)
    try:
        live.build(dataset="retried", snapshot=NEWER, wat_files="0")
    finally:
        live.on_request.remove(down)
    assert set(live.uids("retried")) < set(wanted)
    build_large_subset(live, "retried")
    build_index(live, "retried")

    live.client.wait_for_dag(RETRY_DAG)
    live.client.set_paused(RETRY_DAG, False)
    states = []
    for early in (True, False):  # what has still to wait for a day, then what is due
        run_id = live.client.trigger(RETRY_DAG, {"dataset": "retried", "early": early})
        ended = live.client.wait(RETRY_DAG, run_id, check=live.airflow.check, timeout=600, interval=2)
        assert ended["state"] == "success", live.explain(run_id, RETRY_DAG)
        states.append({(t["task_id"], t["rendered_map_index"]): t["state"] for t in live.client.tasks(RETRY_DAG, run_id)})
        assert sorted(live.uids("retried")) == wanted
    assert states[0]["build_wat_file.upload", "00000-r1"] == states[0]["report", None] == "success"
    assert {state for (task, _), state in states[1].items()} == {"skipped"}
    version = read_version(live.layout("retried").dataset)
    assert [unit.wat_file for unit in version.units.values()] == ["00000", "00000-r1"]
    assert read_all(live, "retried") == len(wanted)
    follow_large_subset(live, "retried")
    follow_index(live, "retried")


def build_large_subset(live: Live, dataset: str) -> None:
    """Through build_subset's form; a wrong condition is refused before anything is written. From then on the DAG follows publishes."""
    live.client.wait_for_dag(SUBSET_DAG)
    live.client.set_paused(SUBSET_DAG, False)
    wrong, right = (
        {"dataset": dataset, "name": "large", "mds": True, "where": f"{column} LIKE '% large %'"}
        for column in ("text", "caption")
    )
    ended = [live.client.trigger(SUBSET_DAG, conf) for conf in (wrong, right)]
    states = [live.client.wait(SUBSET_DAG, run, check=live.airflow.check, timeout=300, interval=1)["state"] for run in ended]
    assert states == ["failed", "success"], live.explain(ended[1], SUBSET_DAG)
    log = live.client.log(SUBSET_DAG, ended[0], "check")
    assert "there is no column 'text'" in log
    assert "page_http_status" in log, "the columns that exist"
    assert {t["task_id"]: t["state"] for t in live.client.tasks(SUBSET_DAG, ended[0])}["build"] == "upstream_failed"
    check_large_subset(live, dataset)


def follow_large_subset(live: Live, dataset: str) -> None:
    version = read_version(live.layout(dataset).dataset).number
    deadline = time.monotonic() + 300
    while built_versions(Store(live.layout(dataset).dataset), "large")[-1:] != [version]:
        live.airflow.check()
        assert time.monotonic() < deadline, [(r["run_type"], r["state"]) for r in live.client.runs(SUBSET_DAG)]
        time.sleep(1)
    for run in live.client.runs(SUBSET_DAG, run_type=["asset_triggered"]):
        live.client.wait(SUBSET_DAG, run["dag_run_id"], check=live.airflow.check, timeout=300, interval=1)
    live.client.set_paused(SUBSET_DAG, True)
    check_large_subset(live, dataset)


def check_large_subset(live: Live, dataset: str) -> None:
    """The subset's own shards hold what the newest version has of it."""
    url = live.layout(dataset).dataset
    captions = open_table(url, read_version(url)).to_pyarrow_table(columns=["uid", "caption"]).to_pylist()
    with tempfile.TemporaryDirectory() as cache:
        samples = open_subset(url, "large", read_version(url).number, local=cache)
        found = sorted(samples[n]["uid"] for n in range(len(samples)))
    assert found == sorted(row["uid"] for row in captions if " large " in row["caption"])
    assert found


def build_index(live: Live, dataset: str) -> None:
    """Through build_search_index's form. From then on the DAG follows publishes."""
    live.client.wait_for_dag(INDEX_DAG)
    live.client.set_paused(INDEX_DAG, False)
    run_id = live.client.trigger(INDEX_DAG, {"dataset": dataset})
    ended = live.client.wait(INDEX_DAG, run_id, check=live.airflow.check, timeout=300, interval=1)
    assert ended["state"] == "success", live.explain(run_id, INDEX_DAG)
    check_index(live, dataset)


def follow_index(live: Live, dataset: str) -> None:
    url = live.layout(dataset).dataset
    deadline = time.monotonic() + 300
    while list_indices(url)[-1].version != read_version(url).number:
        live.airflow.check()
        assert time.monotonic() < deadline, [(r["run_type"], r["state"]) for r in live.client.runs(INDEX_DAG)]
        time.sleep(1)
    for run in live.client.runs(INDEX_DAG, run_type=["asset_triggered"]):
        ended = live.client.wait(INDEX_DAG, run["dag_run_id"], check=live.airflow.check, timeout=300, interval=1)
        assert ended["state"] == "success", live.explain(run["dag_run_id"], INDEX_DAG)
    live.client.set_paused(INDEX_DAG, True)
    check_index(live, dataset)


def check_index(live: Live, dataset: str) -> None:
    """The newest index is the newest version's; each sample's stored embedding finds it, and its caption a sample of that caption."""
    url = live.layout(dataset).dataset
    version = read_version(url)
    index = open_index(url)
    assert (index.record.name, index.record.version, index.record.count) == ("small", version.number, version.samples)
    stored = StoredVectors(Store(url), version)
    for unit in stored.unit_names:
        queries = np.concatenate(list(stored.blocks(unit, "image")))
        for (high, low), hits in zip(stored.uids(unit).tolist(), index.search(queries, 10, "image"), strict=True):
            assert f"{high:016x}{low:016x}" in {hit.uid for hit in hits if hit.score > 0.999}
    captions = dict(zip(*open_table(url, version).to_pyarrow_table(columns=["uid", "caption"]).to_pydict().values(), strict=True))
    encoder = Encoder(*stored.clip, "cpu")
    for caption in sorted(set(captions.values()))[:10]:
        [[hit]] = index.search(encoder.text(caption)[np.newaxis], 1, "text")
        assert captions[hit.uid] == caption


def test_nothing_secret_is_in_the_logs(live: Live) -> None:
    secrets = [live.airflow.password]
    logs = [p for p in (live.airflow.home / "logs").rglob("*.log") if "dag_id=" in str(p)]
    assert logs
    for path in logs:
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text("utf-8", "replace")
            assert not any(secret in text for secret in secrets)


@pytest.mark.shared
def test_a_list_of_pairs_is_built_by_its_own_dag(live: Live, shared: Path, tmp_path: Path) -> None:
    """Forty rows of Common Crawl's index, two files, through build_from_metadata; the images are the origin's photographs."""
    index = pq.read_table(shared / "laion_meta" / "fondant-cc-1000-index.parquet")
    captioned = index.filter(pc.greater_equal(pc.utf8_length(index["alt+text"]), 5))
    for number in range(2):
        pq.write_table(captioned.slice(20 * number, 20), tmp_path / f"part-{number}.parquet")
    live.client.wait_for_dag(IMPORT_DAG)
    live.client.set_paused(IMPORT_DAG, False)
    conf = {"files": f"{tmp_path}/part-*.parquet", "name": "fondant", "dataset": "lists", "min_similarity": -1}
    run_id = live.client.trigger(IMPORT_DAG, conf)
    ended = live.client.wait(IMPORT_DAG, run_id, check=live.airflow.check, timeout=600, interval=2)
    assert ended["state"] == "success", live.explain(run_id, IMPORT_DAG)
    labels = {(t["task_id"], t["rendered_map_index"]) for t in live.client.tasks(IMPORT_DAG, run_id)}
    assert {("import", "00000"), ("import", "00001"), ("build_wat_file.upload", "00001")} <= labels
    report = live.report("lists", "fondant.import")
    assert (report["failed"], report["funnel"]["problems"]) == ({}, [])
    lines = {(line["stage"], line["source"]): line for line in report["funnel"]["lines"]}
    assert lines["import", "rows"]["entered"] == 40
    assert read_all(live, "lists") == lines["publish", "uploaded"]["left"] > 0


def test_a_backfill_from_filter_makes_decisions_and_what_follows(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two snapshots under another threshold: nothing is fetched or scored again, and all is as if built so from the start."""
    work = Store(f"{live.layout('demo').dataset}/work")

    def manifests() -> dict[str, set[str]]:
        """By stage, the manifests of both snapshots' WAT files."""
        found: dict[str, set[str]] = {}
        for entry in work.walk():
            parts = entry.path.split("/")
            if entry.path.endswith(".json") and len(parts) <= 6 and "progress" not in parts and parts[0] in (OLDER, NEWER):
                found.setdefault("/".join(parts[3:-1]), set()).add(f"{entry.path} {entry.tag}")
        return found

    for snapshot in (NEWER, OLDER):  # built by the tests above, where these ran
        if not any(place.startswith(f"{snapshot}/") for stage in manifests().values() for place in stage):
            live.build(snapshot=snapshot, wat_files="0-2")
    url = live.layout("demo").dataset
    similarities = open_table(url, read_version(url)).to_pyarrow_table(columns=["similarity"])["similarity"].to_pylist()
    least = f"{sorted(similarities)[len(similarities) // 2]:.5f}"
    overrides = [f"filter.min_similarity={least}", f"filter.min_similarity_other={least}"]
    before, samples = manifests(), read_version(url).samples
    while any(backfill["completed_at"] is None for backfill in live.client.backfills(DAG)):
        time.sleep(1)

    def backfill(*options: str) -> dict[str, Any]:
        given = [word for override in overrides for word in ("--set", override)]
        command = [sys.executable, "-m", "wat2mds", "backfill", "--from", OLDER, "--to", NEWER, *given, *options]
        done = subprocess.run(command, env=live.airflow.environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    looked = backfill("--from-stage", "filter", "--dry-run")
    assert [batch["from"] for batch in looked["batches"].values()] == [{"filter": 3}, {"filter": 3}]
    live.client.set_paused(DAG, False)
    earlier = {run["dag_run_id"] for run in live.client.runs(DAG)}
    backfill("--from-stage", "filter", "--max-active-runs", "2")
    made: list[str] = []
    while len(made) < 2:
        time.sleep(0.5)
        live.airflow.check()
        made = [r["dag_run_id"] for r in live.client.runs(DAG, run_type=["backfill"]) if r["dag_run_id"] not in earlier]
    for run_id in made:
        assert live.finish(run_id) == "success", live.explain(run_id)

    after = manifests()
    for stage in ("extract", "dedup", "download", "filter/scores"):
        assert after[stage] == before[stage], f"{stage} was made again"
    for stage in ("filter", "validate", "convert", "upload"):
        assert len(after[stage] - before[stage]) == 6, f"{stage} was not made for each WAT file"
    assert read_version(url).samples < samples

    # The same from the start, by the same commands, without Airflow.
    for name, value in live.airflow.environment().items():
        if name.startswith("WAT2MDS_"):
            monkeypatch.setenv(name, value)
    with Programs() as programs:
        chain = Chain(live.root, "", programs)
        for snapshot in (NEWER, OLDER):
            chosen = choose_wat_files(Registry(live.root), partition_key=None, snapshot=snapshot, segment="0", wat_files="0-2")
            chain.run(plan_run(live.root, "afresh", load_settings(None, overrides), chosen))
    units = read_version(live.layout("afresh").dataset).units
    assert len(units) == 6
    for unit in units.values():
        fresh = live.published_bytes("afresh", unit.wat_file, unit.snapshot)
        assert fresh == live.published_bytes("demo", unit.wat_file, unit.snapshot)


def test_maintenance_takes_nothing_that_is_young(live: Live) -> None:
    before = {entry.path for entry in Store(live.root).walk("datasets")}
    live.client.wait_for_dag("maintain")
    live.client.set_paused("maintain", False)
    run_id = live.client.trigger("maintain", {"dry_run": False})
    ended = live.client.wait("maintain", run_id, check=live.airflow.check, timeout=600)
    assert ended["state"] == "success", live.explain(run_id, "maintain")
    assert {task["task_id"]: task["state"] for task in live.client.tasks("maintain", run_id)} == dict.fromkeys(
        ("work", "objects", "uploads", "database", "logs"), "success"
    )
    assert live.client.xcom("maintain", run_id, "work")["dry_run"] is False
    assert before <= {entry.path for entry in Store(live.root).walk("datasets")}

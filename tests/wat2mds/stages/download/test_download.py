"""The stage as a whole: real processes, real sockets, img2dataset's engine."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.wat2mds.stages.download.hostile_origin import picture
from tests.wat2mds.stages.download.test_images import png_header
from wat2mds.errors import ConfigError, TransientError
from wat2mds.manifest import Manifest
from wat2mds.schema import SAMPLES
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import download
from wat2mds.stages.download import workers
from wat2mds.stages.download.shards import interleave
from wat2mds.world.origin import Answer, AnswerTable, Origin

MakePairs = Callable[[Sequence[str]], Manifest]
STATS = {"count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time", "status_dict"}


def settings(origin: Origin, **changes: object) -> Settings:
    quick = {
        "resolver": origin.address,
        "processes": 2,
        "threads": 8,
        "timeout": 5,
        "deadline": 10,
        "retries": 0,
        "host_delay": 0,
    }
    return Settings.model_validate({"download": quick | {"samples_per_shard": 10} | changes})


def local(url: str) -> Path:
    return Path(urlsplit(url).path)


def rows(manifest: Manifest) -> pa.Table:
    return pa.concat_tables([pq.read_table(local(manifest.file(name))) for name in manifest.matching(".parquet")])


def test_a_worker_imports_of_img2dataset_what_it_runs() -> None:
    """Its whole package holds torch and pandas, for seconds and 400 MB in each worker."""
    program = """
import sys
from wat2mds.stages.download.engine import peer
print(peer.Downloader.__module__, sorted({"img2dataset", "wandb", "torch", "pandas", "albumentations"} & sys.modules.keys()))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=child_environment())
    assert said.stdout == "img2dataset.downloader []\n"


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return picture(300, 200, exif=exif)


def deep() -> bytes:
    return bytes(
        cv2.imencode(".png", np.full((200, 300, 3), 40000, np.uint16) + np.arange(300, dtype=np.uint16)[None, :, None])[1]
    )


def transparent() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pixels[:32, :, 3] = 0
    Image.fromarray(pixels, "RGBA").save(out, "PNG")
    return out.getvalue()


JPEG, PNG, WEBP = picture(320, 240), picture(100, 100, "PNG"), picture(90, 120, "WEBP")
NOAI = (("X-Robots-Tag", "otherbot: all, wat2mds: noai"),)
# What is served, and what has to come of it: width, height, original width and height, or the drop reason.
CASES: dict[str, tuple[Answer, tuple[int, int, int, int] | str]] = {
    "jpeg": (Answer(JPEG), (256, 256, 320, 240)),
    "png": (Answer(PNG), (256, 256, 100, 100)),
    "webp": (Answer(WEBP), (256, 256, 90, 120)),
    "grey": (Answer(picture(99, 77, "JPEG", quality=100)), (256, 256, 99, 77)),
    "oriented": (Answer(oriented(6)), (256, 256, 200, 300)),
    "deep": (Answer(deep()), (256, 256, 300, 200)),
    "transparent": (Answer(transparent()), (256, 256, 64, 64)),
    "redirected": (Answer(status=301, headers=(("Location", "http://other.example/jpeg"),)), (256, 256, 320, 240)),
    "missing": (Answer(status=404), "http_404"),
    "broken": (Answer(status=500), "http_5xx"),
    "html": (Answer(b"<html>" + b"sorry " * 2000, headers=(("Content-Type", "image/jpeg"),)), "not_image"),
    "gif": (Answer(picture(100, 100, "GIF")), "not_image"),
    "truncated": (Answer(JPEG[: len(JPEG) // 2]), "decode"),
    "truncated-png": (Answer(PNG[: len(PNG) // 2]), "decode"),
    "tiny": (Answer(JPEG[:3000]), "too_small_bytes"),
    "bomb": (Answer(png_header(50_000, 50_000)), "too_many_pixels"),
    "noai": (Answer(JPEG, headers=NOAI), "x_robots"),
    "tdm": (Answer(JPEG, headers=(("tdm-reservation", "1"),)), "tdm_reserved"),
    "inside": (Answer(status=302, headers=(("Location", "http://127.0.0.1/x.jpg"),)), "private_address"),
    "metadata": (Answer(status=302, headers=(("Location", "http://169.254.169.254/"),)), "private_address"),
    "intranet": (Answer(status=302, headers=(("Location", "http://files.private.test/x.jpg"),)), "private_address"),
    "private/robots": (Answer(JPEG), "robots"),
}


@pytest.fixture
def world() -> AnswerTable:
    table = AnswerTable()
    for host in ("photos.example", "other.example"):
        table.add(f"http://{host}/robots.txt", Answer(b"User-agent: *\nDisallow: /private/\n"))
        for name, (answer, _) in CASES.items():
            table.add(f"http://{host}/{name}", answer)
    return table


def test_every_pair_is_a_row_with_its_outcome(world: AnswerTable, unique_pairs: MakePairs, tmp_path: Path) -> None:
    urls = [f"http://{host}/{name}" for name in CASES for host in ("photos.example", "other.example")]
    unique = unique_pairs(urls)
    with Origin(world) as origin:
        made = download.run(unique, str(tmp_path / "download"), settings(origin), "")
        asked = len(origin.log)
        again = download.run(unique, str(tmp_path / "download"), settings(origin), "")
        assert again.done_before
        assert len(origin.log) == asked
        other = download.run(unique, str(tmp_path / "other"), settings(origin, processes=1, threads=3), "")

    table = rows(made)
    assert table.schema.equals(SAMPLES.schema)
    pairs = pq.read_table(local(unique.file("unique.parquet")))
    for column in ("uid", "url", "caption"):
        assert table[column].to_pylist() == pairs[column].to_pylist()
    assert table["key"].to_pylist() == [f"{i // 10:05d}{i % 10}" for i in range(len(urls))]
    got = {}
    for row in table.to_pylist():
        sizes = (row["width"], row["height"], row["original_width"], row["original_height"])
        got[row["url"]] = row["drop_reason"] or sizes
        failed = row["drop_reason"] is not None
        assert [row["status"] != "success", row["error_message"] is not None] == [failed, failed]
        assert [row["jpg"] is None, row["width"] is None] == [failed, failed]
        assert failed or (len(row["pdq"]) == 64 and len(row["sha256"]) == 64 and row["http_status"] == 200 and row["exif"])
        assert row["fetched_at"] is not None
    assert got == {url: CASES[url.partition("example/")[2]][1] for url in urls}

    (flow,) = made.flows
    assert flow.reconciles
    assert (flow.entered, flow.left) == (len(urls), sum(isinstance(outcome, tuple) for outcome in got.values()))
    stats = [json.loads(local(made.file(name)).read_bytes()) for name in made.matching("_stats.json")]
    assert all(set(one) == STATS for one in stats)
    assert sum(one["count"] for one in stats) == len(urls)
    assert sum(one["successes"] for one in stats) == flow.left
    # Other processes and threads, another time: the same but for fetched_at.
    assert other.flows == made.flows
    assert rows(other).drop(["fetched_at"]).equals(table.drop(["fetched_at"]))


def test_stored_pixels_are_those_served(unique_pairs: MakePairs, tmp_path: Path) -> None:
    table = AnswerTable()
    table.add("http://a.example/a.png", Answer(PNG))
    table.add("http://a.example/deep.png", Answer(deep()))
    unique = unique_pairs(["http://a.example/a.png", "http://a.example/deep.png"])
    with Origin(table) as origin:
        wanted = settings(origin, resize_mode="no", encode_format="png", encode_quality=1)
        made = download.run(unique, str(tmp_path / "download"), wanted, "")
    exact, from_deep = (np.asarray(Image.open(io.BytesIO(data))) for data in rows(made)["jpg"].to_pylist())
    assert np.array_equal(exact, np.asarray(Image.open(io.BytesIO(PNG))))
    assert abs(float(from_deep.mean()) - 40149.5 / 257) < 1


def test_hosts_are_interleaved() -> None:
    urls = [f"http://big.example/{i}" for i in range(8)] + [f"http://small.example/{i}" for i in range(2)] + ["http://[bad/"]
    order = interleave(urls)
    assert sorted(order) == list(range(len(urls)))
    small = [place for place, position in enumerate(order) if "small" in urls[position]]
    assert small[0] in range(1, 5)
    assert small[1] in range(6, 10)


def test_no_pairs_make_an_empty_table(unique_pairs: MakePairs, tmp_path: Path) -> None:
    with Origin(AnswerTable()) as origin:
        made = download.run(unique_pairs([]), str(tmp_path / "download"), settings(origin), "")
    assert rows(made).num_rows == 0
    assert rows(made).schema.equals(SAMPLES.schema)


def test_settings_that_cannot_work_are_refused_before_anything_is_done(unique_pairs: MakePairs, tmp_path: Path) -> None:
    unique = unique_pairs(["http://a.example/a.jpg"])
    with pytest.raises(ConfigError, match="WAT2MDS_CONTACT"):
        download.run(unique, str(tmp_path / "download"), Settings(), "")
    png = Settings.model_validate({"download": {"encode_format": "png", "encode_quality": 95}})
    with pytest.raises(ConfigError, match="compression level"):
        download.run(unique, str(tmp_path / "download"), png, "https://example.org/crawl")
    assert not (tmp_path / "download").exists()


def slow(host: str, target: str) -> Answer | None:
    time.sleep(0.5)
    return Answer(JPEG)


def test_a_killed_worker_is_a_transient_error(unique_pairs: MakePairs, tmp_path: Path) -> None:
    unique = unique_pairs([f"http://a.example/{i}.jpg" for i in range(200)])
    ended: list[BaseException] = []

    def attempt() -> None:
        try:
            download.run(unique, str(tmp_path / "download"), settings(origin), "")
        except BaseException as error:
            ended.append(error)

    with Origin(slow) as origin:
        thread = threading.Thread(target=attempt)
        thread.start()
        wait_until(lambda: len(origin.log) > 4)
        victim = multiprocessing.active_children()[0].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        thread.join(30)
    assert not thread.is_alive()
    assert isinstance(ended[0], TransientError)
    assert "SIGKILL" in str(ended[0])
    assert multiprocessing.active_children() == []
    assert not list((tmp_path / "download").glob("*.json"))


def test_a_worker_that_hangs_is_ended(unique_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock runs ahead once a worker is stopped: nobody waits for minutes here."""
    ahead = 0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    monkeypatch.setattr(workers, "time", clock)
    unique = unique_pairs([f"http://a.example/{i}.jpg" for i in range(200)])
    ended: list[BaseException] = []

    def attempt() -> None:
        try:
            download.run(unique, str(tmp_path / "download"), settings(origin, processes=1), "")
        except BaseException as error:
            ended.append(error)

    with Origin(slow) as origin:
        thread = threading.Thread(target=attempt)
        thread.start()
        wait_until(lambda: len(origin.log) > 4)
        (victim,) = multiprocessing.active_children()
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(2)
        assert thread.is_alive()
        ahead = 3600
        thread.join(30)
    assert not thread.is_alive()
    assert isinstance(ended[0], TransientError)
    assert f"{victim.pid} finished no image" in str(ended[0])
    assert multiprocessing.active_children() == []


def test_workers_end_with_a_killed_stage(unique_pairs: MakePairs, tmp_path: Path) -> None:
    """Else they would go on asking the web on behalf of nobody, beside the next attempt."""
    unique = unique_pairs([f"http://a.example/{i}.jpg" for i in range(500)])
    program = """
import sys
from wat2mds.manifest import read_manifest
from wat2mds.settings import Settings, child_environment
from wat2mds.stages import download
from wat2mds.stages.download import workers
if __name__ == "__main__":
    download.run(read_manifest(sys.argv[1]), sys.argv[2], Settings.from_json(sys.argv[3], ""), "")
"""
    (tmp_path / "stage.py").write_text(program)
    with Origin(slow) as origin:
        arguments = [unique.url, str(tmp_path / "download"), settings(origin).to_json()]
        stage = subprocess.Popen([sys.executable, str(tmp_path / "stage.py"), *arguments])
        wait_until(lambda: len(origin.log) > 4)
        children = psutil.Process(stage.pid).children(recursive=True)
        assert len(children) >= 3
        stage.kill()
        stage.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.shared
def test_real_photographs(shared: Path, unique_pairs: MakePairs, tmp_path: Path) -> None:
    table = AnswerTable()
    photographs = sorted((shared / "photos" / "flickr8k-1000").glob("*.jpg"))[:300]
    urls = [f"http://host{i % 7}.example/{path.name}" for i, path in enumerate(photographs)]
    for url, path in zip(urls, photographs, strict=True):
        table.add(url, Answer(path))
    with Origin(table) as origin:
        made = download.run(unique_pairs(urls), str(tmp_path / "download"), settings(origin, samples_per_shard=100), "")
    small = sum(path.stat().st_size < 5000 for path in photographs)
    assert made.flows[0].left == len(urls) - small
    assert made.flows[0].drops == ({"too_small_bytes": small} if small else {})
    for row, path in zip(rows(made).to_pylist(), photographs, strict=True):
        if row["jpg"] is not None:
            stored = Image.open(io.BytesIO(row["jpg"]))
            assert stored.size == (256, 256) == (row["width"], row["height"])
            with Image.open(path) as original:
                assert original.size == (row["original_width"], row["original_height"])

"""download beside img2dataset 1.47.0: the same photographs from the same nginx, http and https; CPU seconds, and the stored pictures.

Run by ``make bench``, or alone: ``python -m tests.benchmarks.download``. Needs nginx, and the 1,758 real photographs under ../shared. Both
sides are the programs as a user starts them: one process, the same number of threads, 256 pixels with a border, JPEG of quality 95,
parquet with EXIF. img2dataset hashes with SHA-256 alone; wat2mds with MD5, SHA-1 and SHA-256, and it asks robots.txt and
tdmrep.json of the host, takes a permit of it for each request (of which there are as many as threads here: one host is all there is),
checks headers before decoding, and decodes in a process of its own. CPU seconds are those of all processes of a side, from the kernel;
*start-up* is a run of one image, and what remains of a run of all, divided, is what an image costs. Over http each photograph is asked
for twice, so that start-ups weigh less. Runs alternate and ratios are medians over rounds, because a shared machine's speed drifts.
Speed is read, not asserted; it fails where pictures differ that no stated choice explains. Goals: 1.2 times on http without PDQ, 5 times
on https, a start-up no dearer, one grey level at most.

Measured 2026-11-22 on two quiet cores of an EPYC, medians of five rounds over http: img2dataset 2.34 ms CPU an image, wat2mds 2.98,
without PDQ 1.68 (1.29 times; by round 1.15, 1.20, 1.29, 1.49, 1.54); start-up 9.5 s against 2.0, and with it a whole run of 3,516 images
17.7 s against 12.5 with PDQ and 8.1 without. Over https, three rounds: 35.3 ms against 2.8 (12.6 times), without PDQ 1.6 (22 times). A
day before, on a Xeon and without ``download.reduced_decoding``: 2.80 ms against 2.46 without PDQ (1.14 times). Of 3,448 pictures 1,002 had
img2dataset's bytes; the others, which are enlarged, made the mean difference of all 0.22 grey levels, the furthest 0.88; 68 more were
decoded at a fraction of their sides, 0.94 in the mean, the furthest 2.50.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.benchmarks.nginx_origin import ADDRESS, Nginx
from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Input, Unit
from wat2mds.schema import PAIRS, table_of
from wat2mds.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
THREADS, SIDE, QUALITY, SHARD = 64, 256, 95, 1000
ROUNDS = {"http": 5, "https": 3}
TIMES = {"http": 2, "https": 1}
OURS = {"wat2mds": True, "wat2mds, no PDQ": False}
CONTENDERS = ("img2dataset", *OURS)
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Lists:
    """The same URLs, as each side reads them."""

    theirs: Path
    ours: str


def photographs() -> list[bytes]:
    found = [path.read_bytes() for path in sorted((SHARED / "photos" / "flickr8k-1000").iterdir())]
    for path in sorted((SHARED / "laion_meta" / "fondant-images").glob("*.parquet")):
        found += pq.read_table(path, columns=["data"])["data"].to_pylist()
    return found


def write_lists(base: Path, urls: list[str]) -> Lists:
    captions = [f"a photograph that somebody described, {n}" for n in range(len(urls))]
    base.mkdir()
    pq.write_table(pa.table({"url": urls, "caption": captions}), base / "urls.parquet")
    pairs = {"url": urls, "url_normalized": urls, "caption": captions, "caption_source": ["alt"] * len(urls)}
    pairs["uid"] = [uid(*pair) for pair in zip(urls, captions, strict=True)]
    pairs["laion_hash"] = [laion_hash(*pair) for pair in zip(urls, captions, strict=True)]
    place = {"snapshot": "CC-MAIN-2023-50", "segment": "1.0", "wat_file": "00000"}
    pairs |= {name: [value] * len(urls) for name, value in place.items()}
    with Unit("dedup", str(base / "dedup"), [Input("x", "1")], Settings(), unit=place) as unit:
        pq.write_table(table_of(PAIRS, pairs), unit.path("unique.parquet"))
        made = unit.commit([Flow("pairs", "unique", len(urls), len(urls))])
    return Lists(base / "urls.parquet", made.url)


def command(contender: str, lists: Lists, out: Path, ports: dict[str, int]) -> list[str]:
    shape: dict[str, Any] = {"image_size": SIDE, "resize_mode": "border", "encode_format": "jpg", "encode_quality": QUALITY}
    if contender == "img2dataset":
        wanted = shape | {"url_list": lists.theirs, "input_format": "parquet", "url_col": "url", "caption_col": "caption"}
        wanted |= {"output_folder": out, "output_format": "parquet", "compute_hash": "sha256", "extract_exif": True}
        wanted |= {"processes_count": 1, "thread_count": THREADS, "number_sample_per_shard": SHARD}
        return [str(Path(sys.executable).with_name("img2dataset")), *(f"--{name}={value}" for name, value in wanted.items())]
    wanted = shape | {"min_bytes": 0, "pdq": OURS[contender], "allowed_ports": ",".join(map(str, ports.values()))}
    wanted |= {"processes": 1, "threads": THREADS, "samples_per_shard": SHARD}
    wanted |= {"host_connections": THREADS, "host_delay": 0, "host_folder": out.with_name(f"{out.name}-hosts")}
    sets = [word for name, value in wanted.items() for word in ("--set", f"download.{name}={value}")]
    return [sys.executable, "-m", "tests.benchmarks.loopback", "download", lists.ours, "--out", str(out), *sets]


def watch(words: list[str]) -> None:
    """Run a command; print the CPU seconds of all that it started, orphans included, and the largest process's bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=sys.stderr)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024, "wall": time.monotonic() - started}
    print(json.dumps(found))


def measure(contender: str, lists: Lists, out: Path, origin: Nginx) -> dict[str, float]:
    # albumentations, which img2dataset imports, asks the package index for its newest version otherwise.
    environment = {**os.environ, "SSL_CERT_FILE": str(origin.bundle), "NO_ALBUMENTATIONS_UPDATE": "1", "WAT2MDS_CONTACT": "bench"}
    words = [sys.executable, "-m", "tests.benchmarks.download", "watch", *command(contender, lists, out, origin.ports)]
    ended = subprocess.run(words, capture_output=True, cwd=ROOT, env=environment, text=True)
    if ended.returncode:
        sys.exit(f"{contender} failed: {ended.stderr[-4000:]}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    columns = ["url", "jpg", "width", "height", "original_width", "original_height", "status", "error_message"]
    tables = [pq.read_table(path, columns=columns) for path in sorted(out.rglob("0*.parquet"))]
    return {row["url"]: row for row in pa.concat_tables(tables).to_pylist()}


def show_speed(scheme: str, base: Path, lists: tuple[Lists, Lists], images: int, origin: Nginx) -> None:
    rounds = []
    for number in range(ROUNDS[scheme]):
        found = {}
        for name in CONTENDERS:
            one = measure(name, lists[0], base / f"{scheme}-{number}-{name}-1", origin)
            whole = measure(name, lists[1], base / f"{scheme}-{number}-{name}", origin)
            found[name] = {**whole, "start-up": one["cpu"]}
        rounds.append(found)
    for name in CONTENDERS:
        start = statistics.median(r[name]["start-up"] for r in rounds)
        for r in rounds:
            r[name]["each"] = (r[name]["cpu"] - start) / (images - 1)
    print(f"\ndownload over {scheme}: {images:,} images a run; {len(rounds)} alternating rounds\n")
    titles = ("start-up CPU s", "ms CPU/image", "images/CPU s", "x img2dataset", "whole run CPU s", "peak MB", "wall s")
    print(f"  {'':<17}" + "".join(f"{title:>16}" for title in titles))
    for name in CONTENDERS:
        middle = {key: statistics.median(r[name][key] for r in rounds) for key in rounds[0][name]}
        faster = statistics.median(r["img2dataset"]["each"] / r[name]["each"] for r in rounds)
        print(
            f"  {name:<17}{middle['start-up']:>16.2f}{middle['each'] * 1000:>16.2f}{1 / middle['each']:>16.0f}{faster:>16.2f}"
            f"{middle['cpu']:>16.2f}{middle['peak']:>16.0f}{middle['wall']:>16.1f}"
        )
    spread = [r["img2dataset"]["each"] / r["wat2mds, no PDQ"]["each"] for r in rounds]
    print(f"  without PDQ, by round: {', '.join(f'{ratio:.2f}' for ratio in spread)}")


def show_pictures(theirs: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> bool:
    """Mean difference of grey levels, picture by picture. Stated choices: the orientation of EXIF is applied here, and large JPEGs are
    decoded at a fraction of their sides (``download.reduced_decoding``)."""
    equal, turned, both, reduced, other = 0, 0, [], [], []
    for url, row in sorted(theirs.items()):
        mine = ours[url]
        if row["jpg"] is None or mine["jpg"] is None:
            if row["status"] != mine["status"]:
                other.append(f"{url}: img2dataset {row['error_message'] or 'success'}, here {mine['error_message'] or 'success'}")
            continue
        if row["jpg"] == mine["jpg"]:
            equal += 1
        elif _size(row) == _size(mine)[::-1] != _size(mine):
            turned += 1
            continue
        large = row["jpg"] != mine["jpg"] and max(_size(row)) >= 4 * SIDE
        (reduced if large else both).append((float(np.abs(_pixels(row["jpg"]) - _pixels(mine["jpg"])).mean()), url))
    furthest, where = max(both)
    print(
        f"\nPictures: {len(both):,} compared, {equal:,} of the same bytes; {turned} turned upright here by their EXIF, and not compared"
    )
    print(f"  mean difference: {statistics.mean(d for d, _ in both):.4f} grey levels; the furthest {furthest:.4f} ({where})")
    if reduced:
        middle, most = statistics.mean(d for d, _ in reduced), max(reduced)[0]
        print(
            f"  not in it: {len(reduced)} decoded at a fraction of their sides; {middle:.2f} in the mean, the furthest {most:.2f}"
        )
    print("".join(f"  only one side has it: {line}\n" for line in other), end="")
    return furthest <= 1 and not other


def _size(row: dict[str, Any]) -> tuple[int, int]:
    return row["original_width"], row["original_height"]


def _pixels(jpg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpg)) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.int16)


def main() -> None:
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not there: this measurement needs real photographs")
    pictures = photographs()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        served = base / "served"
        served.mkdir()
        for number, data in enumerate(pictures):
            (served / f"{number:05d}.jpg").write_bytes(data)
        print(
            f"{len(pictures):,} photographs, {sum(map(len, pictures)) / len(pictures) / 1000:.1f} KB each, from nginx on {ADDRESS}"
        )
        with Nginx(base / "nginx", served) as origin:
            for scheme, port in origin.ports.items():
                start = f"{scheme}://{ADDRESS}:{port}"
                urls = [f"{start}/{number:05d}.jpg?{time}" for time in range(TIMES[scheme]) for number in range(len(pictures))]
                lists = write_lists(base / f"{scheme}-one", urls[:1]), write_lists(base / f"{scheme}-all", urls)
                show_speed(scheme, base, lists, len(urls), origin)
        same = show_pictures(*(rows_of(base / f"http-0-{name}") for name in CONTENDERS[:2]))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["watch"]:
        watch(sys.argv[2:])
    else:
        main()

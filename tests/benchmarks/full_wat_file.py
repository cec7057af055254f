"""One WAT file of 400,000 pairs through the table handling of the stages after filter: peak memory and CPU seconds of each.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.full_wat_file [--pairs 400000]

Synthetic tables stand for download's and filter's output: every pair has a JPEG of a few hundred bytes, embeddings have 512 columns, and
all is kept, which is the most that a later stage can meet. Each stage runs in a process of its own. Bar: 4 GB.

Measured 2026-11-21, 400,000 pairs, 2 cores shared with other work:

    decide    peak   287 MB,   1 CPU s
    validate  peak 2,962 MB,  33 CPU s
    convert   peak 1,736 MB,  78 CPU s
    upload    peak   657 MB,   4 CPU s
    publish   peak 1,110 MB,   3 CPU s
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.benchmarks.dedup import SEGMENT, SNAPSHOT
from wat2mds.identity import laion_hash, uid
from wat2mds.manifest import Flow, Input, Manifest, Unit, read_manifest
from wat2mds.schema import DECISIONS, PAIRS, SAMPLES, SCORES, table_of
from wat2mds.settings import Settings
from wat2mds.store import Layout, join

SETTINGS = Settings.model_validate({"download": {"min_bytes": 0}})
STAGES = ("decide", "validate", "convert", "upload", "publish")
DIM, SHARD = 512, 1000


def out(dataset: str, stage: str) -> str:
    return Layout.of(dataset).stage(SNAPSHOT, SEGMENT, "00000", stage)


def make(dataset: str, size: int) -> dict[str, str]:
    unit = {"snapshot": SNAPSHOT, "segment": SEGMENT, "wat_file": "00000"}
    urls = [f"https://images{n % 997}.example.org/wp-content/uploads/2023/11/a-picture-of-something-{n}.jpg" for n in range(size)]
    captions = [f"a picture of something that somebody described in sixty letters, {n}" for n in range(size)]
    uids = [uid(*pair) for pair in zip(urls, captions, strict=True)]

    def same(value: object, count: int = size) -> pa.Array:
        return pa.repeat(pa.scalar(value), count)

    pairs = {"uid": uids, "laion_hash": [laion_hash(*pair) for pair in zip(urls, captions, strict=True)], "url": urls}
    pairs |= {"url_normalized": urls, "caption": captions, "caption_source": same("alt"), "page_url": urls}
    with Unit("extract", out(dataset, "extract"), [Input("x", "1")], SETTINGS, unit=unit) as made:
        extracted = made.commit([Flow("links", "pairs", size, size)])
    with Unit("dedup", out(dataset, "dedup"), [extracted], SETTINGS) as made:
        table = table_of(PAIRS, pairs | {name: same(value) for name, value in unit.items()})
        pq.write_table(table, made.path("unique.parquet"), compression="zstd", row_group_size=20_000)
        unique = made.commit([Flow("pairs", "unique", size, size)])
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 120, 40)).save(picture, "JPEG")
    jpg = picture.getvalue()
    shared = {"status": "success", "width": 64, "height": 48, "original_width": 640, "original_height": 480, "mime": "image/jpeg"}
    shared |= {"original_bytes": 50_000, "pdq_quality": 90, "http_status": 200, "exif": "{}"}
    with Unit("download", out(dataset, "download"), [unique], SETTINGS) as made:
        for start in range(0, size, SHARD):
            end = min(size, start + SHARD)
            columns = {name: same(value, end - start) for name, value in shared.items()}
            columns |= {"uid": uids[start:end], "url": urls[start:end], "caption": captions[start:end]}
            columns |= {"md5": uids[start:end], "sha1": [u + "00000000" for u in uids[start:end]]}
            columns |= {name: [u + u for u in uids[start:end]] for name in ("sha256", "pdq")}
            columns |= {"key": [f"{n:09d}" for n in range(start, end)], "jpg": same(jpg, end - start)}
            columns["fetched_at"] = same(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), end - start)
            path = made.path(f"{start // SHARD:05d}.parquet")
            pq.write_table(table_of(SAMPLES, columns), path, row_group_size=256, compression="zstd")
        samples = made.commit([Flow("unique", "samples", size, size)])
    vectors = np.random.default_rng(0).standard_normal((size, DIM), np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    fingerprint = SETTINGS.filter.fingerprint(decisions=False)
    with Unit("filter", join(out(dataset, "filter"), "scores"), [samples], SETTINGS, fingerprint=fingerprint) as made:
        columns = {"uid": uids, "language": same("en"), "clip_model": same("tiny"), "similarity": same(1.0)}
        columns["language_probability"] = same(0.99)
        pq.write_table(table_of(SCORES, columns), made.path("scores.parquet"), compression="zstd")
        for name in ("img_emb", "text_emb"):
            np.save(made.path(f"{name}.npy"), vectors)
        scores = made.commit([])
    with Unit("filter", out(dataset, "filter"), [samples, scores], SETTINGS) as made:
        pq.write_table(table_of(DECISIONS, {"uid": uids, "language": same("en")}), made.path("decisions.parquet"))
        decisions = made.commit([Flow("samples", "kept", size, size)])
    return {"dataset": dataset, "samples": samples.url, "scores": scores.url, "filter": decisions.url}


def run_stage(name: str, made: dict[str, str]) -> str:
    """One stage; the URL of its manifest, where it has one."""
    samples, decisions = read_manifest(made["samples"]), read_manifest(made["filter"])
    dataset = made["dataset"]
    if name == "decide":
        from wat2mds.stages.filter.decisions import decide

        with tempfile.TemporaryDirectory() as folder:
            decide(
                pq.read_table(f"{read_manifest(made['scores']).file('scores.parquet')}".removeprefix("file://")), SETTINGS.filter
            )
            return folder
    if name == "publish":
        from wat2mds.stages import publish

        return publish.run([read_manifest(made["upload"])], dataset, SETTINGS).uri
    manifest: Manifest
    if name == "validate":
        from wat2mds.stages import validate

        manifest = validate.run(samples, decisions, out(dataset, name), SETTINGS)
    elif name == "convert":
        from wat2mds.stages import convert

        manifest = convert.run(samples, decisions, out(dataset, name), SETTINGS)
    else:
        from wat2mds.stages import upload

        manifest = upload.run(read_manifest(made["convert"]), dataset, out(dataset, name), SETTINGS)
    return manifest.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--stage", nargs=2, help="a stage, and the manifests that the parent process knows of")
    given = parser.parse_args()
    if given.stage:
        url = run_stage(given.stage[0], json.loads(given.stage[1]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime
        # Not ru_maxrss: it begins at the parent's, which holds the tables that it made.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(status["VmHWM"].split()[0]) / 1024
        print(f"{given.stage[0]:<9} peak {peak:6,.0f} MB, {seconds:5.0f} CPU s", file=sys.stderr, flush=True)
        print(url)
        return
    with tempfile.TemporaryDirectory() as root:
        made = make(Layout(root, "d").dataset, given.pairs)
        for name in STAGES:
            command = [sys.executable, "-m", "tests.benchmarks.full_wat_file", "--stage", name, json.dumps(made)]
            ended = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            if ended.returncode:
                print(f"{name} failed with exit code {ended.returncode}", file=sys.stderr)
                continue
            made[name] = ended.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()

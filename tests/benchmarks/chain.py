"""The whole chain side by side, from the same WAT files and the same origin to MDS shards that were read.

    make bench-chain, or: PYTHONPATH=include .venv/bin/python -m tests.benchmarks.chain [--photographs N] [--without airflow] [--readme]

- *Airflow*: a real Airflow (LocalExecutor, SQLite) runs the DAG ``build_dataset`` for one batch; counted from the trigger to the end
  of the run, with Airflow's own processes; its start is told apart.
- *command line*: the same stages, ``wat2mds plan`` and then each stage's command, one after the other.
- *peers*: cc2dataset 1.5.0, img2dataset 1.47.0, clip-retrieval 2.45.0's inference and streaming 0.13's LAION converter, one after the
  other; a script of ours joins what inference and img2dataset leave. Each is repaired where it cannot run: REPAIRS, which is printed.

The web is ``chain_world.py``'s: real photographs under ../shared, over 5,000 images to be had, on 200 hosts behind one nginx, which gives
the WAT files too; it is not counted. All of them: 256 pixels, ratio kept, JPEG quality 95, SHA-256; 2 processes of 64 threads; EXIF; the
project's tiny CLIP in batches of 64, float32; similarity of LEAST at least; SHA-1 and xxh64 of shards. wat2mds runs by the
profile laion400m with its politeness on: 4 requests to a host at a time, 0.1 s between two.

What favours the peers: Spark, its start and its shuffle are left out; they ask no host for robots.txt and tdmrep.json, spare no host,
check no header before decoding, make no MD5, SHA-1 and PDQ, find no language, write no quality report, no embeddings and metadata of a
dataset, no look for near-duplicates, read nothing back, and could not go on where they were interrupted. What favours wat2mds: one nginx
keeps all connections open, as few hosts of the web do. What weighs more here than in use, for wat2mds most: two WAT files of 500 pages
each, where a real one has 30,000. Each of wat2mds's stages starts once a WAT file, Airflow's tasks with them, each peer once for all. The
tiny CLIP costs little, which hides what ``tests.benchmarks.clip`` measures.

CPU seconds are those of all processes, from the kernel; peak is the largest sum of proportional set sizes of a step's processes, sampled
twice a second. Each chain runs once. Speed is read, not asserted; asserted is that all MDS samples can be read, and that both of
wat2mds's ways publish the same.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tests.airflow_env import DAGS, INCLUDE, PLUGINS
from tests.benchmarks import clip, extract
from tests.benchmarks.chain_world import SNAPSHOT, WAT_FILES, World, load_world
from tests.benchmarks.meter import Meter, Use
from tests.benchmarks.nginx_origin import ADDRESS, Nginx
from tests.wat2mds.chain import GROUP
from wat2mds.deploy.launcher import Launcher
from wat2mds.models.clip import TINY, TINY_FOLDER
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.plan import stage_arguments
from wat2mds.reading import count_samples
from wat2mds.snapshots import Registry
from wat2mds.store import Layout
from wat2mds.versions import open_table, read_version

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PEER_STEPS = ROOT / "tests" / "benchmarks" / "peer_chain.py"
README = ROOT / "README.md"
BEGIN, END = "<!-- measured: bench-chain -->\n", "<!-- end measured -->\n"
PROCESSES, THREADS, SHARD, BATCH = 2, 64, 1000, 64
LEAST = 0.0
DAG, DATASET = "build_dataset", "chain"
REPAIRS = (
    "cc2dataset: Spark needs Java and is left out: its extraction runs in a pool of processes, its duplicates are dropped by pandas",
    "cc2dataset: its list of snapshots is read from a web page that has changed: it is given wat.paths.gz by name",
    "cc2dataset: its command line calls a library that it does not import: it is called from Python",
    "img2dataset: the names of this web are nobody's: http_proxy leads to the origin; the code is as it is",
    "clip-retrieval: the tiny CLIP is made known to open_clip by name; its reader of files finds no captions, so that it reads tar files",
    "clip-retrieval: its loader leaves models in training mode, so that embeddings depend on their batch: eval() is called",
    "clip-retrieval, streaming: two operators of torchvision are declared where its extension does not load",
    "streaming's converter: it reads tables that img2dataset's tar files and the embeddings are joined to by a script of ours",
    "streaming's converter: its upload always fails (FileExistsError): shards are copied",
    "streaming's converter: its merged index gives all shards one name: each gets its own",
)


@dataclass
class Chain:
    """What one of the contenders used by step, and what became of the pairs: (what, how many, why fewer than before)."""

    name: str
    steps: dict[str, Use] = field(default_factory=dict)
    apart: dict[str, Use] = field(default_factory=dict)
    pairs: list[tuple[str, int, dict[str, int]]] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Use:
        whole = Use()
        for use in self.steps.values():
            whole += use
        return whole

    @property
    def read(self) -> int:
        return self.pairs[-1][1]

    def step(self, name: str, use: Use) -> None:
        self.steps.setdefault(name, Use()).__iadd__(use)


class Bench:
    def __init__(self, base: Path, world: World, origin: Nginx) -> None:
        self.base, self.world = base, world
        self.port = origin.ports["http"]
        self.source = f"http://{ADDRESS}:{self.port}"
        self.meter = Meter()
        self.logs = base / "logs"
        self.logs.mkdir()

    # -- ours

    def settings(self) -> dict[str, str]:
        """Of both of our ways, as variables of the deployment."""
        download: dict[str, Any] = {
            "resolver": f"{ADDRESS}:{self.port}",
            "processes": PROCESSES,
            "threads": THREADS,
            "min_bytes": 0,
        }
        filters: dict[str, Any] = {"clip_model": TINY, "clip_pretrained": "tiny", "zero_shot": False, "drop_illegal": False}
        filters |= {"min_similarity": LEAST, "min_similarity_other": LEAST, "batch_size": BATCH, "workers": PROCESSES}
        found = {f"WAT2MDS_DOWNLOAD__{name.upper()}": str(value) for name, value in download.items()}
        found |= {f"WAT2MDS_FILTER__{name.upper()}": str(value) for name, value in filters.items()}
        return found | {"WAT2MDS_PROFILE": "laion400m", "WAT2MDS_DATASET": DATASET, "WAT2MDS_CONTACT": "bench@example.com"}

    def register(self, root: str) -> None:
        Registry(root).register(SNAPSHOT, collinfo=str(self.world.crawl / "collinfo.json"), source=self.source)

    def command_line(self) -> Chain:
        chain = Chain("wat2mds, command line")
        root = (self.base / "command-line").as_uri()
        self.register(root)
        environment = {
            **os.environ,
            **self.settings(),
            "WAT2MDS_ROOT": root,
            "PYTHONPATH": str(INCLUDE),
            "OMP_NUM_THREADS": str(PROCESSES),
        }

        def run(stage: str, arguments: list[str]) -> dict[str, Any]:
            with self.meter.step() as use:
                said = self.run(f"command-line-{stage}", [sys.executable, "-m", "wat2mds", *arguments], environment)
            chain.step(stage, use)
            found: dict[str, Any] = json.loads(said.splitlines()[-1])
            return found

        units = run("plan", ["plan", "--wat-files", f"0-{WAT_FILES - 1}"])["units"]
        for unit in units:
            run("extract", stage_arguments("extract", unit))
        run("dedup", stage_arguments("dedup", units))
        for unit in units:
            for stage in GROUP:
                run(stage, stage_arguments(stage, unit))
        for stage in ("publish", "report"):
            run(stage, stage_arguments(stage, units))
        self.read_ours(chain, root)
        return chain

    def airflow(self) -> Chain:
        chain = Chain("wat2mds, Airflow")
        root = (self.base / "airflow-store").as_uri()
        self.register(root)
        settings = self.settings() | {"PYTHONPATH": str(INCLUDE), "OMP_NUM_THREADS": str(PROCESSES)}
        self.meter.leave_out()
        launcher = Launcher(self.base / "airflow", root, dags=DAGS, plugins=PLUGINS, settings=settings)
        with contextlib.ExitStack() as running:
            with self.meter.step(to_the_end=False) as chain.apart["Airflow's start"]:
                running.enter_context(launcher)
                client = running.enter_context(launcher.client())
                client.wait_for_dag(DAG)
                client.set_paused(DAG, False)
            with self.meter.step(to_the_end=False) as use:
                run_id = client.trigger(DAG, {"segment": "0", "wat_files": f"0-{WAT_FILES - 1}"})
                ended = client.wait(DAG, run_id, check=launcher.check, timeout=3600, interval=1)
            chain.step("build_dataset", use)
            if ended["state"] != "success":
                sys.exit(f"the run of {DAG} is {ended['state']}: see {launcher.home / 'logs'}")
        self.read_ours(chain, root)
        return chain

    def read_ours(self, chain: Chain, root: str) -> None:
        dataset = Layout(root, DATASET).dataset
        version = read_version(dataset)
        for flow in version.funnel:
            chain.pairs.append((f"{flow['stage']}: {flow['target']}", flow["left"], dict(flow["drops"])))
        chain.pairs.append(("read by StreamingDataset", count_samples(dataset, version), {}))
        rows = open_table(dataset, version).to_pyarrow_table(columns=["url", "similarity"])
        chain.similarity = dict(zip(rows["url"].to_pylist(), rows["similarity"].to_pylist(), strict=True))

    # -- the peers

    def peers(self) -> Chain:
        chain = Chain("peers")
        base = self.base / "peers"
        base.mkdir()
        quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": str(PROCESSES), "CUDA_VISIBLE_DEVICES": ""}

        def run(name: str, *words: object, **environment: str) -> str:
            with self.meter.step() as use:
                said = self.run(f"peers-{name}", [str(word) for word in words], quiet | environment)
            chain.step(name, use)
            return said

        def script(python: Path | str, *arguments: object) -> tuple[object, ...]:
            # Without the script's folder on the path: its clip.py is not OpenAI's package.
            return python, "-P", PEER_STEPS, *arguments

        listing = f"{self.source}/crawl-data/{SNAPSHOT}/wat.paths.gz"
        pairs, images, scores, tables = (base / name for name in ("pairs.parquet", "images", "scores", "tables"))
        tables.mkdir()
        scores.mkdir()
        said = run("cc2dataset", *script(extract.PEER, "pairs", listing, f"{self.source}/", pairs, PROCESSES))
        links = self.world.links
        found, unique = json.loads(said.splitlines()[-1])["pairs"], pq.read_metadata(pairs).num_rows
        chain.pairs.append(("cc2dataset: pairs", found, {"no_caption": links - found}))
        chain.pairs.append(("cc2dataset: unique", unique, {"duplicate": found - unique}))

        options = {"url_list": pairs, "input_format": "parquet", "url_col": "url", "caption_col": "alt", "output_folder": images}
        options |= {
            "output_format": "webdataset",
            "save_additional_columns": '["uid"]',
            "image_size": 256,
            "resize_mode": "keep_ratio",
        }
        options |= {"encode_format": "jpg", "encode_quality": 95, "compute_hash": "sha256", "extract_exif": True}
        options |= {"processes_count": PROCESSES, "thread_count": THREADS, "number_sample_per_shard": SHARD}
        program = Path(sys.executable).with_name("img2dataset")
        given = (f"--{name}={value}" for name, value in options.items())
        run("img2dataset", program, *given, http_proxy=self.source, no_proxy="")
        stats = [json.loads(path.read_bytes()) for path in sorted(images.glob("*_stats.json"))]
        reasons: Counter[str] = Counter()
        for one in stats:
            reasons.update({reason: count for reason, count in one["status_dict"].items() if reason != "success"})
        chain.pairs.append(("img2dataset: images", sum(one["successes"] for one in stats), dict(reasons)))

        tars = f"{images}/{{00000..{len(stats) - 1:05d}}}.tar"
        readers = min(PROCESSES, len(stats))  # webdataset wants a tar file for each
        run("clip-retrieval", *script(clip.PEER, "embeddings", INCLUDE, tars, SHARD, scores, TINY_FOLDER, BATCH, readers))
        said = run("join", *script(sys.executable, "join", images, scores, LEAST, tables))
        counts = json.loads(said.splitlines()[-1])
        chain.pairs.append(("clip-retrieval: scored", counts["scored"], {}))
        chain.pairs.append(("join: kept", counts["kept"], {"low_similarity": counts["scored"] - counts["kept"]}))
        run("converter", *script(sys.executable, "shards", INCLUDE, tables, base / "mds"))
        chain.pairs.append(("read by StreamingDataset", self.read_peers(chain, base / "mds"), {}))
        return chain

    def read_peers(self, chain: Chain, folder: Path) -> int:
        declare_torchvision_ops()
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(folder), batch_size=1, shuffle=False)
        whole = [sample for sample in map(dataset.__getitem__, range(len(dataset))) if sample["jpg"]]
        chain.similarity = {sample["url"]: sample["similarity"] for sample in whole}
        return len(whole)

    def run(self, name: str, words: list[str], environment: dict[str, str]) -> str:
        """A program's standard output; its errors go to a log."""
        print(f"  {datetime.datetime.now():%H:%M:%S}  {name}", file=sys.stderr, flush=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as errors:
            ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=self.base, text=True)
        if ended.returncode:
            sys.exit(f"{name} ended with {ended.returncode}:\n{ended.stdout[-2000:]}\n{log.read_text()[-4000:]}")
        return ended.stdout


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def figures(use: Use) -> list[str]:
    """Of a step that ended before the first sample no peak is known."""
    seconds = [f"{value:,.{1 if value < 10 else 0}f}" for value in (use.wall, use.cpu)]
    return [*seconds, f"{use.peak:,.0f}" if use.peak else "–"]


def describe(chains: list[Chain], world: World) -> str:
    """All that was found, in Markdown."""
    cores = len(os.sched_getaffinity(0))
    today = datetime.date.today()
    text = [
        f"`make bench-chain`, {today:%d %B %Y}, {platform.machine()} ({processor()}), {cores} cores, load {os.getloadavg()[1]:.0f} at the "
        f"end; {WAT_FILES} WAT files, {world.pages:,} pages, {world.links:,} image links, {world.images:,} photographs to be had:\n",
        table(
            ["Chain", "Wall s", "CPU s", "Peak MB", "Samples read", "CPU ms a sample"],
            [[c.name, *figures(c.total), f"{c.read:,}", f"{c.total.cpu / max(1, c.read) * 1e3:.1f}"] for c in chains],
        ),
    ]
    for chain in chains:
        for name, use in chain.apart.items():
            wall, cpu, peak = figures(use)
            text.append(f"Not in it: {name}, {wall} s of wall time, {cpu} CPU s, {peak} MB.\n")
    text.append("By step, wall time, CPU and peak:\n")
    rows = [[c.name, name, *figures(use)] for c in chains if len(c.steps) > 1 for name, use in c.steps.items()]
    text.append(table(["Chain", "Step", "Wall s", "CPU s", "Peak MB"], rows))
    text.append("What became of the pairs:\n")
    rows = []
    for chain in chains:
        if any(other.pairs == chain.pairs for other in chains[: chains.index(chain)]):
            continue  # both of our ways
        for what, count, drops in chain.pairs:
            why = ", ".join(f"{reason} {n:,}" for reason, n in sorted(drops.items(), key=lambda item: -item[1]) if n)
            name = " and ".join(other.name for other in chains if other.pairs == chain.pairs)
            rows.append([name, what, f"{count:,}", why])
    text.append(table(["Chain", "Step: what is left", "Pairs", "Left out"], rows))
    return "\n".join(text)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def agree(chains: list[Chain]) -> bool:
    """Whether each chain's shards hold what it kept, and both of our ways published the same; prints how the peers' samples differ."""
    ours = [chain for chain in chains if chain.name != "peers"]
    equal = all(chain.similarity == ours[0].similarity for chain in ours)
    for chain in chains:
        (_, kept, _), (_, read, _) = chain.pairs[-2:]
        if kept != read or not read:
            print(f"{chain.name}: {kept:,} samples were kept, and {read:,} can be READ")
            equal = False
    if len(ours) > 1:
        print(f"\nBoth of wat2mds's ways published {'the same samples' if equal else 'DIFFERENT SAMPLES'}")
    for peer in (chain for chain in chains if chain.name == "peers" and ours):
        theirs, mine = peer.similarity, ours[0].similarity
        both = sorted(theirs.keys() & mine.keys())
        apart = np.abs(np.array([theirs[url] - mine[url] for url in both]))
        print(
            f"Samples of the same URL: {len(both):,}; only the peers' {len(theirs) - len(both):,}, only ours {len(mine) - len(both):,}"
        )
        print(f"Their similarities differ by {apart.mean():.4f} on the average, {apart.max():.4f} at most")
    return equal


@contextlib.contextmanager
def prepared(photographs: int | None) -> Iterator[Bench]:
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not there: this measurement needs real photographs")
    extract.BENCH.mkdir(parents=True, exist_ok=True)
    install_peers()
    world = load_world(extract.BENCH / f"chain-world-{photographs or 'all'}", SHARED, photographs)
    with tempfile.TemporaryDirectory(prefix="wat2mds-chain-") as folder:
        base = Path(folder)
        with Nginx(base / "nginx", world.served / "$host") as origin:
            yield Bench(base, world, origin)


def install_peers() -> None:
    extract.install_peer()
    further = ("aiohttp", "pandas", "pyarrow")
    there = f"import {', '.join(further)}"
    if subprocess.run([extract.PEER, "-c", there], capture_output=True).returncode:
        subprocess.run([extract.require_uv(), "pip", "install", "--quiet", "--python", extract.PEER, *further], check=True)
    if (missing := clip.install_peer()) is not None:
        sys.exit(f"clip-retrieval 2.45.0 cannot be installed here: {missing}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, help="of so many photographs only, to see that it runs")
    parser.add_argument("--without", action="append", default=[], choices=["airflow", "command_line", "peers"])
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    given = parser.parse_args()
    with prepared(given.photographs) as bench:
        chains = [getattr(bench, name)() for name in ("airflow", "command_line", "peers") if name not in given.without]
        found = describe(chains, bench.world)
    print(f"\n{found}\nRepairs of the peers:\n")
    print("".join(f"- {repair}\n" for repair in REPAIRS))
    equal = agree(chains)
    if given.readme:
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        README.write_text(f"{before}{BEGIN}{found}{END}{rest.partition(END)[2]}", "utf-8")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()

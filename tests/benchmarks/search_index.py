"""A kNN index of a million synthetic vectors: memory, recall, updates beside a fresh build, latency.

    PYTHONPATH=include nice .venv/bin/python -m tests.benchmarks.search_index [--vectors 1000000] [--dim 512] [--memory 2000] [--rounds 20]

Vectors lie about the centres of topics: a centre, a deviation of norm 0.6 in 32 dimensions, noise of norm 0.3 in all; float16, in 20
units. A round takes one unit away and brings a new one, a fifth of whose vectors is of topics that the training never saw, so after 20
rounds none of the first vectors is left. Recall@10 is that of 1,000 vectors that are in no unit, against brute force by numpy, by uid.
Each measurement is a process of its own, its memory what it holds of its own (anonymous), and the peak with the mapped files.
Latency: clients are threads that ask one query at a time, k=10, of one process; load on the machine is load on them.

Anchors: clip-retrieval serves LAION-5B's index in 50 ms, 20 queries a second; autofaiss tunes to 10 ms.

Measured 2026-11-21, 2 cores beside other work, --memory 1100, a million vectors of 512 dimensions, one thread:

    index         IVF4096,SQfp16, 1,040 MB; 4 lists searched
    building      120 CPU s training on 266,000 vectors, 55 filling, 11 measuring recall; 1,106 MB anonymous, 1,199 MB with mapped files
    recall@10     0.9992 (stored with the index, of samples of its own: 0.9995)
    1 client      p50  0.4 ms, p99   5 ms, 2,010 queries a second, 0.40 CPU ms a query
    4 clients     p50  0.4 ms, p99  23 ms, 2,137 queries a second
    16 clients    p50  0.4 ms, p99  70 ms, 2,524 queries a second; serving holds 99 MB anonymous, 1,071 MB with the mapped index
    20 rounds     3.9 CPU s and 7.2 s of wall time each, 371 MB anonymous, 1,383 MB with mapped files; of 1,000,000 uids taken away
                  none was found; recall@10 0.9959 with 512 lists searched; built fresh 0.9944 with 4
    then          p50 12 ms at 1 client, 50 at 4, 140 at 16, 52, 68 and 107 queries a second, 7 CPU ms a query, under a load of 10

The p99 are waits for a core. A fifth of what came is of topics that the training never saw: that is why so many lists are searched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks.synthetic import uids_of
from wat2mds.search.assembly import Held, assemble, train_on
from wat2mds.search.building import FALL, read_held, write_tables
from wat2mds.search.index_types import choose
from wat2mds.search.lists import Codes
from wat2mds.search.reading import SearchIndex
from wat2mds.search.recall import GOOD, measure
from wat2mds.search.records import IndexRecord
from wat2mds.search.training import threads
from wat2mds.search.vectors import BLOCK, Modality, normalized
from wat2mds.subsets import uids

UNITS = 20
TOPICS = 2_000
QUERIES = 1_000
CLIENTS = (1, 4, 16)
ASKED = 2_000
QUERIES_AT = 10**9  # where no unit draws from


class Synthetic:
    """``Vectors`` of images alone, from files of ``draw``. Unit n of round r holds topics up to TOPICS, those of a later round a fifth from
    beyond."""

    def __init__(self, given: argparse.Namespace, first: int) -> None:
        self.size = given.vectors // UNITS
        self.dim = given.dim
        self.folder = given.drawn
        self.unit_names = [f"{number:04d}" for number in range(first, UNITS + first)]

    def uids(self, unit: str) -> np.ndarray:
        first = int(unit) * self.size
        return uids.of_bytes(uids_of(np.arange(first, first + self.size, dtype=np.uint64)).tobytes())

    def blocks(self, unit: str, modality: Modality) -> Iterator[np.ndarray]:
        with (self.folder / unit).open("rb") as file:
            for start in range(0, self.size, BLOCK):
                count = min(BLOCK, self.size - start) * self.dim
                yield normalized(np.fromfile(file, np.float16, count).reshape(-1, self.dim))


def draw(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Draw all units, which no measurement pays for."""
    size = given.vectors // UNITS
    for unit in range(UNITS + given.rounds):
        drawn_vectors(size, given.dim, unit, 0).astype(np.float16).tofile(given.drawn / f"{unit:04d}")
    return {"units": UNITS + given.rounds}


def drawn_vectors(count: int, dim: int, unit: int, start: int) -> np.ndarray:
    """[count, dim] of norm 1."""
    rng = np.random.default_rng([7, unit, start])
    topics = rng.integers(0, TOPICS, count)
    if unit >= UNITS:
        later = rng.random(count) < 0.2
        topics[later] = rng.integers(TOPICS, TOPICS + 200, int(later.sum()))
    centres = normalized(np.random.default_rng(1).standard_normal((TOPICS + 200, dim), np.float32))
    base = normalized(np.random.default_rng(2).standard_normal((32, dim), np.float32))
    deviation = normalized(rng.standard_normal((count, 32), np.float32) @ base)
    noise = normalized(rng.standard_normal((count, dim), np.float32))
    return normalized(centres[topics] + 0.6 * deviation + 0.3 * noise)


def build(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Train and fill, and choose how many lists are searched."""
    vectors = Synthetic(given, given.first)
    limit = given.memory * 10**6
    index_type = choose(given.vectors, given.dim, limit)
    with Memory() as memory, threads(1):
        started = time.process_time()
        trained = train_on(vectors, index_type, limit, ("image",))
        training = time.process_time() - started
        held = assemble(vectors, trained, folder)
        filled = time.process_time() - started - training
        found = keep(held, vectors, index_type, folder)
    size = held.files["image"].stat().st_size
    return found | {
        "index_mb": size / 1e6,
        "training_s": training,
        "filling_s": filled,
        **memory.told(),
    }


def rounds(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All rounds, on the index that lies in ``folder``; recall is looked at again after the last."""
    made = json.loads((folder / "index.json").read_text())
    trained = made["recall_stored"]
    came_back, filling, waited = 0, 0.0, 0.0
    with Memory() as memory, threads(1):
        for number in range(1, given.rounds + 1):
            vectors = Synthetic(given, number)
            shutil.rmtree(folder / "before", ignore_errors=True)
            (folder / "before").mkdir()
            for file in [path for path in folder.iterdir() if path.is_file()]:
                file.rename(folder / "before" / file.name)
            started, began = time.process_time(), time.perf_counter()
            old = read_held(files_in(folder / "before"))
            held = assemble(vectors, {"image": Codes.mapped(old.files["image"])}, folder, old)
            filling += time.process_time() - started
            waited += time.perf_counter() - began
            last = number == given.rounds
            made = keep(held, vectors, made["type"], folder, None if last else made["nprobe"], max(GOOD, trained - FALL))
            removed = set(uid_texts(np.setdiff1d(np.asarray(old.uids), held.uids)))
            came_back += returned(open_here(folder, made), vectors, removed)
            print(
                f"round {number}: {held.added} in, {held.removed} out, removed uids returned so far {came_back}", file=sys.stderr
            )
    shutil.rmtree(folder / "before", ignore_errors=True)
    return made | {
        "filling_s_a_round": filling / given.rounds,
        "wall_s_a_round": waited / given.rounds,
        "removed_uids_returned": came_back,
        **memory.told(),
    }


def keep(
    held: Held, vectors: Synthetic, index_type: str, folder: Path, nprobe: int | None = None, good: float = GOOD
) -> dict[str, object]:
    """The files of an index as a store would have them; without ``nprobe`` it is chosen by recall, ``good`` being enough."""
    write_tables(held, folder)
    found: dict[str, object] = {"units": held.units, "type": index_type, "nprobe": nprobe}
    if nprobe is None:
        started = time.process_time()
        measured = measure({"image": Codes.mapped(held.files["image"])}, vectors, held.rows(vectors), len(held.uids), good)
        found |= {
            "nprobe": measured.nprobe["image"],
            "recall_stored": measured.recall,
            "measuring_s": time.process_time() - started,
        }
    (folder / "index.json").write_text(json.dumps(found))
    return found


def files_in(folder: Path) -> dict[str, Path]:
    tables = {kind: folder / f"tables.{kind}" for kind in ("uids", "rows", "units")}
    return tables | {"image": folder / "new.image", "text": folder / "new.text"}


def open_here(folder: Path, found: dict[str, object]) -> SearchIndex:
    count = len(np.load(folder / "tables.uids", mmap_mode="r"))
    codes = Codes.mapped(folder / "new.image")
    record = IndexRecord(
        "bench", 1, count, codes.index.d, "", "", str(found["type"]), {"image": int(str(found["nprobe"]))},
        0, {}, 0, 0, 0, {}, 1, 0, 1, 0, 0, 1, "",
    )  # fmt: skip
    return SearchIndex(record, files_in(folder))


def returned(index: SearchIndex, vectors: Synthetic, removed: set[str]) -> int:
    """How many of the uids removed a search for their neighbours, or for themselves by uid, gives."""
    queries = drawn_vectors(QUERIES, vectors.dim, int(vectors.unit_names[0]) - 1, 0)  # vectors of the unit that went
    hits = {hit.uid for some in index.search(queries, 100, "image") for hit in some}
    return len(hits & removed) + sum(index.vector(uid, "image") is not None for uid in sorted(removed)[:QUERIES])


def recall(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Against brute force by numpy, of vectors that are in no unit."""
    vectors = Synthetic(given, given.first)
    queries = drawn_vectors(QUERIES, given.dim, int(vectors.unit_names[-1]), QUERIES_AT)
    best = np.full((QUERIES, 10), -np.inf, np.float32)
    names = np.zeros((QUERIES, 10), uids.DTYPE)
    for unit in vectors.unit_names:
        theirs, start = vectors.uids(unit), 0
        for block in vectors.blocks(unit, "image"):
            scores = np.hstack([best, queries @ block.T])
            at = np.argpartition(-scores, 9, axis=1)[:, :10]
            some = np.broadcast_to(theirs[start : start + len(block)], (QUERIES, len(block)))
            names = np.take_along_axis(np.hstack([names, some]), at, 1)
            best = np.take_along_axis(scores, at, 1)
            start += len(block)
    index = open_here(folder, json.loads((folder / "index.json").read_text()))
    found = index.search(queries, 10, "image")
    shares = [len({hit.uid for hit in hits} & set(uid_texts(row))) / 10 for hits, row in zip(found, names, strict=True)]
    return {"recall": float(np.mean(shares)), "lists_searched": index.record.nprobe["image"]}


def latency(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """p50 and p99 in ms, and queries a second, by number of clients."""
    index = open_here(folder, json.loads((folder / "index.json").read_text()))
    queries = drawn_vectors(ASKED, given.dim, given.first, QUERIES_AT)
    index.search(queries, 10, "image")  # what is asked for is in memory, as it is where people ask
    told: dict[str, object] = {}
    with threads(1), Memory() as memory:
        for clients in CLIENTS:
            waits: list[float] = []

            def ask(number: int, clients: int = clients, waits: list[float] = waits) -> None:
                for query in queries[number::clients]:
                    started = time.perf_counter()
                    index.search(query[None], 10, "image")
                    waits.append(time.perf_counter() - started)

            started, cpu = time.perf_counter(), time.process_time()
            asking = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
            p50, p99 = np.percentile(waits, [50, 99]) * 1000
            told[str(clients)] = {
                "p50_ms": p50, "p99_ms": p99, "queries_s": ASKED / (time.perf_counter() - started),
                "cpu_ms": (time.process_time() - cpu) / ASKED * 1000,
            }  # fmt: skip
    return {"clients": told, **memory.told(), "load": os.getloadavg()[0]}


class Memory:
    """The most that this process holds inside, MB: of its own (anonymous), of mapped files, and both; looked at every 20 ms."""

    def __enter__(self) -> Memory:
        self.anonymous = self.mapped = self.resident = 0.0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def told(self) -> dict[str, float]:
        return {"anonymous_mb": self.anonymous, "mapped_mb": self.mapped, "resident_mb": self.resident}

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
            now = {line[0]: int(line[1]) * 1024 / 1e6 for line in lines if line[0] in ("RssAnon:", "RssFile:", "VmRSS:")}
            self.anonymous = max(self.anonymous, now["RssAnon:"])
            self.mapped = max(self.mapped, now["RssFile:"])
            self.resident = max(self.resident, now["VmRSS:"])


def uid_texts(pairs: np.ndarray) -> list[str]:
    return [f"{int(one):016x}{int(other):016x}" for one, other in pairs.tolist()]


STEPS = {"draw": draw, "build": build, "rounds": rounds, "recall": recall, "latency": latency}


def run(step: str, given: argparse.Namespace, folder: Path, **changes: int) -> dict[str, object]:
    values = vars(given) | changes
    options = [f"--{name}={value}" for name, value in values.items() if name not in ("step", "folder")]
    command = [sys.executable, "-m", "tests.benchmarks.search_index", *options, f"--step={step}", f"--folder={folder}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    shown = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items() if name != "units"}
    print(f"{folder.name} {step}: {json.dumps(shown)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--memory", type=int, default=2000, help="memory limit of the index, MB")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--drawn", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](given, given.folder)))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        given.drawn, first, fresh = (Path(scratch, name) for name in ("drawn", "first", "fresh"))
        for folder in (given.drawn, first, fresh):
            folder.mkdir()
        run("draw", given, given.drawn)
        run("build", given, first)
        run("recall", given, first)
        run("latency", given, first)
        run("rounds", given, first)
        updated = run("recall", given, first, first=given.rounds)
        run("latency", given, first, first=given.rounds)
        run("build", given, fresh, first=given.rounds)
        built = run("recall", given, fresh, first=given.rounds)
        run("latency", given, fresh, first=given.rounds)
        print(f"after {given.rounds} rounds recall is {updated['recall']}, built fresh {built['recall']}")


if __name__ == "__main__":
    main()

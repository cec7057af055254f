"""extract beside cc2dataset 1.5.0 on the same real WAT: the same pairs, CPU seconds, peak memory; and why normal mode differs.

Run by ``make bench``. Prints tables; fails only where parity does: speed is read, not asserted. cc2dataset is installed from the
package index into an environment of its own under .wat2mds/bench. Runs alternate, each in a process of its own; the ratios are
medians over rounds, because a shared machine's speed drifts.

What is timed is a process's CPU seconds on the same file on local disk, without imports on either side. cc2dataset: ``process_wat``,
its own path from file to rows, FastWARC 2 and pysimdjson compiled; its rows are counted and written nowhere, Spark's part is left out.
Ours: the whole stage, with row groups compressed and written, hashed, and the manifest. That favours cc2dataset. The bare read is
fastwarc's ``ArchiveIterator`` on the open file, as cc2dataset uses it (its GzipReader in between takes a quarter longer), with every
record's bytes read and dropped.

The WAT is the real ones under ../shared, repeated to over 100 MB inflated: caches of hosts see repeats, as they do in a real WAT; no
URL or caption is cached.
"""

from __future__ import annotations

import gc
import gzip
import importlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from wat2mds.settings import load_settings
from wat2mds.stages import extract
from wat2mds.stages.extract.pages import IMAGE_LINK, read_page
from wat2mds.stages.extract.pairs import Judged, base_of, judge, judge_as_cc2dataset
from wat2mds.stages.extract.records import Record, read_records

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "wat"
BENCH = ROOT / ".wat2mds" / "bench"
PEER = BENCH / "cc2dataset" / "bin" / "python"
INFLATED = 110 << 20
ROUNDS = 5
NORMAL = load_settings("laion400m", environment={})
COMPATIBLE = load_settings("laion400m", ["extract.compatibility=cc2dataset", "extract.max_bad_share=1"], environment={})
CONTENDERS = ("bare", "cc2dataset", "compatibility", "full")


def find_uv() -> str | None:
    """uv, which installs the peers: the environment's own, else what is on the path."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def require_uv() -> str:
    if (uv := find_uv()) is None:
        sys.exit("make bench needs uv: run it through make, which installs it")
    return uv


def install_peer() -> None:
    """cc2dataset 1.5.0 and what its extraction imports; not Spark."""
    there = "import fastwarc, simdjson, fsspec, loguru, importlib.metadata as m; assert m.version('cc2dataset') == '1.5.0'"
    if PEER.exists() and subprocess.run([PEER, "-c", there], capture_output=True).returncode == 0:
        return
    uv = require_uv()
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, PEER.parents[1]], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", PEER]
    subprocess.run([*install, "--no-deps", "cc2dataset==1.5.0"], check=True)
    subprocess.run([*install, "fastwarc>=2,<3", "pysimdjson", "fsspec", "loguru"], check=True)


def real_wats() -> list[Path]:
    return sorted(p for p in SHARED.rglob("*") if p.name.endswith((".wat", ".wat.gz")))


def concatenate(times: int) -> Path:
    """The gzip members of the derived WATs, again and again, until INFLATED × times."""
    target = BENCH / f"extract-{times}x.wat.gz"
    if not target.exists():
        once = b"".join(p.read_bytes() for p in sorted((SHARED / "derived").glob("*.wat.gz")))
        repeats = -(-INFLATED // len(gzip.decompress(once)))
        with target.open("wb") as out:
            for _ in range(repeats * times):
                out.write(once)
    return target


def measure(contender: str, wat: Path) -> dict[str, float]:
    if contender == "cc2dataset":
        command = [PEER, ROOT / "tests" / "benchmarks" / "peer_cc2dataset.py", "measure", wat]
    else:
        command = [sys.executable, "-m", "tests.benchmarks.extract", contender, wat]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout.splitlines()[-1]
    )
    return found


def peak_bytes() -> int:
    """This process's own peak; ``ru_maxrss`` is at least that of the process that started it."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]


def child(contender: str, wat: str) -> None:
    """One measurement of ours or of the bare read; imports are not counted, for the peer neither."""
    # pyarrow imports these when it makes its first array; they are imports like the others.
    importlib.import_module("pandas")
    importlib.import_module("pyarrow.compute")
    gc.freeze()  # as ``wat2mds extract`` does when all is imported
    if contender == "bare":
        from fastwarc import ArchiveIterator

        started = time.process_time()
        with Path(wat).open("rb") as stream:
            pairs = sum(len(record.reader.read()) > 0 for record in ArchiveIterator(stream, parse_http=False))
    else:
        settings = COMPATIBLE if contender == "compatibility" else NORMAL
        with tempfile.TemporaryDirectory(dir=BENCH) as out:
            started = time.process_time()
            pairs = extract.run(wat, out, settings, snapshot="CC-MAIN-2024-10", segment="1.0", wat_file="00000").flows[1].left
    cpu = time.process_time() - started
    print(json.dumps({"cpu": cpu, "peak": peak_bytes(), "pairs": pairs}))


def our_pairs(wat: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with wat.open("rb") as stream:
        for record in read_records(stream, wat.stat().st_size):
            page = _page(record)
            if page is not None and isinstance(record, Record) and record.exact:
                bases = [base_of(page, COMPATIBLE.extract)] * len(page.images)
                judged = judge_as_cc2dataset(page.images, bases, COMPATIBLE.extract)
                found += zip(judged.pairs["url"], judged.pairs["caption"], strict=True)
    return found


def _page(record, salvage=False):  # type: ignore[no-untyped-def]
    if not isinstance(record, Record) or IMAGE_LINK not in record.data:
        return None
    try:
        return read_page(record.text, record.start, record.end, salvage)
    except (ValueError, RecursionError):
        return None


def show_parity() -> bool:
    """cc2dataset's pairs and ours in compatibility mode, as multisets, for each real WAT."""
    print(f"\nParity: (url, alt) multisets of cc2dataset 1.5.0 and compatibility mode, {len(real_wats())} WATs\n")
    command = [PEER, ROOT / "tests" / "benchmarks" / "peer_cc2dataset.py", "pairs", *real_wats()]
    lines = subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
    equal = True
    total = 0
    for wat, line in zip(real_wats(), lines, strict=True):
        theirs, ours = Counter(map(tuple, json.loads(line))), Counter(our_pairs(wat))
        total += theirs.total()
        if ours and not theirs:
            print(f"  {wat.relative_to(SHARED)}: cc2dataset reads none of it, and says nothing; ours {ours.total()} pairs")
        elif ours != theirs:
            equal = False
            print(f"  {wat.relative_to(SHARED)}: only cc2dataset {(theirs - ours).total()}, only ours {(ours - theirs).total()}")
    print(f"  {total:,} pairs of cc2dataset's: {'every WAT that it reads is equal, pair for pair' if equal else 'NOT EQUAL'}")
    return equal


def show_differences() -> None:
    """Normal mode against compatibility mode, link by link."""
    counts: Counter[str] = Counter()
    for wat in real_wats():
        with wat.open("rb") as stream:
            for record in read_records(stream, wat.stat().st_size):
                page = _page(record, salvage=True)
                if page is None:
                    continue
                strict = isinstance(record, Record) and record.exact and _page(record) is not None
                count = len(page.images)
                ours = _by_link(judge(page.images, [base_of(page, NORMAL.extract)] * count, NORMAL.extract))
                theirs: list[object] = [None] * count
                if strict:
                    bases = [base_of(page, COMPATIBLE.extract)] * count
                    theirs = _by_link(judge_as_cc2dataset(page.images, bases, COMPATIBLE.extract))
                counts.update(_difference(one, other, strict) for one, other in zip(ours, theirs, strict=True))
    print("\nNormal mode against cc2dataset, link by link, over the same WATs\n")
    for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"  {count:>7,}  {reason}")


def _by_link(judged: Judged) -> list[object]:
    """For each link its URL and caption, or why it gives no pair."""
    pairs = zip(judged.pairs["url"], judged.pairs["caption"], strict=True)
    return [next(pairs) if reason is None else reason for reason in judged.reasons]


def _difference(ours: object, peer: object, strict: bool) -> str:
    if isinstance(ours, tuple):
        if not strict:
            return "only here: the record's length or JSON is damaged, and it is saved"
        if not isinstance(peer, tuple):
            return "only here: the URL is found (white space, scheme in capitals)"
        changed = [name for name, one, other in (("URL", ours[0], peer[0]), ("caption", ours[1], peer[1])) if one != other]
        return f"in both, {' and '.join(changed)} cleaned" if changed else "in both, the same"
    if isinstance(peer, tuple):
        return f"only cc2dataset: dropped here as {ours}"
    return "in neither: no alt text" if ours == "no_caption" else f"in neither: {ours}"


def show_speed() -> None:
    wat = concatenate(1)
    rounds = [{name: measure(name, wat) for name in CONTENDERS} for _ in range(ROUNDS)]
    print(f"\nSpeed: {wat.name}, {wat.stat().st_size / 1e6:.0f} MB, over 100 MB inflated; {ROUNDS} alternating rounds\n")
    print(f"  {'':<14}{'CPU s':>8}{'peak MB':>9}{'pairs':>10}{'x faster than cc2dataset':>26}{'x bare read':>13}")
    for name in CONTENDERS:
        runs = [r[name] for r in rounds]
        faster = statistics.median(r["cc2dataset"]["cpu"] / r[name]["cpu"] for r in rounds)
        bare = statistics.median(r[name]["cpu"] / r["bare"]["cpu"] for r in rounds)
        pairs = "" if name == "bare" else f"{runs[0]['pairs']:,.0f}"
        cpu, peak = statistics.median(r["cpu"] for r in runs), max(r["peak"] for r in runs) / 1e6
        print(f"  {name:<14}{cpu:>8.2f}{peak:>9.0f}{pairs:>10}{faster:>26.2f}{bare:>13.2f}")


def show_memory() -> None:
    print("\nPeak memory, 1 and 8 times the file\n")
    for name in ("cc2dataset", "compatibility", "full"):
        one, eight = measure(name, concatenate(1))["peak"] / 1e6, measure(name, concatenate(8))["peak"] / 1e6
        print(f"  {name:<14}{one:>8.0f} MB{eight:>8.0f} MB{eight / one - 1:>+9.1%}")


def main() -> None:
    BENCH.mkdir(parents=True, exist_ok=True)
    install_peer()
    equal = show_parity()
    show_differences()
    show_speed()
    show_memory()
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
    else:
        main()

"""What datasets of 1 million to 5 billion pairs take: cores, bandwidth, disk, days and cost, from rates that are measured here.

    python -m tests.benchmarks.projection

Measured: CPU seconds of each stage's program for the real photographs of ../shared (dead links among them, robots.txt asked of each host),
with PDQ and all three hashes, ViT-B-32 with random weights, less those of the same stage for a few, so that start-ups do not count;
extraction of real WATs by their inflated bytes; bytes fetched and bytes published. *Published*, with the source beside it in this file:
what share of images is kept, how many WAT files hold so many, how fast a GPU scores. Hosts: their shares of the 10,000 rows of
LAION-400M in ../shared, each asked every ``download.host_delay`` seconds. *Chosen*: machines, prices. Stages overlap: what takes longest
binds.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from tests.benchmarks.clip import weights_of
from tests.benchmarks.extract import BENCH, concatenate, measure
from tests.conftest import SHARED
from tests.wat2mds.chain import GROUP, Chain
from tests.wat2mds.programs import Programs
from tests.wat2mds.world.shared_photographs import flickr_rows, fondant_rows
from wat2mds.manifest import read_manifest
from wat2mds.plan import manifest_url
from wat2mds.reprocess import STAGE_FOLDERS
from wat2mds.settings import load_settings
from wat2mds.snapshots import Registry
from wat2mds.store import join
from wat2mds.versions import read_version
from wat2mds.world.photographs import Photograph, write_photograph_world

SNAPSHOT = "CC-MAIN-2020-05"
FEW = 40
# LAION-5B's blog: 5.85 billion kept of "50+ billion" candidates.
KEPT = 5.85 / 50
# Of candidates whose image arrives: LAION-400M in February 2024, img2dataset issue 400.
ARRIVES = 0.68
# Unique pairs with a caption: 88 billion in 5 million WAT files (cc2dataset's README). Where fewer are taken each of them holds more.
PAIRS_A_WAT = 17_600
# A WAT file: 375 MB compressed (Common Crawl, 2016/10).
WAT_BYTES = 375e6
# ViT-B/32 on an A100: LAION-5B's blog.
GPU_IMAGES = 1_800
CORE_HOUR, GPU_HOUR, TERABYTE_MONTH = 0.04, 1.5, 23.0
DAY = 86_400


@dataclass(frozen=True)
class Rates:
    """CPU seconds: ``wat`` a WAT file, ``asked`` a candidate's download, ``scored`` an image's filter on a CPU, ``prepared`` the same but
    for the CLIP model, ``published`` a pair from validate on. Bytes: ``fetched`` an image as it came, ``stored`` a published pair."""

    wat: float
    asked: float
    scored: float
    prepared: float
    published: float
    fetched: float
    stored: float


@dataclass(frozen=True)
class Fleet:
    """Machines chosen for a size."""

    pairs: float
    cores: int
    gbps: float
    gpus: int


FLEETS = (Fleet(1e6, 16, 1, 0), Fleet(1e8, 16, 1, 1), Fleet(4e8, 64, 4, 1), Fleet(5e9, 320, 20, 4))


def build(base: Path, rows: list[Photograph], *overrides: str) -> dict[str, tuple[float, int]]:
    """A dataset of these photographs by the stages' programs: CPU seconds and rows that entered, by stage; ``stored``: bytes."""
    start = datetime(2020, 1, 17, tzinfo=UTC)
    world = write_photograph_world(base / "world", rows, snapshot=SNAPSHOT, segment="1579250589560.0", start=start)
    root = (base / "store").as_uri()
    Registry(root).register(SNAPSHOT, collinfo=str(world.crawl / "collinfo.json"), source=str(world.crawl))
    with world.origin() as origin, Programs() as programs:
        chain = Chain(root, origin.address, programs)
        (unit,) = chain.plan("projected", "0", *overrides, snapshot=SNAPSHOT, profile="laion400m")
        chain.run([unit])
        manifests = {stage: read_manifest(manifest_url(unit, stage)) for stage in GROUP}
        scores = read_manifest(join(unit["work"], STAGE_FOLDERS["scores"], f"{unit['digests']['scores']}.json"))
    found = {stage: (made.cpu_seconds, made.flows[0].entered) for stage, made in manifests.items()}
    for stage, more in (
        ("filter", scores.cpu_seconds),
        ("download", manifests["download"].extra["worker_cpu_seconds"]),  # its workers are no children of its program
    ):
        found[stage] = (found[stage][0] + more, found[stage][1])
    version = read_version(join(root, "datasets", "projected"))
    (published,) = version.units.values()
    return found | {"stored": (sum(o.size for o in published.objects), published.samples)}


def measure_rates(base: Path) -> Rates:
    data = SHARED / "data"
    rows = [*fondant_rows(data), *flickr_rows(data)]
    choose = [
        "filter.min_similarity=-1",
        "filter.min_similarity_other=-1",
        "filter.language_candidates=en,de,fr,es,it,nl,pt,ru,ja,zh",
    ]
    tiny = [*choose, "filter.clip_model=wat2mds-tiny"]
    big = [*choose, "filter.clip_model=ViT-B-32", f"filter.clip_pretrained={weights_of('ViT-B-32')}"]
    found = {
        (model, size): build(base / f"{model}-{size}", rows[::step], *settings)
        for model, settings in (("tiny", tiny), ("big", big))
        for size, step in (("few", len(rows) // FEW), ("many", 1))
    }

    def each(stage: str, model: str = "tiny") -> float:
        many, few = found[model, "many"][stage], found[model, "few"][stage]
        return (many[0] - few[0]) / (many[1] - few[1])

    wat = concatenate(1)
    content = [len(row.content) if isinstance(row.content, bytes) else row.content.stat().st_size for row in rows if row.content]
    return Rates(
        wat=measure("full", wat)["cpu"] * WAT_BYTES / wat.stat().st_size,
        asked=each("download"),
        scored=each("filter", "big"),
        prepared=each("filter"),
        published=each("validate") + each("convert") + each("upload"),
        fetched=sum(content) / len(content),
        stored=each("stored", "big"),
    )


def hosts() -> list[float]:
    """Shares of the hosts, largest first."""
    urls = pq.read_table(SHARED / "data" / "laion_meta" / "img2dataset-test_10000.parquet", columns=["URL"])["URL"].to_pylist()
    counts = Counter(urlsplit(url).netloc.lower() for url in urls if url)
    return [count / counts.total() for _, count in counts.most_common()]


def seconds_until(share: float, candidates: float, shares: list[float], delay: float) -> float:
    """Until this share of all candidates is asked for, each host once in ``delay`` seconds and all hosts at once."""
    low, high = 0.0, shares[0] * candidates * delay
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        asked = sum(min(host * candidates, middle / delay) for host in shares)
        low, high = (middle, high) if asked < share * candidates else (low, middle)
    return high


def rounded(value: float) -> str:
    """To two digits, never as a power of ten."""
    return f"{float(f'{value:.2g}'):,g}"


def row(fleet: Fleet, rates: Rates, shares: list[float], delay: float) -> list[str]:
    arrived = fleet.pairs / KEPT
    candidates = arrived / ARRIVES
    wat_files = candidates / PAIRS_A_WAT
    filter_cpu = rates.prepared if fleet.gpus else rates.scored
    cpu = {
        "extract": wat_files * rates.wat,
        "download": candidates * rates.asked,
        "filter": arrived * filter_cpu,
        "the rest": fleet.pairs * rates.published,
    }
    received = wat_files * WAT_BYTES + arrived * rates.fetched
    days = {
        f"{fleet.cores} cores": sum(cpu.values()) / fleet.cores / DAY,
        f"{fleet.gbps:g} Gbps": received * 8 / (fleet.gbps * 1e9) / DAY,
    }
    if fleet.gpus:
        days[f"{fleet.gpus} GPU"] = arrived / GPU_IMAGES / fleet.gpus / DAY
    machines = max(days.values())
    binds = max(days, key=days.__getitem__)
    largest = max(cpu, key=cpu.__getitem__)
    polite, all_hosts = (seconds_until(share, candidates, shares, delay) / DAY for share in (0.9, 1))
    cost = max(machines, polite) * 24 * (fleet.cores * CORE_HOUR + fleet.gpus * GPU_HOUR)
    busy = machines * 24 * (fleet.cores * CORE_HOUR + fleet.gpus * GPU_HOUR)
    stored = fleet.pairs * rates.stored / 1e12
    return [
        f"{fleet.pairs / 1e6:,.0f} million",
        f"{candidates / 1e6:,.0f} million of {wat_files:,.0f} WAT files",
        ", ".join(f"{rounded(value)} on {name}" for name, value in days.items()),
        f"{binds}" + (f" ({largest}: {cpu[largest] / sum(cpu.values()):.0%})" if "cores" in binds else ""),
        f"{rounded(polite)}; {rounded(all_hosts)} for all",
        f"{received / 1e12:,.1f}",
        f"{stored:,.2f}",
        f"${busy:,.0f} busy, ${cost:,.0f} while hosts are waited for; ${stored * TERABYTE_MONTH:,.0f} a month",
    ]


def main() -> None:
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not there: this measurement needs real photographs")
    BENCH.mkdir(parents=True, exist_ok=True)  # where weights and the WAT are kept for the next run
    with tempfile.TemporaryDirectory() as folder:
        rates = measure_rates(Path(folder))
    print(
        f"A WAT file of 375 MB is extracted in {rates.wat:.1f} CPU s; a candidate asked for in {rates.asked * 1e3:.1f} CPU ms; an image is "
        f"scored in {rates.scored * 1e3:.1f} CPU ms, prepared for a GPU in {rates.prepared * 1e3:.1f}; a pair is checked, converted and "
        f"uploaded in {rates.published * 1e3:.2f}. An image came as {rates.fetched / 1e3:.0f} KB, a published pair is "
        f"{rates.stored / 1e3:.1f} KB.\n"
    )
    titles = "Published pairs,Candidates,Days of work,What binds the machines,Days of politeness (90 % of candidates)"
    titles += ",TB received,TB published,Cost"
    print(f"| {' | '.join(titles.split(','))} |\n|{' --- |' * 8}")
    shares, delay = hosts(), load_settings("laion400m", environment={}).download.host_delay
    for fleet in FLEETS:
        print(f"| {' | '.join(row(fleet, rates, shares, delay))} |")


if __name__ == "__main__":
    main()

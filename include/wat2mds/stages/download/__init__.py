"""download: unique pairs to samples, by img2dataset's engine, over a fetch that is safe and polite.

In: dedup's manifest of one WAT file. Out: shards of ``samples_per_shard`` rows, each ``NNNNN.parquet`` (SAMPLES; a failure is a row
with its drop reason) and ``NNNNN_stats.json`` (img2dataset's). Guaranteed: each uid once, in the order of unique.parquet; the same
answers give the same bytes, but for ``fetched_at`` and the durations in the stats. What does not belong here: judging what is
in the pictures (filter).

    addresses.py    which addresses may be connected to, names to addresses
    connections.py  sockets that keep to them and to a deadline, one pool and TLS context a process
    robots.py       robots.txt, X-Robots-Tag, tdm-reservation
    fetch.py        one image over HTTP: redirects, byte cap, retries
    images.py       type and size before decoding, hashes, orientation, PDQ
    decode.py       one image to what is stored of it
    decoders.py     the child process that does so, its limits, and the next one when it dies
    img2dataset_modules.py  its modules, imported quietly
    samples.py      the table of one shard
    engine.py       img2dataset's Downloader with the above
    shards.py       pairs into shards; the order of fetching
    workers.py      processes

Where later work fits: a limit for each host goes around ``Fetcher._request``; resuming inside a unit reads the tables of finished
shards and gives ``workers.download`` the other tasks.
"""

from __future__ import annotations

import logging
import os

import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.schema import SAMPLES
from wat2mds.settings import Settings
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.fetch import user_agent
from wat2mds.stages.download.shards import cut
from wat2mds.stages.download.workers import download

STAGE = "download"
log = logging.getLogger(__name__)


def run(unique: Manifest, out: str, settings: Settings, contact: str) -> Manifest:
    """Download the images of one WAT file's unique pairs.

    Raises ConfigError before anything is asked of the web, TransientError for a lost worker or a full disk.
    """
    wanted = settings.download
    _check(wanted, contact)
    with Unit(STAGE, out, [unique], settings) as unit:
        if unit.done:
            return unit.manifest
        inputs = unit.scratch / "pairs"
        inputs.mkdir()
        table = unique.fetch("unique.parquet", inputs)
        rows = pq.read_metadata(table).num_rows
        outputs = unit.path("00000.parquet").parent
        shards = -(-rows // wanted.samples_per_shard)
        processes = min(wanted.processes or len(os.sched_getaffinity(0)), shards)
        log.info("download: %d pairs, %d processes of %d threads", rows, processes, wanted.threads)
        if rows == 0:
            pq.write_table(SAMPLES.schema.empty_table(), outputs / "00000.parquet")
        outcome = download(cut(table, wanted.samples_per_shard, inputs, outputs), rows, processes, wanted, contact)
        # In the order of the tests, not of the web's answers: the manifest's text is part of what has to be the same twice.
        drops = {str(r): outcome.counts[r] for r in DropReason.of_stage(STAGE) if outcome.counts[r]}
        flow = Flow("unique", "samples", rows, outcome.counts["ok"], drops)
        return unit.commit([flow], extra={"shards": shards, "worker_cpu_seconds": round(outcome.cpu_seconds, 3)})


def _check(settings: DownloadSettings, contact: str) -> None:
    """What would fail in every worker fails here, once and first."""
    user_agent(contact, settings.resolver)
    if settings.encode_format == "png" and settings.encode_quality > 9:
        raise ConfigError(
            f"download.encode_quality: {settings.encode_quality} is no PNG compression level: 0 to 9 with encode_format png"
        )

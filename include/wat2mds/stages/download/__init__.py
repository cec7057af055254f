"""download: unique pairs to samples, by img2dataset's engine, over a fetch that is safe and polite.

In: dedup's manifest of one WAT file. Out: shards of ``samples_per_shard`` rows, each ``NNNNN.parquet`` (SAMPLES; a failure is a row
with its drop reason) and ``NNNNN_stats.json`` (img2dataset's). Guaranteed: each uid once, in the order of unique.parquet; the same
answers give the same bytes, but for ``fetched_at`` and the durations in the stats; an attempt that was killed, in whatever way and at
whatever moment, is continued by the next one at the image that it was at: no image is fetched again whose row was written. Which URLs
of a host go unasked because it rests (``host_resting``) is a matter of time. What does not belong here: judging what is in the
pictures (filter).

    addresses.py    which addresses may be connected to, names to addresses
    hosts.py        how often a host may be asked, over all processes
    turns.py        whose turn it is among the fetches of a shard
    sites.py        robots.txt and tdmrep.json, asked for once by all processes
    connections.py  sockets that keep to them and to a deadline, one pool and TLS context a process
    answers.py      HTTP/1.1 on one of them
    robots.py       robots.txt, X-Robots-Tag, tdm-reservation
    fetch.py        one image over HTTP: redirects, byte cap, retries
    images.py       type and size before decoding, hashes, orientation, PDQ
    resizing.py     img2dataset's resizing
    decode.py       one image to what is stored of it
    decoders.py     the child process that does so, its limits, and the next one when it dies
    img2dataset_modules.py  its module, imported without the rest of it
    journal.py      finished rows of one shard, until its table is written
    samples.py      the table of one shard
    threads.py      its threads
    engine.py       img2dataset's Downloader with the above
    shards.py       pairs into shards; the order of fetching
    report.py       figures of the running download, for wat2mds status
    space.py        waiting for room on the disk
    unfinished.py   what earlier attempts have finished
    workers.py      processes
"""

from __future__ import annotations

import logging
import os
from collections import Counter

import pyarrow.parquet as pq

from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Flow, Manifest, Unit
from wat2mds.schema import SAMPLES
from wat2mds.settings import Settings
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.fetch import user_agent
from wat2mds.stages.download.hosts import folder_of, private
from wat2mds.stages.download.report import Report
from wat2mds.stages.download.shards import cut
from wat2mds.stages.download.space import Space
from wat2mds.stages.download.unfinished import Unfinished, remove_unfinished
from wat2mds.stages.download.workers import download, pause_log

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
            remove_unfinished(unit.attempts)  # of an attempt that was killed when it had just become complete
            return unit.manifest
        inputs = unit.scratch / "pairs"
        inputs.mkdir()
        table = unique.fetch("unique.parquet", inputs)
        rows = pq.read_metadata(table).num_rows
        wanted = wanted.model_copy(update={"host_folder": str(private(folder_of(wanted, unit.scratch / "hosts")))})
        with Unfinished(unit) as unfinished:
            finished = unfinished.finished(rows, wanted.samples_per_shard)
            before = sum(finished.values(), Counter())
            shards = -(-rows // wanted.samples_per_shard)
            processes = min(wanted.processes or len(os.sched_getaffinity(0)), shards - len(finished))
            log.info("download: %d pairs, %d processes of %d threads", rows, processes, wanted.threads)
            if finished:
                log.info("download: goes on from %d of %d shards that an earlier attempt has finished", len(finished), shards)
            space = Space(unfinished.folder, wanted.min_free_bytes, wanted.disk_patience, pause_log())
            tasks = cut(table, wanted.samples_per_shard, inputs, unfinished.folder, finished, space)
            with Report(unit.store, unit.digest) as report:
                outcome = download(tasks, rows, before, processes, unfinished.folder, wanted, contact, report.tell)
            outputs = unit.path("00000.parquet").parent
            if rows == 0:
                pq.write_table(SAMPLES.schema.empty_table(), outputs / "00000.parquet")
            unfinished.hand_over(outputs)
            # In the order of the tests, not of the web's answers: the manifest's text is part of what has to be the same twice.
            drops = {str(r): outcome.counts[r] for r in DropReason.of_stage(STAGE) if outcome.counts[r]}
            flow = Flow("unique", "samples", rows, outcome.counts["ok"], drops)
            made = unit.commit([flow], extra={"shards": shards, "worker_cpu_seconds": round(outcome.cpu_seconds, 3)})
            unfinished.remove()
        return made


def _check(settings: DownloadSettings, contact: str) -> None:
    """What would fail in every worker fails here, once and first."""
    user_agent(contact, settings.resolver)
    if settings.encode_format == "png" and settings.encode_quality > 9:
        raise ConfigError(
            f"download.encode_quality: {settings.encode_quality} is no PNG compression level: 0 to 9 with encode_format png"
        )

"""img2dataset's Downloader, wired: its resizer and its threads, with the fetch, the checks and the table of wat2mds.

In: a shard's Arrow file (columns turn, position, uid, url, caption). Out: ``NNNNN.parquet`` and ``NNNNN_stats.json``. Guaranteed: every
row of the file is a row of the table, failures too; what goes wrong with the shard itself is raised. What does not belong here:
processes (``workers.py``), HTTP (``fetch.py``).

Importing this module imports img2dataset, which costs 3 to 8 CPU seconds: worker processes alone do it.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wat2mds.drops import DropReason
from wat2mds.errors import TransientError
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decoders import Decoders
from wat2mds.stages.download.fetch import Fetcher
from wat2mds.stages.download.images import hashes
from wat2mds.stages.download.img2dataset_modules import downloader as peer
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.samples import Facts, SampleWriter
from wat2mds.stages.download.shards import COLUMNS, Task

log = logging.getLogger(__name__)
_SHARD_DIGITS = 5  # img2dataset's default oom_shard_count: 00000.parquet


class _Body(io.BytesIO):
    """Fetched bytes on their way through the Downloader, with what is known of them."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts.data)
        self.facts = facts


class _Resizer:
    """What img2dataset's Downloader calls as its resizer: hands the image to the decoder."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders
        self.failure: TransientError | None = None

    def __call__(self, img_stream: _Body, blurring_bbox_list: None = None) -> tuple[Any, ...]:
        """Image, width, height, original width and height, error message. Never raises: the Downloader would lose the row."""
        facts = img_stream.facts
        try:
            done = self._decoders.decode(facts.data)
        except Refused as refused:
            facts.reason, facts.mime = refused.reason, refused.mime
            return None, None, None, None, None, str(refused)
        except TransientError as error:
            self.failure = error
            facts.reason = DropReason.DECODE_CRASH
            return None, None, None, None, None, str(error)
        finally:
            facts.data = b""
        facts.mime, facts.exif, facts.pdq, facts.pdq_quality = done.mime, done.exif, done.pdq, done.pdq_quality
        return done.stored, done.width, done.height, done.original_width, done.original_height, None


class Engine:
    """One a process, one shard at a time. ``done`` is told the outcome of each row: ok, or its drop reason."""

    def __init__(self, settings: DownloadSettings, contact: str, decoders: Decoders, done: Callable[[str], None]) -> None:
        self._settings = settings
        self._done = done
        self._fetcher = Fetcher(settings, contact)
        self._resizer = _Resizer(decoders)
        self._facts: dict[int, Facts] = {}
        # Its fetch verifies nothing that wat2mds promises. The other places where img2dataset is changed are in decode.py.
        peer.download_image_with_retry = self._fetch

    def run(self, task: Task) -> None:
        """Make one shard. Raises what made the shard as a whole fail."""
        self._facts = {}
        downloader = peer.Downloader(
            sample_writer_class=lambda *_: SampleWriter(
                Path(task.folder) / f"{task.number:0{_SHARD_DIGITS}d}.parquet",
                task.rows,
                lambda position: self._key(task.number, position),
                lambda turn: self._facts.pop(turn),
                self._done,
            ),
            resizer=self._resizer,
            thread_count=min(self._settings.threads, max(1, task.rows)),
            save_caption=False,  # the caption is among COLUMNS
            extract_exif=False,  # the decoder does: exifread is a parser of untrusted bytes too
            output_folder=task.folder,
            column_list=COLUMNS,
            timeout=self._settings.timeout,
            number_sample_per_shard=self._settings.samples_per_shard,
            oom_shard_count=_SHARD_DIGITS,
            compute_hash=None,  # the fetch hashes the bytes as they came
            verify_hash_type=None,
            encode_format=self._settings.encode_format,
            retries=self._settings.retries,
            user_agent_token=None,
            disallowed_header_directives=None,  # the fetch reads the headers
        )
        # Not by calling the object: that prints a shard's failure and goes on.
        downloader.download_shard((task.number, task.source))
        if self._resizer.failure is not None:
            raise self._resizer.failure

    def _key(self, number: int, position: int) -> str:
        digits = math.ceil(math.log10(self._settings.samples_per_shard))
        key: str = peer.compute_key(position, number, digits, _SHARD_DIGITS)
        return key

    def _fetch(self, row: tuple[int, str], **_: Any) -> tuple[int, _Body | None, str | None]:
        """In the place of img2dataset's download_image_with_retry: called in many threads, must never raise."""
        turn, url = row
        facts = self._facts[turn] = Facts()
        message = None
        try:
            answer = self._fetcher.image(url)
            facts.http_status = answer.status
            facts.data, facts.size = answer.body, len(answer.body)
            facts.hashes = hashes(answer.body)
        except Refused as refused:
            facts.reason, facts.http_status, message = refused.reason, refused.status, str(refused)
        except Exception as error:
            log.warning("%s: the fetch failed in a way it should not", url, exc_info=True)
            facts.reason, message = DropReason.HTTP_ERROR, f"{type(error).__name__}: {error}"[:300]
        facts.fetched_at = datetime.now(UTC).replace(microsecond=0)
        return (turn, None, message) if message is not None else (turn, _Body(facts), None)

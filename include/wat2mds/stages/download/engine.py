"""img2dataset's Downloader, wired: its resizer and its threads, with the fetch, the checks and the table of wat2mds.

In: a shard's Arrow file (columns turn, position, uid, url, caption). Out: ``NNNNN.parquet`` and ``NNNNN_stats.json``. Guaranteed: every
row of the file is a row of the table, failures too; what goes wrong with the shard itself is raised. What does not belong here:
processes (``workers.py``), HTTP (``fetch.py``).

Importing this module imports img2dataset, which costs 3 to 8 CPU seconds: worker processes alone do it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# albumentations, imported by img2dataset, asks the package index for a newer version of itself unless this is set before. It is
# the one variable written outside of settings.py, and only worker processes see it.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import cv2
import img2dataset.downloader
import img2dataset.resizer

from wat2mds.drops import DropReason
from wat2mds.models.pictures import content_box
from wat2mds.settings import DownloadSettings
from wat2mds.stages.download import images
from wat2mds.stages.download.fetch import Fetcher
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.samples import Facts, SampleWriter
from wat2mds.stages.download.shards import COLUMNS, Task

log = logging.getLogger(__name__)
_SHARD_DIGITS = 5  # img2dataset's default oom_shard_count: 00000.parquet
_REASONS = {
    "image too small": DropReason.TOO_SMALL_SIDE,
    "image area too large": DropReason.TOO_MANY_PIXELS,
    "aspect ratio too large": DropReason.ASPECT,
}


class _Body(io.BytesIO):
    """Fetched bytes on their way through the Downloader, with what is known of them."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts.data)
        self.facts = facts


class _Resizer(img2dataset.resizer.Resizer):  # type: ignore[misc]  # img2dataset has no types
    """img2dataset's, given images that passed the checks before decoding."""

    def __init__(self, settings: DownloadSettings) -> None:
        super().__init__(
            image_size=settings.image_size,
            resize_mode=settings.resize_mode,
            resize_only_if_bigger=settings.resize_only_if_bigger,
            encode_quality=settings.encode_quality,
            encode_format=settings.encode_format,
            skip_reencode=settings.skip_reencode,
            min_image_size=settings.min_image_size,
            max_image_area=settings.max_pixels,
            max_aspect_ratio=settings.max_aspect_ratio or float("inf"),
        )
        self._settings = settings

    def __call__(self, img_stream: _Body, blurring_bbox_list: Any = None) -> tuple[Any, ...]:
        """Image, width, height, original width and height, error message. Never raises."""
        facts = img_stream.facts
        try:
            facts.header = images.inspect(facts.data, self._settings)
            lossless = images.plain(facts.data, facts.header)
            stored, *sizes, message = super().__call__(img_stream if lossless is None else io.BytesIO(lossless))
            if message is not None:
                raise Refused(_REASONS.get(message, DropReason.DECODE), message.strip().splitlines()[0][:300])
            bordered = self._settings.resize_mode == "border"
            facts.pdq, facts.pdq_quality = images.pdq(stored, content_box(*sizes) if bordered else None)
        except Refused as refused:
            return _failed(facts, refused.reason, str(refused))
        except Exception as error:
            log.warning("an image was not decoded", exc_info=True)
            return _failed(facts, DropReason.DECODE, f"Image decoding error: {type(error).__name__}")
        finally:
            facts.data = b""
        return stored, *sizes, None


def _failed(facts: Facts, reason: DropReason, message: str) -> tuple[Any, ...]:
    facts.reason = reason
    return None, None, None, None, None, message


class Engine:
    """One a process, one shard at a time. ``done`` is told the outcome of each row: ok, or its drop reason."""

    def __init__(self, settings: DownloadSettings, contact: str, done: Callable[[str], None]) -> None:
        self._settings = settings
        self._done = done
        self._fetcher = Fetcher(settings, contact)
        self._resizer = _Resizer(settings)
        self._facts: dict[int, Facts] = {}
        # The places where img2dataset is changed, all here. Its fetch verifies nothing that wat2mds promises; a resizer that points
        # the process's stdout and stderr to /dev/null around each image loses other threads' log lines; and it makes the same two
        # albumentations transforms anew for each image, which costs 1 ms of 4.
        img2dataset.downloader.download_image_with_retry = self._fetch
        img2dataset.resizer.SuppressStdoutStderr = contextlib.nullcontext
        img2dataset.resizer.A = _Transforms(img2dataset.resizer.A)
        quieten()

    def run(self, task: Task) -> None:
        """Make one shard. Raises what made the shard as a whole fail."""
        self._facts = {}
        downloader = img2dataset.downloader.Downloader(
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
            extract_exif=True,
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

    def _key(self, number: int, position: int) -> str:
        digits = math.ceil(math.log10(self._settings.samples_per_shard))
        key: str = img2dataset.downloader.compute_key(position, number, digits, _SHARD_DIGITS)
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
            facts.hashes = images.hashes(answer.body)
        except Refused as refused:
            facts.reason, facts.http_status, message = refused.reason, refused.status, str(refused)
        except Exception as error:
            log.warning("%s: the fetch failed in a way it should not", url, exc_info=True)
            facts.reason, message = DropReason.HTTP_ERROR, f"{type(error).__name__}: {error}"[:300]
        facts.fetched_at = datetime.now(UTC).replace(microsecond=0)
        return (turn, None, message) if message is not None else (turn, _Body(facts), None)


class _Transforms:
    """albumentations as the resizer sees it: a transform made once stands for all that are made with the same arguments.

    They hold no state between images, and one thread of a process resizes.
    """

    def __init__(self, albumentations: Any) -> None:
        self._albumentations = albumentations
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def make(**arguments: Any) -> Any:
            key = f"{name} {arguments}"
            if key not in self._made:
                self._made[key] = getattr(self._albumentations, name)(**arguments)
            return self._made[key]

        return make


def quieten() -> None:
    """Keep what libraries say of each odd image out of the log; the row's error message has it."""
    logging.getLogger("exifread").setLevel(logging.CRITICAL)  # as img2dataset's own main does
    warnings.filterwarnings("ignore", message="value is deprecated, use fill instead")  # albumentations, once an image
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

"""img2dataset's Downloader, wired: its resizer and its threads, with the fetch, the checks and the table of wat2mds.

In: a shard's Arrow file (columns turn, position, uid, url, caption), and its journal. Out: ``NNNNN.parquet`` and ``NNNNN_stats.json``.
Guaranteed: every row of the file is a row of the table, failures too; a row that is in the journal is not fetched again, and goes
through the Downloader all the same, so that its stats are of the whole shard; what goes wrong with the shard itself is raised. What
does not belong here: processes (``workers.py``), HTTP (``fetch.py``).

Importing this module imports img2dataset's and cv2, which cost a CPU second: worker processes alone do it.
"""

from __future__ import annotations

import io
import logging
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from wat2mds.drops import DropReason
from wat2mds.errors import TransientError
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.decoders import Decoders
from wat2mds.stages.download.fetch import Answer, Fetcher
from wat2mds.stages.download.images import hashes
from wat2mds.stages.download.img2dataset_modules import downloader as peer
from wat2mds.stages.download.journal import Journal, Row
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.samples import Facts, SampleWriter
from wat2mds.stages.download.shards import COLUMNS, Task
from wat2mds.stages.download.space import Space
from wat2mds.stages.download.threads import Semaphore, ThreadPool
from wat2mds.stages.download.turns import Turns
from wat2mds.stages.download.unfinished import SHARD_DIGITS, journal_name, table_name

log = logging.getLogger(__name__)


class _Body(io.BytesIO):
    """Fetched bytes on their way through the Downloader, with what is known of them."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts.data)
        self.facts = facts


class _Resizer:
    """What img2dataset's Downloader calls as its resizer: hands the image to the decoder."""

    def __init__(self, decoders: Decoders, fail: Callable[[Exception], NoReturn]) -> None:
        self._decoders = decoders
        self._fail = fail

    def __call__(self, img_stream: _Body, blurring_bbox_list: None = None) -> tuple[Any, ...]:
        """Image, width, height, original width and height, error message. Never raises: the Downloader would lose the row."""
        facts = img_stream.facts
        if facts.row is not None:
            earlier = facts.row.columns
            return (b"", *(earlier[name] for name in ("width", "height", "original_width", "original_height", "error_message")))
        try:
            done = self._decoders.decode(facts.data)
        except Refused as refused:
            facts.reason, facts.mime = refused.reason, refused.mime
            return None, None, None, None, None, str(refused)
        except TransientError as error:
            self._fail(error)
        finally:
            facts.data = b""
        facts.mime, facts.exif, facts.pdq, facts.pdq_quality = done.mime, done.exif, done.pdq, done.pdq_quality
        return done.stored, done.width, done.height, done.original_width, done.original_height, None


class Engine:
    """One a process, one shard at a time. ``fail`` ends the process, from whatever thread: what is in the journal is not lost."""

    def __init__(
        self, settings: DownloadSettings, contact: str, decoders: Decoders, space: Space, fail: Callable[[Exception], NoReturn]
    ) -> None:
        self._settings = settings
        self._space = space
        self._fail = fail
        self._fetcher = Fetcher(settings, contact)
        self._turns = self._no_turns()
        self._resizer = _Resizer(decoders, fail)
        self._facts: dict[int, Facts] = {}
        self._earlier: dict[int, Row] = {}
        self._finished: Counter[str] = Counter()
        self._current: Counter[str] = Counter()
        self.fetched = 0  # rows of this process's own
        self.fetched_bytes = 0
        # The places where img2dataset is changed. Its fetch verifies nothing that wat2mds promises; its threads cost too much.
        peer.download_image_with_retry = self._fetch
        peer.ThreadPool, peer.Semaphore = ThreadPool, Semaphore

    @property
    def counts(self) -> Counter[str]:
        """Outcomes of the rows of this process's shards: ok, and drop reasons. Copies are taken whole: other threads ask."""
        found = Counter(self._finished)
        found.update(Counter(self._current))
        return found

    @property
    def hosts(self) -> frozenset[str]:
        """Those that something is asked of now."""
        return self._turns.hosts

    def run(self, task: Task) -> None:
        """Make one shard, from where an earlier attempt left it. Raises what made the shard as a whole fail."""
        # A full disk while the table is written: everything is in the journal, so that trying again asks nothing of the web.
        self._space.write(lambda: self._shard(task))
        self._finished.update(self._current)
        self._current = Counter()

    def _shard(self, task: Task) -> None:
        folder = Path(task.folder)
        with pa.OSFile(task.source) as source:
            pairs = pa.ipc.open_file(source).read_all().select(["turn", "position", "uid", "url"]).to_pylist()
        journal = Journal(folder / journal_name(task.number))
        try:
            rows = {row.columns["uid"]: row for row in journal.rows}
            self._facts, self._current = {}, Counter()
            self._earlier = {pair["turn"]: rows[pair["uid"]] for pair in pairs if pair["uid"] in rows}
            if self._earlier:
                log.info("shard %d: %d of %d rows were finished before", task.number, len(self._earlier), len(pairs))
            self._turns = self._no_turns()
            for pair in pairs:
                if pair["turn"] not in self._earlier:
                    self._turns.add(pair["turn"], self._fetcher.image(pair["url"]))
            uids = [pair["uid"] for pair in sorted(pairs, key=lambda pair: pair["position"])]
            # Not by calling the object: that prints a shard's failure and goes on.
            self._downloader(task, uids, journal).download_shard((task.number, task.source))
        except BaseException:
            journal.close()
            raise
        journal.remove()

    def _downloader(self, task: Task, uids: list[str], journal: Journal) -> Any:
        def add(columns: dict[str, Any], image: bytes | None) -> Row:
            try:
                return self._added(self._space.write(lambda: journal.add(columns, image)))
            except Exception as error:
                self._fail(error)

        return peer.Downloader(
            sample_writer_class=lambda *_: SampleWriter(
                Path(task.folder) / table_name(task.number),
                uids,
                lambda position: self._key(task.number, position),
                lambda turn: self._facts.pop(turn),
                add,
                journal.image,
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
            oom_shard_count=SHARD_DIGITS,
            compute_hash=None,  # the fetch hashes the bytes as they came
            verify_hash_type=None,
            encode_format=self._settings.encode_format,
            retries=self._settings.retries,
            user_agent_token=None,
            disallowed_header_directives=None,  # the fetch reads the headers
        )

    def _done(self, row: Row) -> None:
        self._current[row.columns["drop_reason"] or "ok"] += 1

    def _added(self, row: Row) -> Row:
        self.fetched += 1
        self.fetched_bytes += row.columns["original_bytes"] or 0
        return row

    def _key(self, number: int, position: int) -> str:
        digits = math.ceil(math.log10(self._settings.samples_per_shard))
        key: str = peer.compute_key(position, number, digits, SHARD_DIGITS)
        return key

    def _fetch(self, row: tuple[int, str], **_: Any) -> tuple[int, _Body | None, str | None]:
        """In the place of img2dataset's download_image_with_retry: called in many threads, must never raise.

        Called once for each row; the row that it answers for is whichever came to its end. A thread that stayed with the row
        that it is called with would have to wait for that row's host, while others are free.
        """
        earlier = self._earlier.get(row[0])
        if earlier is not None:
            facts = self._facts[row[0]] = Facts(row=earlier)
            failed = earlier.columns["status"] == "failed_to_download"
            return (row[0], None, earlier.columns["error_message"]) if failed else (row[0], _Body(facts), None)
        try:
            self._space.wait()
            turn, answer = self._turns.next()
        except Exception as error:
            self._fail(error)
        facts = self._facts[turn] = Facts()
        message = None
        if isinstance(answer, Refused):
            facts.reason, facts.http_status, message = answer.reason, answer.status, str(answer)
        elif isinstance(answer, Exception):
            log.warning("a fetch failed in a way it should not", exc_info=answer)
            facts.reason, message = DropReason.HTTP_ERROR, f"{type(answer).__name__}: {answer}"[:300]
        else:
            facts.http_status = answer.status
            facts.data, facts.size = answer.body, len(answer.body)
            facts.hashes = hashes(answer.body)
        facts.fetched_at = datetime.now(UTC).replace(microsecond=0)
        return (turn, None, message) if message is not None else (turn, _Body(facts), None)

    def _no_turns(self) -> Turns[Answer]:
        return Turns(self._fetcher.hosts, self._settings.host_patience)

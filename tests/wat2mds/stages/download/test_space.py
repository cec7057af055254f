"""A disk that fills up: fetching pauses and says so, goes on when there is room, and nothing is lost or fetched twice."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.wat2mds.stages.download.conftest import dedup_unit
from tests.wat2mds.stages.download.hostile_origin import picture
from tests.wat2mds.stages.download.killed import rows
from wat2mds.errors import TransientError
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages import download
from wat2mds.world.origin import Answer, Origin

MakePairs = Callable[[Sequence[str]], Manifest]
URLS = [f"http://h{i % 5}.example/{i}.jpg" for i in range(150)]
PICTURE = picture(256, 256, "JPEG", quality=95)  # 60 KB as stored: 9 MB in all, and once more while a table is written
MB = 1 << 20


class Running:
    """A download in a thread, onto the disk."""

    def __init__(self, unique: Manifest, disk: Path, origin: Origin, **settings: object) -> None:
        hosts = disk.with_name("hosts")  # 8 MB, which are not what the disk is filled with
        given = {
            "resolver": origin.address,
            "processes": 2,
            "threads": 4,
            "samples_per_shard": 40,
            "host_folder": str(hosts),
        } | settings
        self._arguments = unique, str(disk / "out"), Settings.model_validate({"download": given})
        self.made: Manifest | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.made = download.run(*self._arguments, "")
        except Exception as error:
            self.error = error

    def end(self) -> Manifest:
        self._thread.join(120)
        assert not self._thread.is_alive()
        assert self.error is None
        assert self.made is not None
        return self.made


def answers(host: str, target: str) -> Answer | None:
    return Answer(PICTURE) if target.endswith(".jpg") else None


def images(origin: Origin) -> Counter[str]:
    return Counter(f"http://{access.host}{access.target}" for access in list(origin.log) if access.target.endswith(".jpg"))


def fill(disk: Path, free: int) -> Path:
    """All of the disk but so many bytes, in a file."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(40 * MB - free))
    return ballast


def wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    end = time.monotonic() + 60
    while text not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.05)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of a download that always has room."""
    folder = tmp_path_factory.mktemp("roomy")
    with Origin(answers) as origin:
        return rows(Running(dedup_unit(folder, URLS), folder / "download", origin).end())


@pytest.mark.parametrize(
    ("free", "least", "why"),
    [(10 * MB, 6 * MB, "bytes are free in"), (4 * MB, 0, "No space left on device")],
    ids=["threshold", "full"],
)
def test_fetching_pauses_and_goes_on(
    free: int, least: int, why: str, roomy: pa.Table, disk: Path, unique_pairs: MakePairs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    unique = unique_pairs(URLS)
    with Origin(answers) as origin:
        ballast = fill(disk, free)
        running = Running(unique, disk, origin, min_free_bytes=least)
        wait_for("fetching pauses: ", caplog)
        assert why in caplog.text
        time.sleep(2)  # what was under way ends
        asked = images(origin)
        time.sleep(1)
        assert images(origin) == asked
        assert 0 < len(asked) < len(URLS)
        ballast.unlink()
        made = running.end()
        assert images(origin) == Counter(URLS)
        assert "fetching goes on" in caplog.text
    assert rows(made).drop(["fetched_at"]).equals(roomy.drop(["fetched_at"]))
    assert rows(made)["drop_reason"].null_count == len(URLS)


def test_patience_ends_and_the_next_attempt_goes_on(disk: Path, unique_pairs: MakePairs) -> None:
    unique = unique_pairs(URLS)
    with Origin(answers) as origin:
        ballast = fill(disk, 10 * MB)
        running = Running(unique, disk, origin, min_free_bytes=6 * MB, disk_patience=1)
        with pytest.raises(AssertionError):
            running.end()
        assert isinstance(running.error, TransientError)
        assert "no space on the disk" in str(running.error)
        asked = images(origin)
        assert 0 < len(asked) < len(URLS)
        ballast.unlink()
        made = Running(unique, disk, origin, min_free_bytes=6 * MB).end()
        # What was on its way when the workers were ended has no row: at most the threads' and as many that waited for the decoder.
        twice = [url for url, times in images(origin).items() if times > 1]
    assert set(images(origin)) == set(URLS)
    assert len(twice) <= 2 * 2 * 4
    assert rows(made)["drop_reason"].null_count == len(URLS)

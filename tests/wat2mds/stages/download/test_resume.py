"""A killed download goes on where it was: nothing is fetched twice after its row was written, and the result is the undisturbed one's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.wat2mds.stages.download.faulty_origin import web
from tests.wat2mds.stages.download.killed import run_killed
from wat2mds.manifest import Manifest

MakePairs = Callable[[Sequence[str]], Manifest]
SETTINGS = {"processes": 2, "threads": 16, "samples_per_shard": 100, "retries": 1, "image_size": 64}
# The web's faults are drawn, so that its hosts need no time to recover; and what becomes of its URLs must not depend on the order.
SETTINGS |= {"host_connections": 3, "host_delay": 0, "host_rest": 0.05}


def test_a_download_killed_three_times_is_as_one_that_was_not(unique_pairs: MakePairs, tmp_path: Path) -> None:
    urls = web(700, 20, seed=4)
    story = run_killed(unique_pairs(urls), urls, tmp_path, SETTINGS, seed=4)
    assert story.rows == len(urls)

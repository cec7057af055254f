"""What a web sees of a download by many processes, from its own log: limits, delays, rests, and that nobody waits for a slow host."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.wat2mds.stages.download.faulty_origin import FaultyOrigin, Request, most_at_once
from tests.wat2mds.stages.download.killed import rows
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages import download

MakePairs = Callable[[Sequence[str]], Manifest]
CONNECTIONS, DELAY, FAILURES = 3, 0.004, 4
SITE_FILES = ("/robots.txt", "/.well-known/tdmrep.json")


def settings(origin: FaultyOrigin, folder: Path, **changes: object) -> Settings:
    wanted: dict[str, object] = {"resolver": origin.address, "host_folder": str(folder), "timeout": 60, "deadline": 60}
    wanted |= {"host_connections": CONNECTIONS, "host_delay": DELAY, "host_failures": FAILURES, "host_patience": 1}
    wanted |= {"processes": 4, "threads": 64, "samples_per_shard": 200, "retries": 0, "image_size": 16}
    return Settings.model_validate({"download": wanted | changes})


def starts(log: Sequence[Request]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for request in log:
        found.setdefault(request.host, []).append(request.start)
    return {host: sorted(times) for host, times in found.items()}


def test_four_processes_of_64_threads_over_20_hosts(unique_pairs: MakePairs, tmp_path: Path) -> None:
    """A host with half of all URLs answers none of them before all other hosts have been asked for theirs."""
    held = [f"http://held.example/held/{number}.jpg" for number in range(400)]
    down = [f"http://down.example/down/{number}.jpg" for number in range(40)]
    quick = [f"http://h{number % 18}.example/good/{number}.jpg" for number in range(360)]
    urls = [url for three in zip(held, [*quick, *down], strict=True) for url in three]
    waiting = {url.removeprefix("http://") for url in quick}
    over = threading.Event()
    opened: list[bool] = []

    def gate(request: Request) -> None:
        waiting.discard(f"{request.host}{request.path}")
        if not waiting:
            over.set()
        if request.path.startswith("/held/"):
            opened.append(over.wait(50))

    unique = unique_pairs(urls)
    began = time.monotonic()
    with FaultyOrigin(gate) as origin:
        made = download.run(unique, str(tmp_path / "one"), settings(origin, tmp_path / "hosts"), "")
        log = list(origin.log)
        download.run(unique, str(tmp_path / "two"), settings(origin, tmp_path / "hosts", image_size=17), "")
        both = list(origin.log)

    reasons = dict(zip(urls, rows(made)["drop_reason"].to_pylist(), strict=True))
    assert {reasons[url] for url in (*held, *quick)} == {None}
    assert all(opened), f"after 50 s {len(waiting)} of the other hosts' URLs were not asked for"
    # Not held up: of the host that answered nothing, no more was asked than it may be at once.
    last_quick = max(number for number, request in enumerate(log) if request.path.startswith("/good/"))
    assert sum(request.path.startswith("/held/") for request in log[:last_quick]) <= CONNECTIONS
    most = most_at_once(both)
    assert most["held.example"] == CONNECTIONS
    assert max(most.values()) == CONNECTIONS
    # The k-th request of a host cannot have come sooner than k delays after the beginning.
    for host, times in starts(log).items():
        assert all(at >= began + place * DELAY for place, at in enumerate(times)), host
    # Of a host that fails, those that were on their way; then it is left alone, by the next task too.
    failed = Counter(reasons[url] for url in down)
    assert set(failed) == {"http_5xx", "host_resting"}
    assert FAILURES <= failed["http_5xx"] < FAILURES + CONNECTIONS
    assert sum(request.path.startswith("/down/") for request in both) == failed["http_5xx"]
    # Four processes and two tasks: each host is asked for its rules once.
    asked = Counter((request.host, request.path) for request in both if request.path in SITE_FILES)
    assert asked == {(host, path): 1 for host in starts(log) for path in SITE_FILES}


def test_a_host_is_left_alone_for_as_long_as_it_asks(unique_pairs: MakePairs, tmp_path: Path) -> None:
    """429 with Retry-After: 1 on its first image: its others wait with it, and all are asked after that."""
    urls = [
        f"http://{host}.example/{'retry-after' if host == 'a' else 'good'}/{number}.jpg" for number in range(8) for host in "ab"
    ]
    with FaultyOrigin() as origin:
        wanted = settings(origin, tmp_path / "hosts", processes=1, host_connections=1, host_patience=30, retries=1)
        made = download.run(unique_pairs(urls), str(tmp_path / "out"), wanted, "")
        log = [request for request in origin.log if request.path not in SITE_FILES]
    assert set(rows(made)["drop_reason"].to_pylist()) == {None}
    ours = [request for request in log if request.host == "a.example"]
    assert len(ours) == 9
    assert ours[1].start >= ours[0].end + 1

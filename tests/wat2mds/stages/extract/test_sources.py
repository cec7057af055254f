"""A WAT file from servers that misbehave: the pairs are those of the local file, or the attempt fails and says why."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.wat2mds.file_server import FakeClock, FileServer
from wat2mds import resume
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.settings import load_settings
from wat2mds.stages import extract
from wat2mds.world.page import Page, image
from wat2mds.world.wat_writer import write_wat

SETTINGS = load_settings("laion400m", environment={})
Files = dict[str, str]


def run(source: str, out: Path) -> Files:
    """The hash of each file that extract made."""
    manifest = extract.run(source, str(out), SETTINGS, snapshot="CC-MAIN-2024-10", segment="1.0", wat_file="00000")
    assert manifest.extra["lost_bytes"] == 0
    return {file.name: file.sha256 for file in manifest.files}


@pytest.fixture(scope="module")
def wat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pages that do not compress: half a megabyte, more than any socket's buffers hide."""
    rng = random.Random(7)
    pages = [
        Page(
            f"http://www.example.com/{n}",
            (image(f"/{n}.jpg", f"caption {n} {rng.randbytes(150).hex()}"),),
            datetime(2024, 2, 21, tzinfo=UTC),
        )
        for n in range(200)
    ]
    path = tmp_path_factory.mktemp("wat") / "x-00000.warc.wat.gz"
    write_wat(path, pages, snapshot="CC-MAIN-2024-10")
    assert path.stat().st_size > 250_000
    return path


@pytest.fixture(scope="module")
def expected(wat: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return run(str(wat), tmp_path_factory.mktemp("local"))


@pytest.fixture
def server(wat: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    clock = FakeClock()
    monkeypatch.setattr(resume, "clock", clock)
    monkeypatch.setattr(resume, "READ_SECONDS", 1.0)
    server = FileServer(wat.read_bytes(), clock)
    yield server
    server.close()


def busy(*statuses: int, after: str | None = None) -> Callable[[FileServer], None]:
    def behave(server: FileServer) -> None:
        server.statuses = [(status, {"Retry-After": after} if after else {}) for status in statuses]

    return behave


def cut(times: int, ranges: bool = True, etag: str = '"one"') -> Callable[[FileServer], None]:
    """Cut a little later each time, so that a server without ranges comes to its end too."""

    def behave(server: FileServer) -> None:
        server.ranges, server.etag = ranges, etag
        server.cuts = times
        server.cut_after = 50_000

        def later(server: FileServer) -> None:
            server.cut_after += 0 if ranges else 30_000

        server.before = later

    return behave


def stall(server: FileServer) -> None:
    server.cut_after, server.stalls = 100_000, 1


def length_unknown(server: FileServer) -> None:
    server.states_length, server.ranges, server.chunked = False, False, True


def length_unknown_and_cut(server: FileServer) -> None:
    length_unknown(server)
    server.cut_after, server.cuts = 100_000, 1


@pytest.mark.parametrize(
    ("behave", "retries", "pause"),
    [
        (busy(), 0, 0),
        (busy(503, after="7"), 1, 7),
        (busy(503, after="0"), 1, 1),
        (busy(429, 429, 429), 3, 1),
        (busy(403, 403), 2, 1),
        (busy(500, 502, 504, 408), 4, 1),
        (cut(3), 3, 1),
        (cut(3, etag='W/"weak"'), 3, 1),
        (cut(3, etag=""), 3, 1),
        (cut(3, ranges=False), 3, 1),
        (stall, 1, 1),
        (length_unknown, 0, 0),
        (length_unknown_and_cut, 1, 1),
    ],
    ids=[
        "well",
        "503 7s",
        "503 0s",
        "429",
        "403",
        "5xx",
        "cuts",
        "weak tag",
        "no tag",
        "cuts, no ranges",
        "stalls",
        "no length",
        "no length, a cut",
    ],
)
def test_the_pairs_are_the_local_files(
    server: FileServer, expected: Files, tmp_path: Path, behave: Callable[[FileServer], None], retries: int, pause: float
) -> None:
    behave(server)
    assert run(f"{server.url}/x.wat.gz", tmp_path) == expected
    assert len(server.log) == 2 + retries
    slow = [seconds for seconds in server.pauses() if seconds]
    assert len(slow) == retries, "no retry without a pause, and no pause without a retry"
    assert all(seconds >= max(1, pause) for seconds in slow), (
        "at most one retry a second, and not before the time that was asked for"
    )


def test_a_cut_is_gone_on_with_from_the_byte_that_was_reached(server: FileServer, expected: Files, tmp_path: Path) -> None:
    server.cut_after, server.cuts = 70_000, 3
    assert run(f"{server.url}/x.wat.gz", tmp_path) == expected
    assert server.firsts == [0, 70_000, 140_000, 210_000]
    assert [asked.headers.get("If-Range") for asked in server.log[2:]] == ['"one"'] * 3


def test_a_date_to_wait_for_is_read_by_the_servers_clock(server: FileServer, expected: Files, tmp_path: Path) -> None:
    server.statuses = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:29:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    assert run(f"{server.url}/x.wat.gz", tmp_path) == expected
    assert server.pauses()[0] == 90


def test_a_file_that_changes_meanwhile_is_not_pieced_together(server: FileServer, expected: Files, tmp_path: Path) -> None:
    """Neither where the server minds If-Range nor where it does not; the next attempt reads the new file."""
    url = f"{server.url}/x.wat.gz"

    server.cut_after, server.cuts = 70_000, 1
    server.before = lambda s: setattr(s, "etag", '"one"' if s.cuts else '"two"')
    with pytest.raises(TransientError, match="was changed while it was read"):
        run(url, tmp_path)
    assert server.log[-1].status == 200
    assert run(url, tmp_path) == expected
    server.cuts = 1
    server.etag = 'W/"three"'
    server.before = lambda s: setattr(s, "etag", 'W/"three"' if s.cuts else 'W/"four"')
    with pytest.raises(TransientError, match="was changed while it was read"):
        run(url, tmp_path / "other")
    assert server.log[-1].status == 206


@pytest.mark.parametrize("ranges", [True, False])
def test_a_length_that_is_not_the_files_is_no_whole_file(server: FileServer, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    server.stated = len(server.content) + 1000
    with pytest.raises(TransientError, match=rf"after {len(server.content):,} bytes, \d+ retries and \d+ s without another byte"):
        run(f"{server.url}/x.wat.gz", tmp_path)
    assert all(seconds >= 1 for seconds in server.pauses()[1:])
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        (busy(*[503] * 99), "status 503, after 0 bytes.* wants to be asked less"),
        (busy(*[403] * 99), r"status 403, .* \(403, 429 and 503 mean that at Common Crawl"),
        (busy(429, after="7200"), "the server asks to wait 7,200 s"),
        (busy(*[500] * 99), "status 500, .* Try again later"),
    ],
    ids=["503", "403", "two hours", "500"],
)
def test_what_lasts_is_left_to_a_later_attempt(
    server: FileServer, tmp_path: Path, statuses: Callable[[FileServer], None], message: str
) -> None:
    statuses(server)
    with pytest.raises(TransientError, match=message):
        run(f"{server.url}/x.wat.gz", tmp_path)
    assert all(seconds >= 1 for seconds in server.pauses())
    assert len(server.log) < 15


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, DataError, r"does not exist \(404\)"),
        (410, DataError, r"does not exist \(410\)"),
        (400, DataError, "answered with status 400"),
        (401, ConfigError, "access denied"),
    ],
)
def test_what_no_retry_mends(server: FileServer, tmp_path: Path, status: int, error: type[Exception], message: str) -> None:
    server.statuses = [(status, {})]
    with pytest.raises(error, match=message):
        run(f"{server.url}/x.wat.gz", tmp_path)
    assert len(server.log) == 1


def test_an_end_that_could_be_a_cut_is_not_trusted(server: FileServer, tmp_path: Path) -> None:
    server.states_length = server.ranges = False
    with pytest.raises(DataError, match="neither states a length nor sends chunks"):
        run(f"{server.url}/x.wat.gz", tmp_path)


def test_nobody_listens(server: FileServer, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(TransientError, match=r"ConnectError.*after 0 bytes"):
        run(f"{server.url}/x.wat.gz", tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_damage_is_stepped_over_as_in_a_local_file(server: FileServer, tmp_path: Path, ranges: bool) -> None:
    """The reader seeks back to look for the next gzip member: what it holds of the stream serves that, the server is not asked again."""
    damaged = bytearray(server.content)
    for at in range(20_000, len(damaged), 40_000):
        damaged[at : at + 30] = bytes(30)
    server.content, server.ranges = bytes(damaged), ranges
    local = tmp_path / "damaged.wat.gz"
    local.write_bytes(damaged)
    found = []
    for source, name in ((str(local), "local"), (f"{server.url}/x.wat.gz", "remote")):
        settings = load_settings("laion400m", ["extract.max_bad_share=1"], environment={})
        manifest = extract.run(source, str(tmp_path / name), settings, snapshot="S", segment="1.0", wat_file="00000")
        found.append([manifest.flows, manifest.extra["lost_bytes"], [file.sha256 for file in manifest.files]])
        assert manifest.extra["lost_bytes"] > 0
    assert found[0] == found[1]
    assert server.firsts == [0]

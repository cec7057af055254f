"""A remote file as a stream: what is read is what lies there, wherever its reader seeks and whatever breaks off."""

from __future__ import annotations

import io
import random
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.wat2mds.file_server import FakeClock, FileServer
from wat2mds import resume
from wat2mds.errors import DataError, TransientError
from wat2mds.source import look_up, open_source
from wat2mds.store import Store, split

CONTENT = random.Random(3).randbytes(20 << 20)


class CuttingProxy:
    """Hands connections on to a server. Cuts the next ``cuts`` answers after ``after`` bytes of theirs; ``answers`` are those that were
    long enough for it."""

    def __init__(self, port: int) -> None:
        self.cuts, self.after = 0, 0
        self.answers = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A blocked accept is not woken by close alone.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self._sent = 0  # a new request: its answer begins
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        self._sent = 0
        with suppress(OSError):
            while data := server.recv(1 << 16):
                before, self._sent = self._sent, self._sent + len(data)
                if before < self.after <= self._sent:
                    self.answers += 1
                    if self.cuts:
                        self.cuts -= 1
                        break
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(resume, "clock", clock)
    return clock


@pytest.fixture
def server(clock: FakeClock) -> Iterator[FileServer]:
    server = FileServer(CONTENT, clock)
    yield server
    server.close()


@pytest.fixture
def on_s3(s3_root: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Iterator[tuple[CuttingProxy, str]]:
    """A proxy, and a file's URL that is read through it."""
    url = f"{s3_root}/x.wat.gz"
    folder, name = split(url)
    Store(folder).write(name, CONTENT)
    proxy = CuttingProxy(int(s3_server.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    yield proxy, url
    proxy.close()


def read_whole(url: str, scratch: Path) -> bytes:
    with open_source(look_up(url), scratch) as (stream, size):
        found = stream.read()
        assert len(found) == size
    return found


def test_any_order_of_seeks_reads_what_lies_there(server: FileServer, tmp_path: Path) -> None:
    rng = random.Random(1)
    with open_source(look_up(f"{server.url}/x"), tmp_path) as (stream, size):
        assert size == len(CONTENT)
        position = 0
        for _ in range(60):
            kind = rng.randrange(4)
            if kind == 0:
                position = rng.randrange(size)
            elif kind == 1:
                position = max(0, position - rng.randrange(3 << 20))
            elif kind == 2:
                position = min(size, position + rng.randrange(6 << 20))
            assert stream.seek(position) == position
            wanted = rng.choice([1, 1000, 1 << 20, 3 << 20])
            found = stream.read(wanted)
            assert found == CONTENT[position : position + wanted]
            position += len(found)
        assert stream.seek(-10, io.SEEK_END) == size - 10
        assert stream.read() == CONTENT[-10:]
        assert stream.read(1) == b""


def test_a_reader_that_goes_forward_and_a_little_back_asks_once(server: FileServer, tmp_path: Path) -> None:
    with open_source(look_up(f"{server.url}/x"), tmp_path) as (stream, size):
        for position in range(0, size - (1 << 20), 1 << 20):
            stream.seek(position)
            assert stream.read(1 << 20) == CONTENT[position : position + (1 << 20)]
            stream.seek(max(0, position - (2 << 20)))
            assert stream.read(100) == CONTENT[stream.tell() - 100 : stream.tell()]
    assert server.firsts == [0]


def test_memory_does_not_grow_with_the_file(server: FileServer, tmp_path: Path) -> None:
    peaks = []
    for size in (8 << 20, 20 << 20):
        server.content = CONTENT[:size]
        with open_source(look_up(f"{server.url}/x"), tmp_path) as (stream, _):
            tracemalloc.start()
            assert sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b"")) == size
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert max(peaks) < 7.5 * (1 << 20), "what is kept behind the reader, its buffer, and little else"


def test_a_reader_that_stops_early_leaves_nothing_open(server: FileServer, tmp_path: Path) -> None:
    with open_source(look_up(f"{server.url}/x"), tmp_path) as (stream, _):
        assert stream.read(10) == CONTENT[:10]
    assert stream.closed


@pytest.mark.parametrize("cuts", [0, 1, 5])
def test_s3_answers_that_are_cut_are_asked_for_again(
    on_s3: tuple[CuttingProxy, str], clock: FakeClock, tmp_path: Path, cuts: int
) -> None:
    proxy, url = on_s3
    proxy.after, proxy.cuts = 3 << 20, cuts
    assert read_whole(url, tmp_path) == CONTENT
    assert proxy.cuts == 0
    assert proxy.answers == 3 + cuts, "20 MiB in pieces of 8"
    assert clock.seconds >= cuts, "at most one retry a second"


def test_s3_that_never_ends_an_answer_is_given_up_on(on_s3: tuple[CuttingProxy, str], tmp_path: Path) -> None:
    proxy, url = on_s3
    proxy.after, proxy.cuts = 3 << 20, 10**6
    with pytest.raises(TransientError, match=r"after 0 bytes, \d+ retries and \d+ s without another byte"):
        read_whole(url, tmp_path)


@pytest.mark.parametrize("gone", [False, True])
def test_an_s3_object_that_changes_meanwhile_is_not_pieced_together(
    on_s3: tuple[CuttingProxy, str], tmp_path: Path, gone: bool
) -> None:
    _, url = on_s3
    folder, name = split(url)
    with open_source(look_up(url), tmp_path) as (stream, _):
        assert stream.read(1000) == CONTENT[:1000]
        if gone:
            Store(folder).delete(name)
        else:
            Store(folder).write(name, CONTENT[::-1])
        with pytest.raises(DataError if gone else TransientError, match="was removed while" if gone else "was changed while"):
            stream.read()


def test_a_local_file_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a file #1 100%.wat"
    path.write_bytes(CONTENT[:1000])
    for url in (str(path), path.as_uri()):
        assert read_whole(url, tmp_path / "unused") == CONTENT[:1000]
    with pytest.raises(DataError, match="does not exist"):
        look_up(str(tmp_path / "none"))

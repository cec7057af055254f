"""The origin over real sockets: hosts, keep-alive, threads, redirects, ranges, HEAD, as a proxy, and its end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wat2mds.world.origin import Answer, AnswerTable, Origin, address, first_of, folder_source


@pytest.fixture
def table() -> AnswerTable:
    found = AnswerTable()
    found.add(
        "https://a.example.com/x.jpg", Answer(b"from a", headers=(("Content-Type", "image/jpeg"), ("X-Robots-Tag", "noai")))
    )
    found.add("http://b.example.com/x.jpg", Answer(b"from b"))
    found.add("https://bücher.example.org/grün.jpg?id=1&x=a b", Answer(b"green"))
    found.add("https://a.example.com/old.jpg", Answer(b"", 301, (("Location", "https://b.example.com/x.jpg"),)))
    found.add("https://a.example.com/robots.txt", Answer(b"User-agent: *\nDisallow: /\n"))
    found.add("https://a.example.com/nothing", Answer(b"", 204))
    found.add("https://a.example.com//twice.jpg", Answer(b"two slashes"))
    return found


@pytest.fixture
def origin(table: AnswerTable) -> Iterator[Origin]:
    with Origin(table) as running:
        yield running


def ask(origin: Origin, host: str, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
    try:
        connection.request(method, target, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_answers_by_host_and_path_whatever_the_scheme(origin: Origin) -> None:
    assert ask(origin, "a.example.com", "/x.jpg")[2] == b"from a"
    assert ask(origin, "A.Example.com:443", "/x.jpg")[2] == b"from a"
    assert ask(origin, "b.example.com", "/x.jpg")[2] == b"from b"
    assert ask(origin, "xn--bcher-kva.example.org", "/gr%c3%bcn.jpg?id=1&x=a%20b")[2] == b"green"
    assert ask(origin, "a.example.com", "//twice.jpg")[2] == b"two slashes"
    status, headers, _ = ask(origin, "a.example.com", "/x.jpg")
    assert (status, headers["Content-Type"], headers["X-Robots-Tag"]) == (200, "image/jpeg", "noai")
    assert ask(origin, "a.example.com", "/robots.txt")[2].startswith(b"User-agent")


def test_redirects_and_unknown_addresses(origin: Origin) -> None:
    status, headers, body = ask(origin, "a.example.com", "/old.jpg")
    assert (status, headers["Location"], body) == (301, "https://b.example.com/x.jpg", b"")
    for host, target in (("c.example.com", "/x.jpg"), ("b.example.com", "/robots.txt"), ("no host", "/"), ("", "/x.jpg")):
        assert ask(origin, host, target)[0] == 404
    assert ask(origin, "a.example.com", "/nothing")[0] == 204


def test_a_failing_source_is_an_error_of_the_server_and_no_lost_connection() -> None:
    def failing(host: str, target: str) -> Answer | None:
        raise RuntimeError("broken")

    with Origin(failing) as origin:
        assert ask(origin, "a.example.com", "/")[0] == 500


def test_eight_threads_keep_their_connections(origin: Origin) -> None:
    wrong: list[object] = []

    def client(host: str, expected: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
        for number in range(100):
            connection.request("GET", "/x.jpg" if number % 3 else "/unknown", headers={"Host": host, "User-Agent": "test"})
            answer = connection.getresponse()
            if (answer.status, answer.read()) != (200, expected) and number % 3:
                wrong.append((host, number, answer.status))
        connection.close()

    threads = [threading.Thread(target=client, args=(f"{name}.example.com", f"from {name}".encode())) for name in ("a", "b") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(origin.log) == 800
    assert len({line.connection for line in origin.log}) == 8
    assert {line.user_agent for line in origin.log} == {"test"}
    assert sum(line.status == 404 for line in origin.log) == 8 * 34


def test_a_burst_of_connections_is_not_refused(origin: Origin) -> None:
    clients = [socket.create_connection(("127.0.0.1", origin.port), timeout=10) for _ in range(200)]
    for client in clients:
        client.sendall(b"GET /x.jpg HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
    assert all(client.recv(4096).startswith(b"HTTP/1.1 200") for client in clients)
    for client in clients:
        client.close()


def test_it_serves_as_a_proxy(origin: Origin) -> None:
    assert ask(origin, "ignored.example.com", "http://b.example.com/x.jpg")[2] == b"from b"


def test_head_and_ranges(origin: Origin, tmp_path: Path) -> None:
    status, headers, body = ask(origin, "b.example.com", "/x.jpg", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "6", b"")
    (tmp_path / "crawl-data").mkdir()
    (tmp_path / "crawl-data" / "wat.paths.gz").write_bytes(bytes(range(256)) * 8192)
    with Origin(first_of(AnswerTable(), folder_source(tmp_path))) as files:
        host = files.address
        assert len(ask(files, host, "/crawl-data/wat.paths.gz")[2]) == 2 << 20
        status, headers, body = ask(files, host, "/crawl-data/wat.paths.gz", Range="bytes=256-511")
        assert (status, headers["Content-Range"], body) == (206, "bytes 256-511/2097152", bytes(range(256)))
        assert ask(files, host, "/crawl-data/wat.paths.gz", Range="bytes=-6")[2] == bytes(range(250, 256))
        assert ask(files, host, "/crawl-data/wat.paths.gz", Range="bytes=9999999-")[0] == 416
        assert ask(files, host, "/../" + Path(__file__).name)[0] == 404
        assert ask(files, host, "/%2e%2e/%2e%2e/etc/passwd")[0] == 404


def test_a_table_comes_back_from_its_folder(table: AnswerTable, tmp_path: Path) -> None:
    table.save(tmp_path)
    with Origin(AnswerTable.load(tmp_path)) as origin:
        assert ask(origin, "xn--bcher-kva.example.org", "/gr%C3%BCn.jpg?id=1&x=a%20b")[2] == b"green"
        status, headers, _ = ask(origin, "a.example.com", "/old.jpg")
        assert (status, headers["Location"]) == (301, "https://b.example.com/x.jpg")


def test_address_keeps_what_tells_resources_apart() -> None:
    assert address("https://WWW.Example.com:443/%61?b=1#c") == "www.example.com/a?b=1"
    assert address("http://www.example.com") == "www.example.com/"
    assert address("http://www.example.com:8080/") == "www.example.com:8080/"


def test_stopping_ends_idle_connections(table: AnswerTable) -> None:
    origin = Origin(table).start()
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
    connection.request("GET", "/x.jpg", headers={"Host": "a.example.com"})
    assert connection.getresponse().read() == b"from a"
    origin.stop()
    assert connection.sock.recv(1) == b""
    connection.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", origin.port), timeout=5)


def test_in_the_foreground_it_serves_until_it_is_told_to_end() -> None:
    program = (
        "import sys\nfrom wat2mds.world.origin import Answer, Origin\n"
        "origin = Origin(lambda host, target: Answer(b'here'))\nprint(origin.port, flush=True)\norigin.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        deadline = time.monotonic() + 10
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/", headers={"Host": "a.example.com"})
            found = connection.getresponse().read()
            connection.close()
            if found == b"here" or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

"""Answers as servers write them, over real sockets: what is kept of them, and when a connection may serve again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead, LineTooLong

import pytest

from wat2mds.stages.download.answers import Response, Stream, request

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    server, client = socket.socketpair()
    client.settimeout(5)
    yield server, client
    server.close()
    client.close()


def answer(pair: Pair, *parts: bytes, end: bool = True) -> tuple[Stream, Response]:
    server, client = pair
    for part in parts:
        server.sendall(part)
    if end:
        server.shutdown(socket.SHUT_WR)
    stream = Stream(client.recv)
    return stream, Response(stream)


@pytest.mark.parametrize(
    ("head", "name", "values"),
    [
        (b"X-Robots-Tag: noai\r\nx-robots-tag: a: b\r\n", "X-ROBOTS-TAG", ["noai", "a: b"]),
        (b"Tag: one\r\n two\r\n\tthree\r\n", "tag", ["one two three"]),
        (b"Tag : spaced \r\nno header at all\r\nLast:\r\n", "tag", ["spaced"]),
        (b"Tag: \xe9\n", "tag", ["\xe9"]),
    ],
)
def test_headers_are_read_as_leniently_as_browsers_read_them(pair: Pair, head: bytes, name: str, values: list[str]) -> None:
    _, response = answer(pair, b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\nok")
    assert response.headers.getlist(name) == values
    assert response.headers.get(name) == ", ".join(values)
    assert response.read(10) == b"ok"


@pytest.mark.parametrize(
    ("head", "body", "found"),
    [
        (b"Content-Length: 5", b"12345", b"12345"),
        (b"Transfer-Encoding: chunked", b"3\r\n123\r\n2;ext=1\r\n45\r\n0\r\nTrailer: x\r\n\r\n", b"12345"),
        (b"Content-Length: 05", b"12345", b"12345"),
    ],
)
def test_a_connection_serves_again_where_an_answer_has_an_end(pair: Pair, head: bytes, body: bytes, found: bytes) -> None:
    one = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body
    stream, first = answer(pair, one, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", one)
    assert first.read(100) == found
    assert first.read(100) == b""
    assert first.isclosed()
    assert not first.will_close
    assert not stream.empty, "more came than was asked for: such a connection is not used again"
    second = Response(stream)
    assert (second.status, second.read(3), second.read(100), stream.empty) == (200, found[:3], found[3:], True)


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK", b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.1 200"])
def test_an_answer_without_a_length_ends_with_its_connection(pair: Pair, head: bytes) -> None:
    _, response = answer(pair, head + b"\r\n\r\n", b"x" * 100_000)
    assert len(response.read(1 << 20)) == 100_000
    assert response.will_close


def test_what_is_announced_and_does_not_come_is_known(pair: Pair) -> None:
    _, response = answer(pair, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123")
    assert (response.read(100), response.length) == (b"123", 7)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", ConnectionResetError),
        (b"SSH-2.0-OpenSSH\r\n", HTTPException),
        (b"HTTP/2 200\r\n\r\n", HTTPException),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", HTTPException),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, LineTooLong),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", HTTPException),
    ],
)
def test_what_is_no_answer_is_refused(pair: Pair, text: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        answer(pair, text)


def test_a_chunk_that_ends_early(pair: Pair) -> None:
    _, response = answer(pair, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n123")
    with pytest.raises(IncompleteRead):
        response.read(100)


def test_a_request_is_one_request() -> None:
    assert (
        request("/a?b", "a.example:81", {"User-Agent": "x"})
        == b"GET /a?b HTTP/1.1\r\nHost: a.example:81\r\nUser-Agent: x\r\n\r\n"
    )
    for target, host in (("/a b", "a"), ("/a\r\nX: y", "a"), ("/", "a\r\nX: y")):
        with pytest.raises(ValueError, match="control character"):
            request(target, host, {})

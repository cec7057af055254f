"""The fetch against a hostile origin on real sockets: each case ends with its reason and within its deadline."""

from __future__ import annotations

import datetime
import email.utils
import gzip
import shutil
import socket
import struct
import tempfile
import time
import weakref

import pytest

from tests.wat2mds.stages.download.hostile_origin import Behaviour, HostileOrigin, reply
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.stage_settings import DownloadSettings
from wat2mds.stages.download.fetch import Answer, Fetcher, retry_after, user_agent
from wat2mds.stages.download.refusal import Refused
from wat2mds.stages.download.turns import Turns

BODY = bytes(range(256)) * 40
OK = reply("200 OK", ["Content-Type: image/jpeg"], BODY)


def redirect(to: str, status: str = "302 Found") -> Behaviour:
    return reply(status, [f"Location: {to}"])


def drip(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(600):
        connection.sendall(b"x")
        time.sleep(0.1)


def drip_header(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(600):
        connection.sendall(b"x")
        time.sleep(0.1)


def endless(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def endless_header(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Header: y\r\n" * 1000)


def endless_continue(connection: socket.socket, _: str) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def reset_in_the_middle(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silent(connection: socket.socket, _: str) -> None:
    time.sleep(5)


def raw(data: bytes) -> Behaviour:
    return lambda connection, _: connection.sendall(data)


CASES: dict[str, tuple[Behaviour, DropReason]] = {
    "404": (reply("404 Not Found"), DropReason.HTTP_404),
    "410": (reply("410 Gone"), DropReason.HTTP_404),
    "403": (reply("403 Forbidden"), DropReason.HTTP_403),
    "451": (reply("451 Unavailable For Legal Reasons"), DropReason.HTTP_403),
    "418": (reply("418 I'm a teapot"), DropReason.HTTP_4XX),
    "429": (reply("429 Too Many Requests", ["Retry-After: 3600"]), DropReason.HTTP_429),
    "500": (reply("500 Internal Server Error"), DropReason.HTTP_5XX),
    "503": (reply("503 Service Unavailable"), DropReason.HTTP_5XX),
    "204": (reply("204 No Content"), DropReason.HTTP_ERROR),
    "redirect-loop": (redirect("/redirect-loop"), DropReason.REDIRECTS),
    "redirect-nowhere": (redirect("http://[bad/"), DropReason.REDIRECTS),
    "redirect-ftp": (redirect("ftp://a.example/x.jpg"), DropReason.REDIRECTS),
    "redirect-file": (redirect("file:///etc/passwd"), DropReason.REDIRECTS),
    "redirect-loopback": (redirect("http://127.0.0.1/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-metadata": (redirect("http://169.254.169.254/latest/meta-data/"), DropReason.PRIVATE_ADDRESS),
    "redirect-v6-loopback": (redirect("http://[::1]/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-v4-mapped": (redirect("http://[::ffff:127.0.0.1]/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-decimal": (redirect("http://2130706433/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-private-name": (redirect("http://intranet.private.test/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-user": (redirect("http://a.example@127.0.0.1/x.jpg"), DropReason.PRIVATE_ADDRESS),
    "redirect-port": (redirect("http://a.example:22/x.jpg"), DropReason.BAD_PORT),
    "endless": (endless, DropReason.TOO_LARGE),
    "announced": (reply("200 OK", [], b"x" * 300_000), DropReason.TOO_LARGE),
    "gzip-bomb": (reply("200 OK", ["Content-Encoding: gzip"], gzip.compress(bytes(50_000_000))), DropReason.TOO_LARGE),
    "bad-gzip": (reply("200 OK", ["Content-Encoding: gzip"], b"\x1f\x8bnot gzip at all"), DropReason.HTTP_ERROR),
    "drip": (drip, DropReason.TIMEOUT),
    "drip-header": (drip_header, DropReason.TIMEOUT),
    "silent": (silent, DropReason.TIMEOUT),
    "endless-header": (endless_header, DropReason.HTTP_ERROR),
    "endless-continue": (endless_continue, DropReason.TIMEOUT),
    "reset": (reset_in_the_middle, DropReason.CONNECT),
    "closed": (lambda connection, _: None, DropReason.CONNECT),
    "not-http": (raw(b"SSH-2.0-OpenSSH_9.2\r\n" * 10), DropReason.HTTP_ERROR),
    "two-lengths": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"), DropReason.HTTP_ERROR),
    "cut-chunks": (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"), DropReason.CONNECT),
    "noai": (reply("200 OK", ["X-Robots-Tag: noai"], BODY), DropReason.X_ROBOTS),
    "noai-agent": (reply("200 OK", ["X-Robots-Tag: otherbot: all", "x-robots-tag: Wat2MDS: NoIndex"], BODY), DropReason.X_ROBOTS),
    "tdm": (reply("200 OK", ["TDM-Reservation: 1"], BODY), DropReason.TDM_RESERVED),
}


class Alone:
    """A Fetcher and whoever fetches one image after the other with it."""

    def __init__(self, settings: DownloadSettings, contact: str = "") -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self._fetcher = Fetcher(settings.model_copy(update={"host_folder": folder}), contact)
        self._patience = settings.host_patience

    def image(self, url: str) -> Answer:
        turns: Turns[Answer] = Turns(self._fetcher.hosts, self._patience)
        turns.add(0, self._fetcher.image(url))
        _, answer = turns.next()
        if isinstance(answer, Exception):
            raise answer
        return answer


def fetcher(origin: HostileOrigin, **changes: object) -> Alone:
    settings = {"timeout": 1.0, "deadline": 1.5, "retries": 0, "max_bytes": 200_000, "threads": 4}
    settings |= {"obey_robots_txt": False, "obey_tdmrep_file": False, "host_delay": 0}
    return Alone(DownloadSettings.model_validate(settings | {"resolver": origin.address} | changes))


def refusal(fetch: Alone, url: str) -> Refused:
    with pytest.raises(Refused) as refused:
        fetch.image(url)
    return refused.value


@pytest.mark.parametrize("case", CASES)
def test_each_case_ends_with_its_reason_in_time(hostile: HostileOrigin, case: str) -> None:
    behaviour, reason = CASES[case]
    hostile.behaviours[f"/{case}"] = behaviour
    started = time.monotonic()
    refused = refusal(fetcher(hostile), f"http://a.example/{case}")
    assert refused.reason is reason, str(refused)
    assert time.monotonic() - started < 3
    assert "\n" not in str(refused)


def test_an_answer(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {"/a.jpg": redirect("http://b.example/moved/b%20c.jpg?x=1#y"), "/moved/b%20c.jpg?x=1": OK}
    answer = fetcher(hostile).image("http://a.example/a.jpg")
    assert (answer.status, answer.body, answer.short) == (200, BODY, False)
    assert "\r\nHost: b.example\r\n" in hostile.requests[1]
    assert "\r\nUser-Agent: wat2mds/" in hostile.requests[1]


def test_https_in_a_world_is_plain_http_to_the_origin(hostile: HostileOrigin) -> None:
    hostile.behaviours["/a.jpg"] = OK
    assert fetcher(hostile).image("https://a.example/a.jpg").body == BODY
    assert "\r\nHost: a.example\r\n" in hostile.requests[0]
    assert "\r\nX-Forwarded-Proto: https\r\n" in hostile.requests[0]


def test_urls_as_found_on_pages(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {"/b%C3%BCcher/a%20b.jpg?q=%C3%A4": OK}
    assert fetcher(hostile).image("http://bücher.example/bücher/a b.jpg?q=ä").body == BODY
    assert "\r\nHost: xn--bcher-kva.example\r\n" in hostile.requests[0]


@pytest.mark.parametrize("url", ["ftp://a.example/a.jpg", "http:///a.jpg", "http://[bad/a.jpg", "", "data:image/png;base64,AA=="])
def test_what_is_no_http_url_is_a_drop(hostile: HostileOrigin, url: str) -> None:
    assert refusal(fetcher(hostile), url).reason is DropReason.HTTP_ERROR
    assert hostile.requests == []


def test_a_port_that_is_not_allowed(hostile: HostileOrigin) -> None:
    assert refusal(fetcher(hostile), "http://a.example:8080/a.jpg").reason is DropReason.BAD_PORT
    hostile.behaviours["/a.jpg"] = OK
    assert fetcher(hostile, allowed_ports=(80, 443, 8080)).image("http://a.example:8080/a.jpg").body == BODY


def test_redirects_up_to_the_limit(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {f"/{i}": redirect(f"/{i + 1}") for i in range(5)} | {"/5": OK}
    assert fetcher(hostile, max_redirects=5).image("http://a.example/0").body == BODY
    assert refusal(fetcher(hostile, max_redirects=4), "http://a.example/0").reason is DropReason.REDIRECTS


def test_a_transient_failure_is_tried_again(hostile: HostileOrigin) -> None:
    answers = iter([reply("503 Service Unavailable"), OK])
    hostile.behaviours["/a.jpg"] = lambda connection, text: next(answers)(connection, text)
    assert fetcher(hostile, retries=1, deadline=5).image("http://a.example/a.jpg").body == BODY


def test_429_is_tried_again_when_the_host_allows_it(hostile: HostileOrigin) -> None:
    then = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=2)
    when = f"Retry-After: {email.utils.format_datetime(then, usegmt=True)}"
    answers = iter([reply("429 Too Many Requests", [when]), OK])
    hostile.behaviours["/a.jpg"] = lambda connection, text: next(answers)(connection, text)
    assert (
        fetcher(hostile, retries=1, deadline=1).image("http://a.example/a.jpg").body == BODY
    )  # the wait is not the image's time
    assert datetime.datetime.now(datetime.UTC) >= then


def test_a_host_that_asks_for_more_than_patience_is_not_asked_again(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {"/429": CASES["429"][0], "/a.jpg": OK}
    fetch = fetcher(hostile, retries=3)
    assert refusal(fetch, "http://a.example/429").reason is DropReason.HTTP_429
    assert refusal(fetch, "http://a.example/a.jpg").reason is DropReason.HOST_RESTING
    assert fetch.image("http://b.example/a.jpg").body == BODY
    assert len(hostile.requests) == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120), (" 7 ", 7), ("0", 0), ("", None), ("soon", None), ("-5", None), ("1.5", None), ("9" * 400, 999_999_999_999)],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}) == 0
    then = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1), usegmt=True)
    assert 3500 < (retry_after({"Retry-After": then}) or 0) <= 3600


@pytest.mark.parametrize("case", ["404", "noai", "redirect-loopback"])
def test_a_permanent_failure_is_not_tried_again(hostile: HostileOrigin, case: str) -> None:
    hostile.behaviours[f"/{case}"] = CASES[case][0]
    refusal(fetcher(hostile, retries=3, deadline=5), f"http://a.example/{case}")
    assert len(hostile.requests) == 1


def test_a_length_that_lies_is_tolerated(hostile: HostileOrigin) -> None:
    hostile.behaviours["/a.jpg"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 11000\r\n\r\n" + BODY)
    answer = fetcher(hostile).image("http://a.example/a.jpg")
    assert (answer.body, answer.short) == (BODY, True)


def test_an_inflated_body(hostile: HostileOrigin) -> None:
    hostile.behaviours["/a.jpg"] = reply("200 OK", ["Content-Encoding: gzip"], gzip.compress(BODY))
    assert fetcher(hostile).image("http://a.example/a.jpg").body == BODY


def test_opt_outs_are_settings(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {"/noai": CASES["noai"][0], "/tdm": CASES["tdm"][0]}
    assert fetcher(hostile, obey_x_robots_tag=False).image("http://a.example/noai").body == BODY
    assert fetcher(hostile, obey_tdm_reservation=False).image("http://a.example/tdm").body == BODY


def test_robots_txt_is_asked_for_each_hop(hostile: HostileOrigin) -> None:
    hostile.behaviours |= {
        "/robots.txt": lambda connection, text: reply(
            "200 OK", [], b"User-agent: *\nDisallow: /" if "Host: closed.example" in text else b""
        )(connection, text),
        "/a.jpg": redirect("http://closed.example/b.jpg"),
        "/b.jpg": OK,
    }
    fetch = fetcher(hostile, obey_robots_txt=True)
    assert refusal(fetch, "http://closed.example/b.jpg").reason is DropReason.ROBOTS
    assert refusal(fetch, "http://open.example/a.jpg").reason is DropReason.ROBOTS
    assert fetch.image("http://open.example/b.jpg").body == BODY
    asked = [(r.split(" ")[1], r.partition("Host: ")[2].split("\r")[0]) for r in hostile.requests]
    assert asked == [
        ("/robots.txt", "closed.example"),
        ("/robots.txt", "open.example"),
        ("/a.jpg", "open.example"),
        ("/b.jpg", "open.example"),
    ]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (reply("500 Internal Server Error"), DropReason.ROBOTS_UNAVAILABLE),
        (silent, DropReason.TIMEOUT),
        (drip, DropReason.TIMEOUT),
        (redirect("http://127.0.0.1/robots.txt"), DropReason.PRIVATE_ADDRESS),
        (redirect("/robots.txt"), None),
        (endless, None),
    ],
)
def test_robots_txt_that_is_not_there(hostile: HostileOrigin, behaviour: Behaviour, reason: DropReason | None) -> None:
    hostile.behaviours |= {"/robots.txt": behaviour, "/a.jpg": OK}
    fetch = fetcher(hostile, obey_robots_txt=True)
    if reason is None:
        assert fetch.image("http://a.example/a.jpg").body == BODY
    else:
        assert refusal(fetch, "http://a.example/a.jpg").reason is reason
        assert not any("GET /a.jpg" in request for request in hostile.requests)


def test_tdmrep_json_is_asked_for_once_a_host_and_obeyed_as_set(hostile: HostileOrigin) -> None:
    rules = b'[{"location": "/closed/*", "tdm-reservation": 1}]'
    hostile.behaviours |= {"/.well-known/tdmrep.json": reply("200 OK", [], rules), "/closed/a.jpg": OK, "/a.jpg": OK}
    fetch = fetcher(hostile, obey_tdmrep_file=True)
    for _ in range(2):
        assert refusal(fetch, "http://a.example/closed/a.jpg").reason is DropReason.TDM_RESERVED
        assert fetch.image("http://a.example/a.jpg").body == BODY
    assert sum("tdmrep.json" in request for request in hostile.requests) == 1
    assert not any("GET /closed" in request for request in hostile.requests)
    assert fetcher(hostile).image("http://a.example/closed/a.jpg").body == BODY


@pytest.mark.parametrize(
    "behaviour", [reply("500 Internal Server Error"), endless, reset_in_the_middle, redirect("http://127.0.0.1/")]
)
def test_a_tdmrep_json_that_is_not_there_reserves_nothing(hostile: HostileOrigin, behaviour: Behaviour) -> None:
    hostile.behaviours |= {"/.well-known/tdmrep.json": behaviour, "/a.jpg": OK}
    assert fetcher(hostile, obey_tdmrep_file=True).image("http://a.example/a.jpg").body == BODY


def test_a_robots_txt_of_2_mb_is_read_to_its_limit(hostile: HostileOrigin) -> None:
    """What stands in the first 500 KiB holds; the rest does not."""
    filler = b"# filler\n" * 230_000
    hostile.behaviours |= {
        "/robots.txt": reply("200 OK", [], b"User-agent: *\nDisallow: /closed/\n" + filler + b"Disallow: /open/\n"),
        "/open/a.jpg": OK,
    }
    fetch = fetcher(hostile, obey_robots_txt=True)
    assert fetch.image("http://a.example/open/a.jpg").body == BODY
    assert refusal(fetch, "http://a.example/closed/a.jpg").reason is DropReason.ROBOTS


@pytest.mark.parametrize(("hops", "reason"), [(5, DropReason.ROBOTS), (6, None)])
def test_robots_txt_behind_redirects(hostile: HostileOrigin, hops: int, reason: DropReason | None) -> None:
    """RFC 9309 2.3.1.2: five are followed; beyond, there are no rules."""
    hostile.behaviours |= {"/robots.txt": redirect("/r1"), "/a.jpg": OK}
    hostile.behaviours |= {f"/r{i}": redirect(f"/r{i + 1}") for i in range(1, hops)}
    hostile.behaviours[f"/r{hops}"] = reply("200 OK", [], b"User-agent: *\nDisallow: /")
    fetch = fetcher(hostile, obey_robots_txt=True)
    if reason is None:
        assert fetch.image("http://a.example/a.jpg").body == BODY
    else:
        assert refusal(fetch, "http://a.example/a.jpg").reason is reason


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    fetch = Alone(DownloadSettings(resolver=address, retries=0))
    assert refusal(fetch, "http://a.example/a.jpg").reason is DropReason.CONNECT


def test_a_crawl_of_the_real_web_says_whom_to_turn_to() -> None:
    with pytest.raises(ConfigError, match="WAT2MDS_CONTACT"):
        user_agent("", None)
    with pytest.raises(ConfigError, match="WAT2MDS_CONTACT"):
        user_agent("me\r\nX-Injected: 1", None)
    assert user_agent("https://example.org/crawl", None).endswith(" (+https://example.org/crawl)")

"""The hostile origin through the whole stage: it ends, each pair is a row with its reason, and no process outgrows its limit."""

from __future__ import annotations

import gzip
import io
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from protego import Protego

from tests.wat2mds.stages.download.hostile_origin import Behaviour, HostileOrigin, picture, reply
from tests.wat2mds.stages.download.memory import peak_memory
from tests.wat2mds.stages.download.test_fetch import CASES as REFUSALS
from tests.wat2mds.stages.download.test_fetch import drip
from tests.wat2mds.stages.download.test_images import png_header
from tests.wat2mds.stages.download.test_robots import VERDICTS
from wat2mds.manifest import Manifest
from wat2mds.settings import Settings
from wat2mds.stages import download
from wat2mds.stages.download.robots import AGENT, parse

IMAGE = picture(160, 120)
MEMORY = 300_000_000  # download.decode_memory here
BESIDE = 500_000_000  # what a process holds that has imported the engine: some 130 MB


def encoded(kind: str, side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 9, 9)).save(out, kind)
    return out.getvalue()


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(picture(200, 200))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def longer_than_it_is(connection: object, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + picture(300, 200))  # type: ignore[attr-defined]


def by_host(connection: object, text: str) -> None:
    """robots.txt, different on some hosts."""
    texts: dict[str, Behaviour] = {
        "slow.example": drip,
        "huge.example": reply("200 OK", [], b"User-agent: *\nDisallow: /closed\n" + b"# filler\n" * 230_000),
        "broken.example": reply("503 Service Unavailable"),
    }
    host = text.partition("Host: ")[2].split("\r")[0]
    texts.get(host, reply("404 Not Found"))(connection, text)  # type: ignore[arg-type]


IMAGES: dict[str, tuple[Behaviour, str | None]] = {
    "png-bomb-header": (reply("200 OK", [], png_header(60_000, 60_000)), "too_many_pixels"),
    "png-bomb": (reply("200 OK", [], encoded("PNG", 9400)), "decode_memory"),  # under the limit of pixels, 265 MB twice over
    "jpeg-bomb": (reply("200 OK", [], jpeg_that_claims(65_000, 65_000)), "too_many_pixels"),
    "html": (reply("200 OK", ["Content-Type: image/jpeg"], b"<html>" + b"sorry " * 2000), "not_image"),
    "gzipped-image": (reply("200 OK", ["Content-Encoding: gzip"], gzip.compress(picture(300, 200))), None),
    "wrong-length": (longer_than_it_is, None),
    "good": (reply("200 OK", [], picture(320, 240)), None),
}


def test_a_hostile_web_through_the_stage(
    hostile: HostileOrigin, unique_pairs: Callable[[Sequence[str]], Manifest], tmp_path: Path
) -> None:
    wanted = {f"http://a.example/{name}": str(reason) for name, (_, reason) in REFUSALS.items()}
    wanted |= {f"http://b.example/{name}": reason for name, (_, reason) in IMAGES.items()}
    wanted |= {
        "http://slow.example/good": "timeout",
        "http://huge.example/good": None,
        "http://huge.example/closed": "robots",
        "http://broken.example/good": "robots_unavailable",
        "http://recovering.example/recovering": None,
    }
    hostile.behaviours |= {f"/{name}": behaviour for cases in (REFUSALS, IMAGES) for name, (behaviour, _) in cases.items()}
    hostile.behaviours["/robots.txt"] = by_host
    answers = iter([REFUSALS["503"][0], IMAGES["good"][0]])
    hostile.behaviours["/recovering"] = lambda connection, text: next(answers)(connection, text)
    limits = {"timeout": 4, "deadline": 6, "retries": 1, "max_bytes": 1_000_000, "decode_memory": MEMORY}
    limits |= {"host_connections": 16, "host_delay": 0, "host_failures": 100, "max_retry_after": 1, "host_rest": 1}
    settings = {"download": limits | {"resolver": hostile.address, "processes": 1, "threads": 16}}
    hostile.behaviours["/announced"] = reply("200 OK", [], bytes(1_500_000))
    with peak_memory() as peak:
        made = download.run(unique_pairs(list(wanted)), str(tmp_path / "out"), Settings.model_validate(settings), "")
        most = peak()
    table = pa.concat_tables([pq.read_table(Path(urlsplit(made.file(name)).path)) for name in made.matching(".parquet")])
    assert dict(zip(table["url"].to_pylist(), table["drop_reason"].to_pylist(), strict=True)) == wanted
    assert made.flows[0].reconciles
    assert most < MEMORY + BESIDE


@pytest.mark.shared
def test_each_robots_txt_as_a_site_serves_it(
    hostile: HostileOrigin, unique_pairs: Callable[[Sequence[str]], Manifest], shared: Path, tmp_path: Path
) -> None:
    """About 1,000 real ones and the edge cases, a host each: what a shard holds is what their texts say."""
    files = sorted(path for path in (shared / "robots").rglob("*") if path.is_file())
    assert len(files) > 1000
    texts = {f"r{number}.example": path.read_bytes() for number, path in enumerate(files)}
    wanted = {f"http://{host}/photos/a.jpg": parse(text) for host, text in texts.items()}
    verdicts = {url: rules.can_fetch(url, AGENT) for url, rules in wanted.items() if isinstance(rules, Protego)}
    assert len(verdicts) == len(files)
    hosts = {path.name: host for path, host in zip(files, texts, strict=True) if path.parent.name == "crawler-commons"}
    for name, agent, path, allowed in VERDICTS:
        if agent == AGENT:
            verdicts[f"http://{hosts[name]}{path}"] = allowed

    def serve(connection: socket.socket, text: str) -> None:
        host = text.partition("Host: ")[2].split("\r")[0]
        asked = text.split(" ", 2)[1]
        body = texts[host] if asked == "/robots.txt" else IMAGE
        reply("200 OK", [], body)(connection, text)

    hostile.otherwise = serve
    settings = {"resolver": hostile.address, "processes": 1, "threads": 16, "obey_tdmrep_file": False, "samples_per_shard": 5000}
    settings |= {"host_delay": 0, "timeout": 60, "deadline": 120}
    made = download.run(unique_pairs(list(verdicts)), str(tmp_path), Settings.model_validate({"download": settings}), "")
    table = pq.read_table(Path(urlsplit(made.file("00000.parquet")).path))
    found = dict(zip(table["url"].to_pylist(), table["drop_reason"].to_pylist(), strict=True))
    assert found == {url: None if allowed else "robots" for url, allowed in verdicts.items()}
    assert 10 < sum(reason is not None for reason in found.values()) < len(found) / 2

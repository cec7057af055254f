"""Fetching lists over real connections: what breaks off is gone on with, what comes damaged is not taken."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.wat2mds.stages.import_pairs.lists import laion_rows
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Manifest
from wat2mds.settings import child_environment, load_settings
from wat2mds.stages import import_pairs
from wat2mds.stages.import_pairs import source
from wat2mds.store import Store, split


class FileServer:
    """Serves one file in ranges. ``cut_after``: bytes after which a connection is closed, for so many requests;
    ``seen``: first byte asked for and the authorization, a request."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"one"'
        self.cut_after, self.cuts = 0, 0
        self.statuses: list[int] = []
        self.delay = 0.0
        self.seen: list[tuple[int, str | None]] = []
        self.gets: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.gets.append(request.path)
        asked = re.match(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        start, last = (int(asked[1]), asked[2]) if asked else (0, "")
        if last != "0":
            self.seen.append((start, request.headers.get("Authorization")))
        if self.statuses:
            self._empty(request, self.statuses.pop(0), ("Retry-After", "0"))
        elif "/resolve/" in request.path:
            sha256 = hashlib.sha256(self.content).hexdigest()
            self._empty(request, 302, ("Location", "/cdn/list.parquet"), ("X-Linked-Etag", f'"{sha256}"'))
        elif "missing" in request.path:
            self._empty(request, 404)
        else:
            body = self.content[start : int(last) + 1 if last else None]
            request.send_response(206 if asked else 200)
            request.send_header("ETag", self.etag)
            request.send_header("Content-Length", str(len(body)))
            if asked:
                request.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(self.content)}")
            request.end_headers()
            if self.cuts and last != "0":
                self.cuts -= 1
                body = body[: self.cut_after]
                request.close_connection = True
            for i in range(0, len(body), 4096):
                request.wfile.write(body[i : i + 4096])
                time.sleep(self.delay)

    @staticmethod
    def _empty(request: BaseHTTPRequestHandler, status: int, *headers: tuple[str, str]) -> None:
        request.send_response(status)
        for name, value in (*headers, ("Content-Length", "0")):
            request.send_header(name, value)
        request.end_headers()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A list of 3,000 pairs; what is fetched of it is collected below tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(source, "FIRST_PAUSE", 0.01)
    file = laion_rows(tmp_path / "made.parquet", [{"TEXT": f"a picture of {i:x} things {i * 7919}"} for i in range(3000)])
    server = FileServer(file.read_bytes())
    yield server
    server.close()


def run(url: str, out: Path, *overrides: str, token: str = "") -> Manifest:
    settings = load_settings("laion400m", overrides, environment={})
    return import_pairs.run(url, str(out), settings, name="list", number="00000", token=token)


def parts(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "tmp").rglob("*.part"))


def test_a_fetch_that_breaks_off_goes_on_where_it_was(served: FileServer, tmp_path: Path) -> None:
    served.cut_after, served.cuts = len(served.content) // 3, 2
    manifest = run(f"{served.url}/list.parquet", tmp_path / "out")
    assert manifest.flows[0].left == 3000
    third = len(served.content) // 3
    assert [start for start, _ in served.seen] == [0, third, 2 * third], "nothing is fetched twice"
    assert parts(tmp_path) == []


def test_a_killed_attempt_is_gone_on_with(served: FileServer, tmp_path: Path) -> None:
    served.delay = 0.2
    url, out = f"{served.url}/list.parquet", tmp_path / "out"
    command = [sys.executable, "-m", "wat2mds", "import", url, "--out", str(out), "--profile", "laion400m"]
    environment = child_environment(TMPDIR=str(tmp_path / "tmp"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        deadline = time.monotonic() + 60
        while not any(part.stat().st_size for part in parts(tmp_path)):
            assert time.monotonic() < deadline, "nothing came"
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
    had = parts(tmp_path)[0].stat().st_size
    assert 0 < had < len(served.content)
    served.delay = 0
    served.seen.clear()
    assert run(url, out).flows[0].left == 3000
    assert [start for start, _ in served.seen] == [had]


def test_a_busy_server_is_asked_again(served: FileServer, tmp_path: Path) -> None:
    served.statuses = [503, 429]
    assert run(f"{served.url}/list.parquet", tmp_path / "out").flows[0].left == 3000
    served.statuses = [503] * 50
    with pytest.raises(TransientError, match="cannot be reached: status 503"):
        run(f"{served.url}/list.parquet", tmp_path / "other")


def test_a_server_that_gives_up_leaves_what_it_gave(served: FileServer, tmp_path: Path) -> None:
    served.cut_after, served.cuts = 1000, 1
    look = source.look_up(f"{served.url}/list.parquet", "")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    served.statuses = []
    first = served.answer

    def answer(request: BaseHTTPRequestHandler) -> None:
        if served.seen:
            served.statuses = [500]
        first(request)

    served.answer = answer  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="broke off at 1,000 bytes: status 500"):
        source.bring(look, scratch)
    assert parts(tmp_path)[0].stat().st_size == 1000


def test_the_hub_is_followed_to_its_storage_and_its_checksum_held(served: FileServer, tmp_path: Path) -> None:
    url = "hf://datasets/laion/relaion400m/data/list.parquet"
    hub = f"import.hub={served.url}"
    manifest = run(url, tmp_path / "out", hub, token="secret")
    assert served.gets[0] == "/datasets/laion/relaion400m/resolve/main/data/list.parquet"
    assert served.seen[0][1] == "Bearer secret"
    assert hashlib.sha256(served.content).hexdigest() in manifest.inputs[0].identity
    assert "secret" not in manifest.to_json().decode()
    assert run(url, tmp_path / "out", hub).done_before
    with pytest.raises(DataError, match="does not exist"):
        run(f"{served.url}/missing.parquet", tmp_path / "out")
    with pytest.raises(ConfigError, match="no address on the hub"):
        run("hf://laion/relaion400m", tmp_path / "out")


def test_what_comes_damaged_is_not_taken(served: FileServer, tmp_path: Path) -> None:
    good = hashlib.sha256(served.content).hexdigest()
    assert run(f"{served.url}/list.parquet#sha256={good}", tmp_path / "good").flows[0].left == 3000
    with pytest.raises(TransientError, match="its SHA-256 is"):
        run(f"{served.url}/list.parquet#sha256={'0' * 64}", tmp_path / "bad")
    assert parts(tmp_path) == [], "the next attempt begins anew"
    with pytest.raises(DataError, match="is not the file that is meant"):
        run(f"{tmp_path / 'made.parquet'}#sha256={'0' * 64}", tmp_path / "bad")
    with pytest.raises(ConfigError, match="64 hex digits"):
        run(f"{served.url}/list.parquet#md5=1", tmp_path / "bad")


def test_a_file_that_changes_meanwhile_is_not_pieced_together(served: FileServer, tmp_path: Path) -> None:
    look = source.look_up(f"{served.url}/list.parquet", "")
    served.etag = '"two"'
    with pytest.raises(TransientError, match="was changed while"):
        source.bring(look, tmp_path)


def test_from_s3(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = laion_rows(tmp_path / "made.parquet", [{}] * 50)
    folder, name = split(f"{s3_root}/lists/part-0.parquet")
    Store(folder).put_file(file, name)
    manifest = run(f"{s3_root}/lists/part-0.parquet", tmp_path / "out")
    assert manifest.flows[0].entered == 50
    assert source.look_up(f"{s3_root}/lists/part-0.parquet", "").md5 == hashlib.md5(file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="does not exist"):
        run(f"{s3_root}/lists/none.parquet", tmp_path / "out2")

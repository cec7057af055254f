"""Fetching lists over real connections: what breaks off is gone on with, what comes damaged is not taken."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wat2mds.file_server import FakeClock, FileServer
from tests.wat2mds.stages.import_pairs.lists import laion_rows
from wat2mds import resume
from wat2mds.errors import ConfigError, DataError, TransientError
from wat2mds.manifest import Manifest
from wat2mds.settings import child_environment, load_settings
from wat2mds.source import look_up
from wat2mds.stages import import_pairs
from wat2mds.store import Store, split


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A list of 3,000 pairs; what is fetched of it is collected below tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(resume, "clock", FakeClock())
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
    assert served.firsts == [0, third, 2 * third], "nothing is fetched twice"
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
    served.log.clear()
    assert run(url, out).flows[0].left == 3000
    assert served.firsts == [had]


def test_a_server_that_gives_up_leaves_what_it_gave(served: FileServer, tmp_path: Path) -> None:
    served.cut_after, served.cuts = 1000, 1

    def down(server: FileServer) -> None:
        server.statuses = [(500, {})] * 99

    served.before = down
    with pytest.raises(TransientError, match="status 500, after 1,000 bytes"):
        run(f"{served.url}/list.parquet", tmp_path / "out")
    assert parts(tmp_path)[0].stat().st_size == 1000
    served.statuses.clear()
    served.log.clear()
    served.before = lambda _: None
    assert run(f"{served.url}/list.parquet", tmp_path / "out").flows[0].left == 3000
    assert served.firsts == [1000]


def test_the_hub_is_followed_to_its_storage_and_its_checksum_held(served: FileServer, tmp_path: Path) -> None:
    url = "hf://datasets/laion/relaion400m/data/list.parquet"
    hub = f"import.hub={served.url}"
    manifest = run(url, tmp_path / "out", hub, token="secret")
    assert served.log[0].path == "/datasets/laion/relaion400m/resolve/main/data/list.parquet"
    assert [asked.headers.get("Authorization") for asked in served.log] == ["Bearer secret"] * 4
    served.statuses = [(403, {})]
    with pytest.raises(ConfigError, match=r"access denied \(403\). A gated dataset on the hub wants a token"):
        run(url, tmp_path / "gated", hub)
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


def test_from_s3(s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = laion_rows(tmp_path / "made.parquet", [{}] * 50)
    folder, name = split(f"{s3_root}/lists/part-0.parquet")
    Store(folder).put_file(file, name)
    manifest = run(f"{s3_root}/lists/part-0.parquet", tmp_path / "out")
    assert manifest.flows[0].entered == 50
    assert look_up(f"{s3_root}/lists/part-0.parquet").md5 == hashlib.md5(file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="does not exist"):
        run(f"{s3_root}/lists/none.parquet", tmp_path / "out2")

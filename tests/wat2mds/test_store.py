"""The store on both backends: atomic writes, creates that only one wins, errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest

from tests.wat2mds.fault_proxy import FaultProxy
from wat2mds.errors import ConfigError, DiskFullError, TransientError
from wat2mds.manifest import Input, Unit
from wat2mds.settings import Settings
from wat2mds.store import Layout, Store, fetch, join, normalize, split


def test_what_is_written_is_read_back(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 100_000)
    store.put_file(large, "a/large.bin")
    assert store.read("a/b.bin") == b"two"
    assert store.get_file("a/large.bin", tmp_path / "back").read_bytes() == large.read_bytes()
    assert [(o.path, o.size) for o in store.walk("a")] == [("a/b.bin", 3), ("a/large.bin", 25_600_000)]
    assert store.names("a") == (["b.bin", "large.bin"], [])
    assert store.names() == ([], ["a"])
    with store.open("a/large.bin") as reader:
        reader.seek(1000)
        assert bytes(reader.read(5)) == large.read_bytes()[1000:1005]


def test_a_copy_is_its_own(store_url: str) -> None:
    store = Store(store_url)
    store.write("a/one", b"content")
    store.copy("a/one", "b/c/two")
    store.write("a/one", b"other")
    assert store.read("b/c/two") == b"content"
    store.copy("a/one", "b/c/two")
    store.delete("a/one")
    assert store.read("b/c/two") == b"other"
    with pytest.raises(FileNotFoundError, match="a/one"):
        store.copy("a/one", "b/c/two")


def test_create_is_won_once(store_url: str) -> None:
    store = Store(store_url)
    assert store.create("x", b"first") is True
    assert store.create("x", b"second") is False
    assert store.read("x") == b"first"


def test_of_many_processes_one_creates(store_url: str) -> None:
    program = "import sys; from wat2mds.store import Store; print(Store(sys.argv[1]).create('race/1', sys.argv[2].encode()))"
    racers = [
        subprocess.Popen([sys.executable, "-c", program, store_url, str(i)], stdout=subprocess.PIPE, text=True) for i in range(6)
    ]
    said = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert said.count("True") == 1
    assert Store(store_url).read("race/1") == str(said.index("True")).encode()


def test_trees_come_and_go(store_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    (folder / "one").write_bytes(b"1")
    (folder / "deep" / "two").write_bytes(b"2")
    store = Store(store_url)
    store.put_tree(folder, "here")
    assert [o.path for o in store.walk("here")] == ["here/deep/two", "here/one"]
    store.delete_tree("here")
    store.delete("not-there")
    assert store.walk("here") == []


def test_what_is_not_there_is_a_file_not_found_error_that_names_it(store_url: str, tmp_path: Path) -> None:
    for act in (lambda: Store(store_url).read("no/such"), lambda: fetch(join(store_url, "no/such"), tmp_path)):
        with pytest.raises(FileNotFoundError, match="no/such"):
            act()
    assert not Store(store_url).exists("no/such")


def test_reading_a_wrong_path_leaves_nothing(tmp_path: Path) -> None:
    assert Store(str(tmp_path / "mistyped")).walk() == []
    assert not (tmp_path / "mistyped").exists()


def test_urls() -> None:
    assert normalize("/data/x/") == "file:///data/x"
    assert normalize("file:/data/x") == "file:///data/x"
    assert split("s3://b/p/x.json") == ("s3://b/p", "x.json")
    with pytest.raises(ConfigError, match="'ftp' is not supported"):
        normalize("ftp://x/y")
    with pytest.raises(ConfigError, match="WAT2MDS_ROOT"):
        normalize("")
    with pytest.raises(ConfigError, match="reading only"):
        Store("http://127.0.0.1:9/x").write("y", b"")


def test_a_dataset_knows_its_root() -> None:
    layout = Layout("s3://b/p", "demo")
    assert Layout.of(layout.dataset).root == "s3://b/p"
    with pytest.raises(ConfigError, match="<root>/datasets/<name>"):
        Layout.of("s3://b/p/demo")


class Answers:
    """An S3 that answers every request alike, and repeats in its answer what it was sent, as S3 does with a wrong signature."""

    def __init__(self, status: int, code: str) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                outer.requests += 1
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                told = "; ".join(f"{name}:{value}" for name, value in self.headers.items())
                text = f"<Error><Code>{code}</Code><Message>{told}</Message><StringToSign>{told}</StringToSign></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        self.requests = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "error", "hint"),
    [
        (403, "AccessDenied", ConfigError, "rights on this path"),
        (403, "SignatureDoesNotMatch", ConfigError, "secret key does not fit"),
        (403, "InvalidAccessKeyId", ConfigError, "does not know this access key"),
        (400, "ExpiredToken", ConfigError, "session has expired"),
        (400, "AuthorizationHeaderMalformed", ConfigError, "AWS_REGION"),
        (301, "PermanentRedirect", ConfigError, "AWS_REGION"),
        (404, "NoSuchBucket", ConfigError, "no such bucket"),
        (404, "SomethingElse", ConfigError, "answered 404 to a write"),
        (400, "SomethingElse", TransientError, "SomethingElse"),
        (500, "InternalError", TransientError, "500 Internal Server Error"),
    ],
)
def test_what_no_retry_mends_fails_at_once_and_tells_no_secret(
    status: int,
    code: str,
    error: type[Exception],
    hint: str,
    s3_root: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PLANTED-KEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "PLANTED-TOKEN")
    for name, value in {"RETRIES": 1, "BACKOFF": 0.001}.items():
        monkeypatch.setenv(f"WAT2MDS_STORE_{name}", str(value))
    (tmp_path / "file").write_bytes(b"z")
    with Answers(status, code) as answers:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:PLANTED-WORD@127.0.0.1:{answers.port}")
        store = Store(s3_root)
        acts: list[Callable[[], object]] = [
            lambda: store.write("y", b"z"),
            lambda: store.create("y", b"z"),
            lambda: store.put_file(tmp_path / "file", "y"),
        ]
        for act in acts:
            before = answers.requests
            with pytest.raises(error) as caught:
                act()
            assert hint in str(caught.value)
            told = "".join(traceback.format_exception(caught.value)) + caplog.text
            assert "PLANTED" not in told
            if error is ConfigError:
                assert answers.requests == before + 1


def test_no_credentials_are_said_to_be_missing(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("WAT2MDS_STORE_RETRIES", "0")
    with Answers(500, "") as answers:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{answers.port}")
        with pytest.raises(ConfigError, match="No credentials are set"):
            Store(s3_root).write("y", b"z")


def test_credentials_do_not_belong_in_a_url() -> None:
    with pytest.raises(ConfigError, match="AWS_ variables") as caught:
        Store("s3://key:PLANTED@bucket/prefix")
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("fault", ["lost_answer", "cut", "error_500", "slow_down", "damaged", "stall"])
def test_a_create_that_is_answered_late_or_not_at_all_is_ours_once(
    fault: str, s3_root: str, s3_server: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two callers with equal content: equal bytes in the store say nothing about who made them."""
    store = Store(s3_root)
    proxy.once(fault, "PUT", "/x")
    assert store.create("x", b"same") is True
    assert proxy.seen[fault] == 1
    assert store.create("x", b"same") is False
    proxy.once(fault, "PUT", "/x")
    assert store.create("x", b"same") is False
    proxy.once("lost_answer", "PUT", "/y", times=2)
    assert store.create("y", b"same") is True
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert Store(s3_root).read("x") == b"same"


def test_a_damaged_create_is_put_right(s3_root: str, proxy: FaultProxy) -> None:
    proxy.once("silent_damage", "PUT", "/x")
    assert Store(s3_root).create("x", b"right") is True
    proxy.once("silent_damage", "PUT", "/y")
    Store(s3_root).write("y", b"right")
    assert Store(s3_root).read("x") == Store(s3_root).read("y") == b"right"
    proxy.once("damaged", "GET", "/x")
    assert Store(s3_root).read("x") == b"right"
    assert proxy.seen == {"silent_damage": 2, "damaged": 1}


def test_an_attempt_whose_answer_was_lost_keeps_its_own_files(s3_root: str, proxy: FaultProxy) -> None:
    """The loser of a manifest's create removes its files: an attempt must not take itself for the loser."""
    with Unit("extract", join(s3_root, "unit"), [Input("a", "1")], Settings()) as unit:
        unit.path("pairs").write_bytes(b"pairs")
        proxy.once("lost_answer", "PUT", ".json")
        manifest = unit.commit([])
    assert proxy.seen["lost_answer"] == 1
    assert not manifest.done_before
    assert Store(manifest.base).read("pairs") == b"pairs"


def test_a_download_cut_short_leaves_no_half(s3_root: str, proxy: FaultProxy, tmp_path: Path) -> None:
    store = Store(s3_root)
    store.write("x", bytes(100_000))
    proxy.once("cut", "GET", "/x", times=99)
    with pytest.raises(TransientError, match="cannot read"):
        store.get_file("x", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    proxy.once("cut", "GET", "/x")
    assert store.get_file("x", tmp_path / "x").read_bytes() == bytes(100_000)


def test_a_download_to_a_full_disk_says_whose_fault_it_is(s3_root: str, tmp_path: Path) -> None:
    Store(s3_root).write("object", bytes(1 << 20))
    (tmp_path / "object.partial").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match=rf"cannot read {s3_root}/object: the disk is full; temporary files are in /"):
        Store(s3_root).get_file("object", tmp_path / "object")
    assert list(tmp_path.iterdir()) == []


def test_only_unfinished_uploads_of_a_certain_age_are_ended(s3_root: str, s3_server: str) -> None:
    import boto3

    boto = boto3.client("s3", endpoint_url=s3_server)
    prefix = s3_root.removeprefix("s3://tests/")
    boto.create_multipart_upload(Bucket="tests", Key=f"{prefix}/a/begun")
    store = Store(s3_root)
    (begun,) = (entry["Initiated"] for entry in boto.list_multipart_uploads(Bucket="tests", Prefix=prefix)["Uploads"])
    assert store.abort_uploads(before=begun - timedelta(days=1)) == 0
    later = begun + timedelta(days=1)
    assert store.abort_uploads(before=later, dry_run=True) == store.abort_uploads(before=later) == 1
    assert store.abort_uploads() == 0

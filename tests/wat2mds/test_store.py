"""The store on both backends: atomic writes, creates that only one wins, errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wat2mds.errors import ConfigError
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


def test_wrong_credentials_are_a_setting_to_correct(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A bucket that does not exist: S3 answers 404 to a write, which no retry mends.
    with pytest.raises((ConfigError, FileNotFoundError)):
        Store("s3://no-such-bucket/x").write("y", b"")

"""Units: complete only when whole, made once, won by one of two attempts, cleaned up after a killed one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wat2mds.errors import DataError, Wat2MdsError
from wat2mds.manifest import Flow, Input, Manifest, Unit, open_manifest, read_manifest
from wat2mds.settings import load_settings
from wat2mds.store import Store, join

SETTINGS = load_settings("demo", environment={})
SOURCE = Input("file:///a.wat.gz", "12:abc")


def make(out: str, content: bytes = b"x", source: Input = SOURCE, **changes: object) -> Manifest:
    settings = load_settings("demo", [f"{k.replace('__', '.')}={v}" for k, v in changes.items()], environment={})
    with Unit("extract", out, [source], settings, unit={"snapshot": "S", "segment": "1.0", "wat_file": "00000"}) as unit:
        if unit.done:
            return unit.manifest
        unit.path("deep/pairs.bin").write_bytes(content)
        return unit.commit([Flow("links", "pairs", 3, 2, {"no_url": 1})], {"note": 1})


def test_a_unit_is_made_once(store_url: str, tmp_path: Path) -> None:
    first = make(store_url)
    second = make(store_url, b"never written")
    assert not first.done_before
    assert second.done_before
    assert second.fetch("deep/pairs.bin", tmp_path).read_bytes() == b"x"
    assert first.identity == second.identity
    assert read_manifest(first.url).summary()["counts"] == {"links": 3, "pairs": 2}


def test_other_settings_or_inputs_make_another(store_url: str, tmp_path: Path) -> None:
    first = make(store_url)
    assert make(store_url, b"y", extract__min_caption_chars=9).url != first.url
    changed = make(store_url, b"z", Input(SOURCE.url, "13:abd"))
    assert changed.url == first.url
    assert not changed.done_before
    assert changed.fetch("deep/pairs.bin", tmp_path).read_bytes() == b"z"


def test_of_two_attempts_the_first_to_commit_stands(store_url: str, tmp_path: Path) -> None:
    with Unit("extract", store_url, [SOURCE], SETTINGS) as slow:
        assert not slow.done
        slow.path("f").write_bytes(b"slow")
        with Unit("extract", store_url, [SOURCE], SETTINGS) as quick:
            quick.path("f").write_bytes(b"quick")
            quick.commit([])
        adopted = slow.commit([])
    assert adopted.done_before
    assert adopted.fetch("f", tmp_path).read_bytes() == b"quick"
    assert [o.path for o in Store(store_url).walk() if o.path.endswith("/f")] == [f"{adopted.folder}/f"]


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with Unit("extract", str(tmp_path), [SOURCE], SETTINGS) as unit:
            unit.path("f").write_bytes(b"half")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half()
    assert list((tmp_path / ".attempts").iterdir()) == []
    assert not list(tmp_path.glob("*.json"))


def test_what_a_killed_attempt_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = f"""
import time
from wat2mds.manifest import Input, Unit
from wat2mds.settings import load_settings
with Unit("extract", {str(tmp_path)!r}, [Input("a", "b")], load_settings("demo", environment={{}})) as unit:
    unit.path("f").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    with Unit("extract", str(tmp_path), [SOURCE], SETTINGS):
        assert len(list((tmp_path / ".attempts").iterdir())) == 2, "a living attempt's folder must stay"
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.1)
    with Unit("extract", str(tmp_path), [SOURCE], SETTINGS):
        assert len(list((tmp_path / ".attempts").iterdir())) == 1, "a dead attempt's folder must go"


def test_a_flow_that_does_not_reconcile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Wat2MdsError, match="5 links are not 2 pairs"), Unit("extract", str(tmp_path), [SOURCE], SETTINGS) as unit:
        unit.commit([Flow("links", "pairs", 5, 2, {"no_url": 1})])
    assert not list(tmp_path.glob("*.json"))


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    out = str(tmp_path)
    with pytest.raises(DataError, match="holds no manifest: run extract first"):
        open_manifest(out, "extract")
    first = make(out)
    assert open_manifest(out, "extract").identity == first.identity
    with pytest.raises(DataError, match="is the manifest of extract; expected one of dedup"):
        open_manifest(first.url, "dedup")
    make(out, extract__min_caption_chars=9)
    with pytest.raises(DataError, match="2 manifests of different settings"):
        open_manifest(out, "extract")
    assert open_manifest(out, "extract", first.digest).url == first.url
    with pytest.raises(DataError, match="clear its task"):
        open_manifest(join(out, "0123.json"), "extract")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="not a manifest"):
        open_manifest(str(tmp_path / "bad.json"), "extract")

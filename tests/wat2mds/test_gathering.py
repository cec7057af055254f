"""Objects of many pieces, on both backends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wat2mds import gathering
from wat2mds.errors import TransientError
from wat2mds.gathering import write_pieces
from wat2mds.store import Store


def test_pieces_become_one_object(store_url: str) -> None:
    store = Store(store_url)
    data = os.urandom(1 << 20)
    pieces = [memoryview(data)[start : start + 300] for start in range(0, len(data), 300)]
    write_pieces(store, "deep/er/one", [b"", *pieces, b""])
    assert store.read("deep/er/one") == data
    write_pieces(store, "deep/er/one", [])
    assert store.read("deep/er/one") == b""
    assert [entry.path for entry in store.walk()] == ["deep/er/one"]


def test_what_the_kernel_takes_only_in_part_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.writev
    monkeypatch.setattr(gathering.os, "writev", lambda file, pieces: whole(file, [memoryview(pieces[0])[:7]]))
    write_pieces(Store(tmp_path.as_uri()), "one", [b"0123456789", b"abc", bytes(30)])
    assert (tmp_path / "one").read_bytes() == b"0123456789abc" + bytes(30)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path.as_uri())
    write_pieces(store, "one", [b"sound"])

    def full(file: int, pieces: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gathering.os, "writev", full)
    with pytest.raises(TransientError, match=r"cannot write .*one: No space left on device"):
        write_pieces(store, "one", [b"new"])
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert store.read("one") == b"sound"

"""The journal: what was added is there again, whatever was cut off or damaged after it."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wat2mds.stages.download.journal import Journal, Row

ROWS: list[tuple[dict[str, object], bytes | None]] = [
    (
        {"uid": "a", "caption": "Ein Bär \U0001f43b", "fetched_at": datetime(2026, 11, 21, 7, 5, tzinfo=UTC), "width": 3},
        b"image" * 40,
    ),
    ({"uid": "b", "error_message": "timed out", "drop_reason": "timeout"}, None),
    ({"uid": "c", "exif": None}, b""),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "00000.rows"
    journal = Journal(path)
    for columns, image in ROWS:
        row = journal.add(columns, image)
        assert journal.image(row) == image
    journal.close()
    return path


def read(path: Path) -> list[tuple[dict[str, object], bytes | None]]:
    journal = Journal(path)
    found = [(row.columns, journal.image(row)) for row in journal.rows]
    journal.close()
    return found


def test_rows_come_back_and_more_can_be_added(path: Path) -> None:
    assert read(path) == ROWS
    journal = Journal(path)
    journal.add({"uid": "d"}, b"more")
    journal.close()
    assert read(path) == [*ROWS, ({"uid": "d"}, b"more")]


def test_a_journal_cut_anywhere_keeps_its_whole_rows(path: Path) -> None:
    whole = path.read_bytes()
    ends = [0]
    for count in range(1, len(ROWS) + 1):
        path.unlink()
        journal = Journal(path)
        for columns, image in ROWS[:count]:
            journal.add(columns, image)
        journal.close()
        ends.append(path.stat().st_size)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        rows = sum(end <= size for end in ends) - 1
        assert read(path) == ROWS[:rows]
        assert path.stat().st_size == ends[rows]


def test_damage_ends_the_rows(path: Path) -> None:
    """Such as the zeros that a machine without power leaves where its kernel had grown the file and written nothing."""
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = read(path)
        assert found == ROWS[: len(found)]
        assert len(found) < len(ROWS)
    path.write_bytes(whole + bytes(5000))
    assert read(path) == ROWS


def test_a_write_that_fails_in_the_middle_adds_nothing(path: Path) -> None:
    journal = Journal(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.add({"uid": "e"}, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    row: Row = journal.add({"uid": "f"}, b"fits")
    assert journal.image(row) == b"fits"
    journal.close()
    assert read(path) == [*ROWS, ({"uid": "f"}, b"fits")]

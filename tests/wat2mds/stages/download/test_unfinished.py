"""Who may go on from what an attempt left: one at a time, and nobody before the last process of a dead attempt has ended."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from wat2mds.manifest import Flow, Input, Unit
from wat2mds.schema import SAMPLES, table_of
from wat2mds.settings import Settings
from wat2mds.stages.download import unfinished
from wat2mds.stages.download.unfinished import Unfinished, hold, remove_unfinished, stats_name, table_name


def unit(folder: Path, identity: str = "1", **settings: object) -> Unit:
    return Unit("download", str(folder), [Input("file:///pairs", identity)], Settings.model_validate({"download": settings}))


def finish_shard(folder: Path, number: int, reasons: list[str | None]) -> None:
    names = [f"{number}-{row}" for row in range(len(reasons))]
    columns = {"uid": names, "key": names, "url": names, "caption": names, "status": names, "drop_reason": reasons}
    pq.write_table(table_of(SAMPLES, columns), folder / table_name(number))
    (folder / stats_name(number)).write_text("{}")


def test_the_next_attempt_finds_what_is_finished(tmp_path: Path) -> None:
    with unit(tmp_path) as one, Unfinished(one) as first:
        finish_shard(first.folder, 0, [None, "timeout", None])
        finish_shard(first.folder, 1, [None, None, "timeout"])
        finish_shard(first.folder, 2, [None])
        (first.folder / stats_name(1)).write_text('{"cou')  # killed while it was written
    with unit(tmp_path) as two, Unfinished(two) as second:
        assert second.folder == first.folder
        assert second.finished(7, 3) == {0: {"ok": 2, "timeout": 1}, 2: {"ok": 1}}
        assert set(second.finished(8, 3)) == {0}  # the last shard would have two rows
        outputs = two.path("00000.parquet").parent
        second.hand_over(outputs)
        assert json.loads((outputs / stats_name(0)).read_text()) == {}
        two.commit([Flow("unique", "samples", 7, 7)])
        second.remove()
    assert not list((tmp_path / ".attempts").rglob("*.parquet"))


def test_other_inputs_or_settings_begin_anew_and_what_was_left_goes_in_the_end(tmp_path: Path) -> None:
    with unit(tmp_path) as one, Unfinished(one) as first:
        finish_shard(first.folder, 0, [None])
    for other in (unit(tmp_path, "2"), unit(tmp_path, image_size=64)):
        with other, Unfinished(other) as found:
            assert found.folder != first.folder
            assert not found.finished(1, 10)
    with unit(tmp_path, threads=7) as same, Unfinished(same) as found:  # how, not what
        assert found.finished(1, 10)
    remove_unfinished(unit(tmp_path).attempts)
    assert not first.folder.exists()


def test_an_attempt_beside_a_live_one_has_its_own_folder(tmp_path: Path) -> None:
    with unit(tmp_path) as one, Unfinished(one) as first:
        finish_shard(first.folder, 0, [None])
        with unit(tmp_path) as two, Unfinished(two) as second:
            assert second.folder != first.folder
            assert not second.finished(1, 10)
            finish_shard(second.folder, 0, [None])
            second.remove()
        assert first.finished(1, 10)


def test_with_an_object_store_a_retry_on_this_machine_goes_on(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    given = Settings(), [Input("file:///pairs", "1")]
    with Unit("download", s3_root, given[1], given[0]) as one, Unfinished(one) as first:
        assert first.folder.is_relative_to(tmp_path)
        finish_shard(first.folder, 0, [None, "timeout"])
    with Unit("download", s3_root, given[1], given[0]) as two, Unfinished(two) as second:
        assert second.finished(2, 10) == {0: {"ok": 1, "timeout": 1}}
        second.hand_over(two.path("00000.parquet").parent)
        made = two.commit([Flow("unique", "samples", 2, 1, {"timeout": 1})])
        second.remove()
    assert {file.name for file in made.files} == {table_name(0), stats_name(0)}
    assert not first.folder.exists()


def work(folder: Path, pipe: Connection) -> None:
    with hold(folder):
        pipe.send("holding")
        pipe.recv()


def test_workers_of_a_dead_attempt_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with unit(tmp_path) as one, Unfinished(one) as first:
        worker = context.Process(target=work, args=(first.folder, theirs))
        worker.start()
        assert ours.recv() == "holding"
    # The attempt has ended, its worker has not.
    monkeypatch.setattr(unfinished, "_WORKERS_SECONDS", 0.2)
    with unit(tmp_path) as two, pytest.raises(Exception, match="still work"):
        Unfinished(two)
    monkeypatch.setattr(unfinished, "_WORKERS_SECONDS", 60)
    ours.send("end")
    with unit(tmp_path) as three, Unfinished(three) as third:
        assert third.folder == first.folder
    worker.join()

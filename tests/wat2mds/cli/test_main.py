"""The command line as a process: exit codes, the last line, help of every command, mistyped names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.wat2mds.stages.extract.test_extract import GOOD, wat_of
from wat2mds.cli.main import app
from wat2mds.settings import child_environment


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wat2mds", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=child_environment(**environment))


def commands() -> list[tuple[str, ...]]:
    root = typer.main.get_command(app)
    found: list[tuple[str, ...]] = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found += [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
    return found


@pytest.fixture
def wat(tmp_path: Path) -> Path:
    path = tmp_path / "CC-MAIN-x-00003.warc.wat.gz"
    path.write_bytes(wat_of(GOOD, GOOD))
    return path


def test_a_stage_ends_with_its_summary(wat: Path, tmp_path: Path) -> None:
    done = call("extract", str(wat), "--out", str(tmp_path / "pairs"), "--profile", "demo")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["counts"] == {"records": 2, "pages": 2, "links": 2, "pairs": 2}
    assert (summary["wat_file"], summary["done_before"]) == ("00003", False)
    again = call("extract", str(wat), "--out", str(tmp_path / "pairs"), "--profile", "demo")
    assert json.loads(again.stdout.splitlines()[-1])["done_before"] is True
    chained = call("dedup", str(tmp_path / "pairs"), "--ledger", str(tmp_path / "ledger"), "--out", str(tmp_path / "unique"))
    assert chained.returncode == 0, chained.stderr
    assert (tmp_path / "unique" / "00003").is_dir()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (("fliter",), {}, 78, "Did you mean 'filter'"),
        (("extract", "x", "--out", "OUT", "--profil", "demo"), {}, 78, "Did you mean '--profile'"),
        (("extract", "x", "--out", "OUT", "--profile", "dmo"), {}, 78, "Did you mean 'demo'"),
        (("extract", "x", "--out", "OUT", "--set", "extract.min_caption=3"), {}, 78, "Did you mean 'extract.min_caption_chars'"),
        (("extract", "x", "--out", "OUT"), {"WAT2MDS_EXTRACT__MIN_CAPTION_CHAR": "3"}, 78, "WAT2MDS_EXTRACT__MIN_CAPTION_CHARS"),
        (("extract", "none.wat.gz", "--out", "OUT"), {}, 65, "none.wat.gz does not exist"),
        (("download", "OUT", "--out", "OUT"), {}, 65, "run dedup or retry first"),
        (("plan", "--root", "ROOT"), {}, 78, "no snapshot is registered"),
        (("plan",), {}, 78, "WAT2MDS_ROOT"),
        (("run",), {}, 78, "WAT2MDS_AIRFLOW_PASSWORD"),
        (("status",), {"WAT2MDS_AIRFLOW_URL": "http://127.0.0.1:9", "WAT2MDS_AIRFLOW_PASSWORD": "x"}, 75, "127.0.0.1:9"),
    ],
)
def test_errors_say_what_to_do_and_write_nothing(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], code: int, said: str
) -> None:
    placed = [a.replace("OUT", str(tmp_path / "out")).replace("ROOT", str(tmp_path / "root")) for a in arguments]
    ended = call(*placed, **environment)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "what to do:" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_every_command_explains_its_options() -> None:
    root = typer.main.get_command(app)
    for names in commands():
        command = root
        for name in names:
            command = command.commands[name]  # type: ignore[attr-defined]
        assert command.help, f"{' '.join(names)} has no docstring: write what it does"
        for parameter in command.params:
            assert getattr(parameter, "help", None), (
                f"{' '.join(names)}: {parameter.name} has no help: say what it is, unit and default"
            )


def test_help_is_quick() -> None:
    """Help and mistyped options must not wait for torch or Airflow."""
    program = "import sys; from wat2mds.cli.main import run; run(['extract', '--help']); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert not {"torch", "airflow", "great_expectations", "img2dataset", "streaming", "pandas"} & set(loaded)

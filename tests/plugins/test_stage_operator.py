"""The operator on real programs: what each way of ending means, what is logged, and that nothing outlives it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout

import wat2mds_operator
from wat2mds_operator import StageOperator, failure, pasteable, stage_environment
from wat2mds_process import StageProcess, read_line

PREAMBLE = "import json, logging, os, signal, subprocess, sys, time\n"


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., StageOperator]:
    """An operator whose program is the given Python source, called as the stage would be."""

    def make(source: str, **kwargs: Any) -> StageOperator:
        script = tmp_path / "program.py"
        script.write_text(PREAMBLE + source)
        operator = StageOperator(task_id="extract", stage="extract", **({"arguments": ["extract", "it's here"]} | kwargs))
        operator.program = [sys.executable, str(script)]
        return operator

    return make


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("may_be_empty", "ending"), [(False, AirflowFailException), (True, AirflowSkipException)])
def test_an_empty_plan_fails_unless_nothing_to_do_is_right(stage, may_be_empty, ending):
    operator = stage("print(json.dumps({'units': []}))", returns="units", may_be_empty=may_be_empty)
    with pytest.raises(ending, match="nothing to do"):
        operator.execute({})


def test_the_last_line_of_stdout_becomes_the_xcom(stage, caplog):
    caplog.set_level(logging.INFO)
    operator = stage("print('by the way'); print(json.dumps({'stage': 'extract', 'counts': {'pairs': 3}}))")
    assert operator.execute({}) == {"stage": "extract", "counts": {"pairs": 3}}
    assert "by the way" in caplog.text, "what is printed before the summary belongs in the log"


def test_plan_returns_the_list_that_is_mapped_over_and_refuses_an_empty_one(stage):
    units = [{"wat_file": f"{n:05d}", "source": "x" * 1000} for n in range(60)]  # far longer than a log line may be
    assert stage(f"print(json.dumps({{'units': {units!r}}}))", returns="units").execute({}) == units
    with pytest.raises(AirflowFailException, match="nothing to do"):
        stage("print('{\"units\": []}')", returns="units").execute({})


@pytest.mark.parametrize("code", [65, 70, 78, 2, 1])
def test_other_exit_codes_fail_without_a_retry(stage, code):
    operator = stage(f"print('2026-11-21 ERROR wat2mds: record 7 is cut short', file=sys.stderr); sys.exit({code})")
    with pytest.raises(AirflowFailException) as caught:
        operator.execute({})
    assert f"exit code {code}" in str(caught.value)
    assert "record 7 is cut short" in str(caught.value), "the last error line says why"
    assert "wat2mds extract 'it'\"'\"'s here'" in str(caught.value), "the command to reproduce it can be pasted"


def test_the_last_error_is_the_programs_reason_and_not_its_advice(tmp_path):
    operator = StageOperator(task_id="plan", stage="plan", arguments=["plan", "--root", str(tmp_path)])
    with pytest.raises(AirflowFailException, match=r"Its last error: .*ConfigError: no snapshot is registered"):
        operator.execute({})


def test_exit_75_and_a_signal_are_retried(stage):
    for source in ("sys.exit(75)", "os.kill(os.getpid(), signal.SIGKILL)"):
        with pytest.raises(AirflowException) as caught:
            stage(source).execute({})
        assert not isinstance(caught.value, AirflowFailException)
    assert "SIGKILL" in str(caught.value)
    assert "memory" in str(caught.value)


def test_success_without_a_summary_is_a_failure(stage):
    with pytest.raises(AirflowFailException, match="not its JSON summary"):
        stage("print('done')").execute({})


def test_lines_are_logged_as_they_come_with_their_level(stage, caplog):
    caplog.set_level(logging.DEBUG)
    seen: list[tuple[float, logging.LogRecord]] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append((time.monotonic(), record))  # type: ignore[method-assign]
    logger = logging.getLogger("wat2mds.extract")
    logger.addHandler(handler)
    try:
        stage(
            "logging.basicConfig(level=10, format='%(asctime)s %(levelname)s %(name)s: %(message)s')\n"
            "logging.warning('slow host'); time.sleep(1); logging.info('done')\n"
            "print('Traceback (most recent call last):', file=sys.stderr); print('  line 1', file=sys.stderr); print('{}')"
        ).execute({})
    finally:
        logger.removeHandler(handler)
    lines = [(record.levelno, record.getMessage()) for _, record in seen]
    assert lines == [
        (logging.INFO, "Running: " + pasteable(["extract", "it's here"])),
        (logging.WARNING, "root: slow host"),
        (logging.INFO, "root: done"),
        (logging.ERROR, "Traceback (most recent call last):"),
        (logging.ERROR, "  line 1"),
    ]
    assert seen[2][0] - seen[1][0] > 0.5, "the first line must not wait for the second"


def test_read_line_keeps_a_message_that_merely_names_a_level():
    assert read_line("the word ERROR in a caption", logging.INFO) == (logging.INFO, "the word ERROR in a caption")


def test_on_kill_ends_grandchildren_too(stage, tmp_path):
    pids = tmp_path / "pids"
    operator = stage(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # a program that does not listen
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)"
    )
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute({})
        except AirflowException as error:
            raised.append(error)

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    began = time.monotonic()
    operator.on_kill()
    thread.join(10)
    assert time.monotonic() - began < 5, "Airflow kills the task five seconds after it asked"
    assert raised
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()))


def test_a_timeout_ends_the_group(stage, tmp_path):
    pid_file = tmp_path / "pid"
    operator = stage(f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)")

    def on_alarm(*_: object) -> None:  # what Airflow's execution_timeout does
        raise AirflowTaskTimeout("too long")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(AirflowTaskTimeout):
            operator.execute({})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not is_alive(int(pid_file.read_text()))


def test_the_group_dies_with_a_worker_that_is_killed_outright(tmp_path):
    pid_file = tmp_path / "pid"
    program = (
        "import os, time, subprocess; child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    worker = (
        "import sys; from wat2mds_process import StageProcess\n"
        f"StageProcess([sys.executable, '-c', {program!r}], {{}}).run(lambda level, line: None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(wat2mds_operator.__file__).parent)}
    running = subprocess.Popen([sys.executable, "-c", worker], env=environment)
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    running.kill()
    running.wait()
    wait_until(lambda: not is_alive(int(pid_file.read_text())))


def test_a_forgotten_child_does_not_keep_the_task(tmp_path):
    began = time.monotonic()
    process = StageProcess([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '600']); print('{}')"], {})
    assert process.run(lambda level, line: None) == 0
    assert time.monotonic() - began < 10


def test_store_credentials_reach_the_program_and_no_log(stage, tmp_path, monkeypatch, capfd):
    connection = {"conn_type": "aws", "login": "the-key", "password": "the-secret"}
    connection["extra"] = json.dumps({"endpoint_url": "http://127.0.0.1:9", "region_name": "eu-west-1"})
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_STORE", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "airflow's own")
    monkeypatch.setenv("WAT2MDS_ROOT", "s3://bucket/prefix")
    told = tmp_path / "environment"
    stage(f"open({str(told)!r}, 'w').write(json.dumps(dict(os.environ))); print('{{}}')").execute({})
    environment = json.loads(told.read_text())
    assert environment["AWS_ACCESS_KEY_ID"] == "the-key"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "the-secret"
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert not [name for name in environment if "AIRFLOW" in name and not name.startswith("WAT2MDS")]
    assert "the-secret" not in "".join(capfd.readouterr())


def test_a_local_store_asks_for_no_connection(monkeypatch):
    monkeypatch.setenv("WAT2MDS_ROOT", "file:///somewhere")
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_STORE", "not a connection at all")
    assert "AWS_SECRET_ACCESS_KEY" not in stage_environment() or os.environ.get("AWS_SECRET_ACCESS_KEY")


def test_an_unknown_signal_number_is_named_all_the_same():
    assert "signal 99" in str(failure(-99, "", ["extract"]))

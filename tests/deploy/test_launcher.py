"""The embedded Airflow, really started: it comes up, lists batches for a backfill, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.airflow_env import DAGS, PLUGINS
from tests.plugins.test_timetable import keys, register
from wat2mds.deploy.launcher import Launcher
from wat2mds.errors import ConfigError, TransientError


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def listening_addresses(pid: int) -> set[str]:
    """Addresses that the process listens on; none when it has ended since it was listed (a DAG file's parser lives for a second)."""
    try:
        connections = psutil.Process(pid).net_connections("inet")
    except psutil.NoSuchProcess:
        return set()
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.live
def test_it_comes_up_names_batches_and_leaves_nothing(tmp_path):
    snapshot = register(tmp_path / "root", "CC-MAIN-2023-50")
    before = descendants()
    launcher = Launcher(tmp_path / "home", (tmp_path / "root").as_uri(), dags=DAGS, plugins=PLUGINS)
    with launcher, launcher.client() as client:
        assert {part["status"] for part in client.health().values()} == {"healthy"}
        assert client.wait_for_dag("build_dataset")["timetable_partitioned"]
        pools = {pool["name"]: pool["slots"] for pool in client._pages("/api/v2/pools", "pools")}
        assert pools == launcher.pools == {"default_pool": max(2, os.cpu_count() or 2), "downloads": 1, "scoring": 1}

        command = ["backfill", "create", "--dag-id", "build_dataset", "--from-date", "2023-12-01", "--to-date", "2023-12-31"]
        listed = subprocess.run(
            [sys.executable, "-m", "airflow", *command, "--dry-run"],
            env=launcher.environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert [key for key in keys(snapshot) if key in listed] == keys(snapshot)
        dry = client.backfill("build_dataset", "2023-12-01", "2023-12-31", dry_run=True)
        assert [run["partition_key"] for run in dry["backfills"]] == keys(snapshot)

        with pytest.raises(ConfigError, match="Did you mean"):
            client.trigger("build_dataset", partition_key="CC-MAIN-2023-50.1700679099281.0.b07")
        with pytest.raises(ConfigError, match="image_size"):
            client.trigger("build_dataset", {"image_size": 1})
        with pytest.raises(ConfigError, match="empty the field Batch"):
            client.trigger("build_dataset", {"batch": keys(snapshot)[0], "wat_files": "3"})
        assert client.runs("build_dataset") == [], "none of these has begun a run"

        listening = set().union(*(listening_addresses(pid) for pid in descendants() - before))
        assert listening == {"127.0.0.1"}, "nobody else on the network may reach it"
        running = descendants() - before
        assert len(running) > 5
    assert not [pid for pid in running if psutil.pid_exists(pid)]
    with pytest.raises(TransientError):
        launcher.check()


def test_a_home_keeps_its_ports_and_secrets_to_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(Launcher, "_migrate", lambda self: (self.home / "airflow.db").touch())
    homes = [tmp_path / "a", tmp_path / "b"]
    launchers = [Launcher(home, tmp_path.as_uri(), dags=DAGS, plugins=PLUGINS) for home in homes]
    for launcher in launchers:
        launcher.prepare()
    assert launchers[0].url != launchers[1].url
    assert launchers[0].password != launchers[1].password
    again = Launcher(homes[0], tmp_path.as_uri(), dags=DAGS, plugins=PLUGINS)
    again.prepare()
    assert (again.url, again.password) == (launchers[0].url, launchers[0].password)
    for name in ("launcher.json", "airflow.cfg", "passwords.json", "environment"):
        assert stat.S_IMODE((homes[0] / name).stat().st_mode) == 0o600, f"{name} holds secrets"


def test_a_taken_port_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Launcher, "_migrate", lambda self: (self.home / "airflow.db").touch())
    launcher = Launcher(tmp_path / "home", tmp_path.as_uri(), dags=DAGS, plugins=PLUGINS)
    launcher.prepare()
    first = launcher.url
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(first.rpartition(":")[2])))
        other.listen()
        launcher.prepare()
        assert launcher.url != first
        wanted = Launcher(tmp_path / "home", tmp_path.as_uri(), dags=DAGS, plugins=PLUGINS, port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="is taken"):
            wanted.prepare()


def test_missing_folders_are_an_error_not_an_airflow_without_dags(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        Launcher(tmp_path / "home", tmp_path.as_uri(), dags=Path("/nowhere"), plugins=PLUGINS).prepare()

"""An Airflow of one's own on this machine: prepared, started, waited for, and stopped as a whole.

In: a home folder, the store's root, the project's ``dags`` and ``plugins``. Out: a running scheduler, dag-processor, triggerer and two
API servers, on loopback only, with a generated password; SQLite and LocalExecutor, unless told otherwise. Guaranteed: two launchers with
different homes never meet; a home is prepared once and then reused; after ``stop``, or however the launching process ends, no process is
left. What does not belong here: what is asked of Airflow (``rest.py``), and production deployments (``docker/``).

Every setting below that is not obvious is there for a reason that was measured on Airflow 3.3.2; the comments name it.
"""

from __future__ import annotations

import configparser
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from wat2mds.deploy.rest import AirflowClient
from wat2mds.deploy.supervisor import RUNNING_FILE, SESSIONS_FILE, end_strays
from wat2mds.errors import ConfigError, TransientError
from wat2mds.settings import child_environment

log = logging.getLogger(__name__)
USER = "admin"
HOST = "127.0.0.1"


class Launcher:
    """One embedded Airflow. A context manager: started on entry, stopped on exit."""

    def __init__(
        self,
        home: Path,
        root_url: str,
        *,
        dags: Path,
        plugins: Path,
        pools: Mapping[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        airflow: Mapping[str, Mapping[str, str]] | None = None,
        programs: Mapping[str, Sequence[str]] | None = None,
        restart: bool = False,
    ) -> None:
        """``settings``: further variables of the deployment. ``pools``: slots; default one download, one scoring and as many other tasks at
        a time as there are cores, at least two.
        ``airflow``: values of airflow.cfg by section, over the launcher's own: another executor, another database.
        ``programs``: command lines by name that run beside Airflow's own, such as Celery workers. ``restart``: a program that ends by
        itself is started again, as a service manager would; otherwise the others are ended with it, and ``check`` says so."""
        self.home = home.absolute()
        self.root_url = root_url
        self._dags, self._plugins = dags.absolute(), plugins.absolute()
        self.pools = {"default_pool": max(2, os.cpu_count() or 2), "downloads": 1, "scoring": 1, **(pools or {})}
        self.settings = dict(settings or {})
        self._wanted_port = port
        self._restart = restart
        self._airflow = dict(airflow or {})
        self._further_programs = {name: list(command) for name, command in (programs or {}).items()}
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._state: dict[str, Any] = {}

    def __enter__(self) -> Launcher:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._state['ports']['api']}"

    @property
    def password(self) -> str:
        return str(self._state["password"])

    def client(self) -> AirflowClient:
        return AirflowClient(self.url, USER, self.password)

    def environment(self) -> dict[str, str]:
        """What a child process needs to be part of this deployment: Airflow's own programs, or ``airflow`` typed by a person."""
        inherited = {n: v for n, v in child_environment().items() if not n.lstrip("_").startswith("AIRFLOW_")}
        return inherited | self._variables()

    def _variables(self) -> dict[str, str]:
        variables = {
            "AIRFLOW_HOME": str(self.home),
            "WAT2MDS_ROOT": self.root_url,
            "WAT2MDS_REGISTRY_CACHE": str(self.home / "registry-cache"),
            # dags/ and plugins/ are put on the path by Airflow, the package is not when it is not installed.
            "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(Path(__file__).parents[2]), *_inherited_path()])),
        }
        if self._state:
            variables |= {
                "WAT2MDS_AIRFLOW_URL": self.url,
                "WAT2MDS_AIRFLOW_USER": USER,
                "WAT2MDS_AIRFLOW_PASSWORD": self.password,
            }
        return variables | self.settings

    # -- preparation

    def prepare(self) -> None:
        """Configuration, secrets and a migrated database in ``home``; quick when they are there."""
        for folder in (self._dags, self._plugins):
            if not folder.is_dir():
                raise ConfigError(
                    f"there is no folder {folder}: Airflow would start without DAGs. Run from a checkout of wat2mds."
                )
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._state = self._load_state()
        self._write_configuration()
        # A person's shell joins the deployment by: set -a; . <home>/environment; set +a
        _write_private(self.home / "environment", "".join(f"{n}='{v}'\n" for n, v in self._variables().items()))
        database = self._airflow.get("database", {}).get("sql_alchemy_conn")
        wanted = [version("apache-airflow"), database]
        if self._state.get("migrated") != wanted or (database is None and not (self.home / "airflow.db").exists()):
            self._migrate()
            self._state["migrated"] = wanted
        self._save_state()

    def _load_state(self) -> dict[str, Any]:
        path = self.home / "launcher.json"
        state: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for key in ("password", "jwt_secret", "secret_key"):
            state.setdefault(key, secrets.token_urlsafe(12 if key == "password" else 64))
        state.setdefault("fernet_key", urlsafe_b64encode(secrets.token_bytes(32)).decode())
        ports = state.setdefault("ports", {})
        if self._wanted_port is not None:
            ports["api"] = self._wanted_port
        for name in ("api", "execution"):
            if name not in ports or not _is_free(ports[name]):
                if name == "api" and self._wanted_port is not None:
                    raise ConfigError(f"port {self._wanted_port} is taken; choose another, or none to have a free one chosen")
                ports[name] = free_port(not_these=ports.values())
        return state

    def _save_state(self) -> None:
        _write_private(self.home / "launcher.json", json.dumps(self._state, indent=1))

    def _write_configuration(self) -> None:
        passwords = self.home / "passwords.json"
        _write_private(passwords, json.dumps({USER: self.password}))
        configuration = configparser.RawConfigParser()
        configuration.read_dict(_configuration(self.home, self._dags, self._plugins, self._state, self.pools, passwords))
        configuration.read_dict(self._airflow)
        with (self.home / "airflow.cfg").open("w", encoding="utf-8") as out:
            (self.home / "airflow.cfg").chmod(0o600)
            configuration.write(out)

    def _migrate(self) -> None:
        log.info("Preparing Airflow's database in %s", self.home)
        with (self.home / "logs" / "db-migrate.log").open("ab") as out:
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            code = subprocess.run(command, env=self.environment(), stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        if code != 0:
            raise ConfigError(f"Airflow's database could not be prepared; {out.name} says why")

    # -- running

    def start(self, timeout: float = 600) -> Launcher:
        """Returns when every component answers and the pools are set: half a minute, minutes on a machine that is busy with other work.
        Raises TransientError naming the log to read, at once where a component ends."""
        self._end_strays()
        self.prepare()
        began = time.monotonic()
        programs = self.home / "programs.json"
        programs.write_text(json.dumps(self._programs()), "utf-8")
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "wat2mds.deploy.supervisor", str(programs)],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the launching program, which then stops us in order
        )
        try:
            self._wait_until_healthy(began + timeout)
            self.client().set_pools(self.pools)
        except BaseException:
            self.stop()
            raise
        log.info("Airflow is up at %s after %.1f s", self.url, time.monotonic() - began)
        return self

    def _programs(self) -> list[dict[str, Any]]:
        ports = self._state["ports"]
        # One API server for people and one for tasks: in one process on SQLite they lock each other out for 5 s at a time
        # (9 of 83 requests failed, against 0 of 275). Logs are local files, so nobody serves them.
        commands = {
            "api-server": ["api-server", "--apps", "core", "--host", HOST, "--port", str(ports["api"])],
            "execution-api": ["api-server", "--apps", "execution", "--host", HOST, "--port", str(ports["execution"])],
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
            "triggerer": ["triggerer", "--skip-serve-logs"],
        }
        programs = {name: [sys.executable, "-m", "airflow", *arguments] for name, arguments in commands.items()}
        return [
            {"name": name, "command": command, "log": str(self.home / "logs" / f"{name}.log"), "restart": self._restart}
            for name, command in (programs | self._further_programs).items()
        ]

    def _wait_until_healthy(self, deadline: float) -> None:
        execution = f"http://{HOST}:{self._state['ports']['execution']}/execution/health"
        waiting_for = ["api-server"]
        while waiting_for:
            self.check()
            if time.monotonic() > deadline:
                raise TransientError(f"Airflow did not come up: no sign of {', '.join(waiting_for)}; see {self.home / 'logs'}")
            time.sleep(0.2)
            try:
                health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
                waiting_for = [name for name, part in health.items() if part.get("status") != "healthy"]
                httpx.get(execution, timeout=10).raise_for_status()
            except (httpx.HTTPError, ValueError, AttributeError):
                waiting_for = waiting_for or ["execution-api"]

    def running(self) -> dict[str, int]:
        """Process ids of the programs by name, as last started."""
        found: dict[str, int] = json.loads((self.home / RUNNING_FILE).read_text("utf-8"))
        return found

    def check(self) -> None:
        """Raises TransientError when a component has ended by itself: the others were then ended too."""
        if self._supervisor is None:
            raise TransientError("Airflow is not started")
        if self._supervisor.poll() is None:
            return
        assert self._supervisor.stdout is not None
        said = self._supervisor.stdout.read().decode("utf-8", "replace").strip().splitlines()
        reason = said[-1] if said else f"the supervisor ended with code {self._supervisor.returncode}"
        raise TransientError(f"Airflow has stopped: {reason}. Its log lies in {self.home / 'logs'}; start it again.")

    def stop(self) -> None:
        """End all of it, tasks and stages included; they resume with the next start."""
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            assert self._supervisor.stdout is not None
            self._supervisor.stdin.close()
            try:
                self._supervisor.wait(60)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
            self._supervisor.stdout.close()
            self._supervisor = None
        self._end_strays()

    def _end_strays(self) -> None:
        for process in end_strays(self.home / SESSIONS_FILE):
            log.warning("Ended a process that an earlier Airflow had left over in %s: %s", self.home, process)


def _configuration(
    home: Path, dags: Path, plugins: Path, state: Mapping[str, Any], pools: Mapping[str, int], passwords: Path
) -> dict[str, dict[str, str]]:
    """airflow.cfg. In a file rather than in variables, so that ``airflow`` typed by a person with this home agrees."""
    return {
        "core": {
            "dags_folder": str(dags),
            "plugins_folder": str(plugins),
            "executor": "LocalExecutor",
            # Pools are the limit. A place of the executor is free up to a second after its task's slot of a pool.
            "parallelism": str(2 * sum(pools.values())),
            "load_examples": "False",
            # plugins/.airflowignore reads the same in both syntaxes; glob's logs a deprecation in every task.
            "dag_ignore_file_syntax": "regexp",
            "max_map_length": "1024",
            "default_pool_task_slot_count": str(pools["default_pool"]),
            "fernet_key": state["fernet_key"],
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": str(passwords),
            # With a port other than 8080 tasks cannot report unless they are told.
            "execution_api_server_url": f"http://{HOST}:{state['ports']['execution']}/execution/",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {
            "host": HOST,
            "port": str(state["ports"]["api"]),
            "base_url": f"http://{HOST}:{state['ports']['api']}",
            "secret_key": state["secret_key"],
        },
        # Tokens are made when a task is queued; the executor queues more than it runs, and the default life is ten minutes.
        "api_auth": {"jwt_secret": state["jwt_secret"]},
        "execution_api": {"jwt_expiration_time": "86400"},
        "scheduler": {
            # Seconds between looks for work when there was none (default 1). With twice as many places as slots, above, 214 to 245 task
            # instances a minute on two cores, 124 without either; idle, the scheduler takes 3 % of a core for 2 %, and 8 % with 0.2 s.
            "scheduler_idle_sleep_time": "0.5",
            # Tasks that were running when all was stopped are taken up this many seconds after the next start (default 300).
            "task_queued_timeout": "604800",
            "task_instance_heartbeat_timeout": "60",
            "task_instance_heartbeat_timeout_detection_interval": "10",
        },
        # A finished task holds its place for up to this long, seconds (default 5): 2 tasks a second against 6.
        "workers": {"min_heartbeat_interval": "1", "max_failed_heartbeats": "20", "execution_api_timeout": "20"},
        # How soon a new DAG file, or a newly registered snapshot, is noticed, seconds (default 300 and 30). Reading all files every 10 s
        # takes 13 % of a core.
        "dag_processor": {"refresh_interval": "15", "min_file_process_interval": "30"},
        "logging": {"base_log_folder": str(home / "logs")},
        "usage_data_collection": {"enabled": "False"},
    }


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, "utf-8")


def _inherited_path() -> list[str]:
    return [entry for entry in child_environment().get("PYTHONPATH", "").split(os.pathsep) if entry]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex((HOST, port)) != 0


def free_port(not_these: Collection[int] = ()) -> int:
    """One that nobody on this machine listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
        if port not in not_these:
            return port

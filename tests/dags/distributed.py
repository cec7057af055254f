"""A distributed deployment as docker/compose.yaml describes it, without Docker: PostgreSQL, Redis and an S3 store over HTTP, and two
Celery workers that serve different queues and share no disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil
import pytest
from celery import Celery

from tests.airflow_env import DAGS, PLUGINS
from tests.dags.live import DAG, Live
from tests.own_servers import Postgres, Redis
from tests.wat2mds.fault_proxy import FaultProxy
from wat2mds.deploy.launcher import Launcher
from wat2mds.snapshots import Registry
from wat2mds.world.demo_world import NEWER

# Stands for s3://commoncrawl; empty until a test puts a list there. What is built is read over HTTP, as it was registered.
CRAWL = "s3://apart/crawl"
WORKERS = {"builder": "default", "fetcher": "download,gpu"}


# What the deployment's programs know of the store comes from the Airflow connection only, and this is its secret.
SECRET = "planted/secret+that=nobody/may.see"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}


@dataclass
class Distributed(Live):
    """``airflow`` and ``root`` are the distributed deployment's; world and origin are those of the one on this machine."""

    base: Path = Path()
    postgres: Postgres = None  # type: ignore[assignment]
    redis: Redis = None  # type: ignore[assignment]
    store: FaultProxy = None  # type: ignore[assignment]  # between the deployment and its store
    metrics: list[str] = field(default_factory=list)  # StatsD lines as they came

    def tasks_done(self) -> dict[str, int]:
        """Tasks that each worker has accepted since it started."""
        answers = Celery(broker=self.redis.url).control.inspect(timeout=10).stats() or {}
        return {name.partition("@")[0]: sum(stats["total"].values()) for name, stats in answers.items()}

    @contextlib.contextmanager
    def further_worker(self, name: str, queues: str, **variables: str) -> Iterator[None]:
        """One more worker, with further variables in its environment."""
        command = _worker(name, queues, self.base / name)
        environment = self.airflow.environment() | variables
        with (self.base / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            while name not in self.tasks_done():
                assert process.poll() is None, (self.base / f"{name}.log").read_text("utf-8")
            yield
        finally:
            process.terminate()
            process.wait(60)

    def program(self, name: str) -> psutil.Process:
        """One of the deployment's programs as it runs now."""
        return psutil.Process(self.airflow.running()[name])


@pytest.fixture(scope="package")
def apart(live: Live, s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    base = tmp_path_factory.mktemp("apart")
    root = "s3://apart/root"
    with contextlib.ExitStack() as running, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        store = running.enter_context(FaultProxy(s3_server))
        postgres, redis = running.enter_context(Postgres()), running.enter_context(Redis())
        statsd_port, metrics = running.enter_context(_statsd())
        with pytest.MonkeyPatch.context() as ours:
            for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": s3_server}).items():
                ours.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket="apart")
            settings = live.airflow.settings
            Registry(root).register(NEWER, collinfo=settings["WAT2MDS_COLLINFO"], source=settings["WAT2MDS_SOURCE"])
        connection = {
            "conn_type": "aws",
            "login": "apart",
            "password": SECRET,
            "extra": {"region_name": "us-east-1", "endpoint_url": store.url},
        }
        dags = shutil.copytree(DAGS, base / "dags")  # which a test may edit
        launcher = Launcher(
            base / "home",
            root,
            dags=dags,
            plugins=PLUGINS,
            pools={"default_pool": 4},
            settings={
                **settings,
                "WAT2MDS_SCHEDULE_FROM": "2100-01-01",  # nothing runs by itself, and yet who looks for the next run reads the registry
                "WAT2MDS_SNAPSHOT_SEGMENTS": "",
                "WAT2MDS_SOURCE": CRAWL,
                "WAT2MDS_COLLINFO": f"{CRAWL}/collinfo.json",
                "WAT2MDS_RUN_DEADLINE_HOURS": "0.001",
                "AIRFLOW_CONN_WAT2MDS_STORE": json.dumps(connection),
            },
            airflow={
                "core": {"executor": "CeleryExecutor"},
                "database": {"sql_alchemy_conn": postgres.url},
                "celery": {"broker_url": redis.url, "result_backend": f"db+{postgres.url}", "worker_concurrency": "2"},
                "celery_broker_transport_options": {"visibility_timeout": "86400"},
                # As soon as a test can wait for: what Redis lost is queued again, and a worker that is gone is noticed.
                "scheduler": {
                    "task_queued_timeout": "20",
                    "task_queued_timeout_check_interval": "5",
                    "task_instance_heartbeat_timeout": "20",
                    "task_instance_heartbeat_timeout_detection_interval": "5",
                },
                "logging": {
                    "base_log_folder": str(base / "home" / "logs"),
                    "remote_logging": "True",
                    "remote_base_log_folder": f"{root}/airflow-logs",
                    "remote_log_conn_id": "wat2mds_store",
                },
                "metrics": {
                    "statsd_on": "True",
                    "statsd_host": "127.0.0.1",
                    "statsd_port": str(statsd_port),
                    "statsd_prefix": "airflow",
                },
            },
            programs={f"worker-{name}": _worker(name, queues, base / name) for name, queues in WORKERS.items()},
            restart=True,
        )
        running.enter_context(launcher)
        client = running.enter_context(launcher.client())
        client.wait_for_dag(DAG)
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": s3_server}).items():
            environment.setenv(name, value)  # this process reads what was published, past the proxy
        yield Distributed(
            launcher,
            client,
            live.world,
            root,
            live.on_request,
            told=live.told,
            base=base,
            postgres=postgres,
            redis=redis,
            store=store,
            metrics=metrics,
        )


def _worker(name: str, queues: str, folder: Path) -> list[str]:
    """Its temporary files and its logs lie on a disk of its own."""
    (folder / "tmp").mkdir(parents=True)
    own = {"TMPDIR": str(folder / "tmp"), "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"), "HOME": str(folder)}
    options = ["--queues", queues, "--celery-hostname", f"{name}@%h", "--skip-serve-logs"]
    return ["env", *(f"{n}={v}" for n, v in own.items()), sys.executable, "-m", "airflow", "celery", "worker", *options]


@contextlib.contextmanager
def _statsd() -> Iterator[tuple[int, list[str]]]:
    """A StatsD server: its port, and the lines that it was sent."""
    lines: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))

        def listen() -> None:
            while True:
                try:
                    datagram = listening.recv(65536)
                except OSError:
                    return
                if datagram == b"end":
                    return
                lines.extend(datagram.decode("utf-8", "replace").splitlines())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        port = int(listening.getsockname()[1])
        try:
            yield port, lines
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"end", ("127.0.0.1", port))
            thread.join(10)


def files_that_hold(folder: Path, text: bytes) -> list[str]:
    """Names of files below ``folder`` with ``text`` in them."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if path.is_file() and text in path.read_bytes():
                found.append(str(path.relative_to(folder)))
    return found

"""The Helm values: of known names and types, in agreement with compose.yaml, and a pod for each queue that the KubernetesExecutor really
makes so. There is no cluster here, and no chart: helm checks the values by the chart's own schema when it installs.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from jsonschema import Draft7Validator
from kubernetes.client import ApiClient

from tests.airflow_env import DAGS, INCLUDE, PLUGINS, ROOT

SCHEMA = Path(__file__).parent / "airflow_chart_values.schema.json"
# What the chart itself sets: addresses of its services, keys from the named secrets, StatsD.
CHART = {
    "AIRFLOW__CORE__EXECUTOR",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__METRICS__STATSD_ON",
    "AIRFLOW__METRICS__STATSD_HOST",
}
# What only a pod a task, or only the chart, asks for.
OWN = {"AIRFLOW__CORE__AUTH_MANAGER", "WAT2MDS_DEADLINE_EXECUTOR", "WAT2MDS_DOWNLOAD__PROCESSES"}
# What is another number or place there for a reason given beside it.
OTHER = {
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT",
    "WAT2MDS_DOWNLOAD__MACHINES",
}
# The pod of a task, made as KubernetesExecutor makes it, by an Airflow whose settings are the values'.
PROGRAM = """
import json, sys, uuid
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.task import ExecuteTask, TaskInstanceDTO
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator, workload_to_command_args
from kubernetes.client import ApiClient

base = PodGenerator.deserialize_model_dict(json.loads(sys.argv[1]))
for queue in sys.argv[2:]:
    task = dict(dag_id="build_dataset", task_id="filter", run_id="r", try_number=1, map_index=3, pool_slots=1, priority_weight=1)
    ti = TaskInstanceDTO(id=uuid.uuid4(), dag_version_id=uuid.uuid4(), queue=queue, **task)
    bundle = BundleInfo(name="dags-folder", version=None)
    work = ExecuteTask(token="t", dag_rel_path="build_dataset.py", log_path="l", bundle_info=bundle, ti=ti)
    pod = PodGenerator.construct_pod(
        namespace="airflow", scheduler_job_id="1", pod_id="p", dag_id="build_dataset", task_id="filter", kube_image="wat2mds",
        try_number=1, map_index=3, date=None, run_id="r", args=workload_to_command_args(work), pod_override_object=None,
        base_worker_pod=base, with_mutation_hook=True,
    )
    print(json.dumps(ApiClient().sanitize_for_serialization(pod)))
"""
# As the chart's pod template makes it, in what matters here.
BASE = {
    "metadata": {"name": "placeholder-name", "labels": {"component": "worker"}},
    "spec": {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "base",
                "image": "wat2mds",
                "env": [{"name": "WAT2MDS_ROOT", "value": "s3://wat2mds"}],
                "volumeMounts": [{"name": "logs", "mountPath": "/opt/airflow/logs"}],
            }
        ],
        "volumes": [{"name": "logs", "emptyDir": {}}],
    },
}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "helm-values.yaml").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def env(values: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in values["env"]}


@pytest.fixture(scope="module")
def pods(values: dict[str, Any]) -> dict[str, Any]:
    """What the values say of each queue's pod."""
    (said,) = re.findall(r'pods_by_queue\("""(.*?)"""\)', values["airflowLocalSettings"], re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(said)
    return found


@pytest.fixture(scope="module")
def made(values: dict[str, Any], pods: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pods that the executor makes, by queue; one more for a queue that the values do not name."""
    home = tmp_path_factory.mktemp("home")
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(values["airflowLocalSettings"])
    queues = [*pods, "another"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(BASE), *queues],
        env=_airflow(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(queues, map(json.loads, done.stdout.splitlines()[-len(queues) :]), strict=True))


def _airflow(home: Path) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "PYTHONPATH": str(INCLUDE),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }


def _compose_environment(compose: dict[str, Any]) -> dict[str, str | None]:
    """Variables with their defaults; None for what env.example must fill in."""
    said = compose["x-airflow"]["environment"]
    filled = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in said.items()}
    return {name: None if "${" in value else value for name, value in filled.items()}


def test_names_and_types_are_the_charts(values: dict[str, Any]) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft7Validator.check_schema(schema)
    errors = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(values)]
    assert errors == []
    mistyped = {**values, "scheduler": {"logGroomerSideCar": {"enabled": False}}}
    assert list(Draft7Validator(schema).iter_errors(mistyped)), "the schema must refuse what it does not know"


def test_versions_are_those_of_the_image(values: dict[str, Any]) -> None:
    lock = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert f"apache-airflow=={values['airflowVersion']}" in lock
    assert f'version = "{values["defaultAirflowTag"]}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
    assert f"USER {values['uid']}\n" in dockerfile
    assert values["securityContexts"]["pod"] == {"runAsUser": 50000, "runAsGroup": 0, "fsGroup": 0, "runAsNonRoot": True}


def test_it_sets_what_compose_sets(values: dict[str, Any], compose: dict[str, Any], env: dict[str, str]) -> None:
    expected = _compose_environment(compose)
    celery = {name for name in expected if "CELERY" in name}
    secrets = {entry["envName"] for entry in values["secret"]}
    assert set(env) | secrets == set(expected) - celery - CHART | OWN
    assert not set(env) & secrets
    for name in set(env) - OWN - OTHER:
        assert env[name] == (expected[name] or ""), f"{name}: compose.yaml has another value"


def test_what_is_secret_comes_from_the_secret_that_the_readme_makes(values: dict[str, Any], env: dict[str, str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (command,) = re.findall(r"^kubectl create secret generic wat2mds .*?(?<!\\)$", readme, re.MULTILINE | re.DOTALL)
    made = set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", command))
    (passwords,) = values["apiServer"]["extraVolumes"]
    named = {entry["secretKey"] for entry in values["secret"]} | {item["key"] for item in passwords["secret"]["items"]}
    assert made == named | {"connection", "fernet-key", "api-secret-key", "jwt-secret"}
    keys = [values["data"]["metadataSecretName"], *(values[f"{key}SecretName"] for key in ("fernetKey", "apiSecretKey", "jwt"))]
    assert {*keys, *(entry["secretName"] for entry in values["secret"]), passwords["secret"]["secretName"]} == {"wat2mds"}
    (mount,) = values["apiServer"]["extraVolumeMounts"]
    assert env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"] == f"{mount['mountPath']}/passwords.json"


def test_every_queue_has_its_pod(pods: dict[str, Any], compose: dict[str, Any]) -> None:
    queues = {task.queue for dag in DagBag(dag_folder=str(DAGS)).dags.values() for task in dag.tasks}
    workers = {service["command"][3] for name, service in compose["services"].items() if name.startswith("worker-")}
    assert set(pods) == queues == workers


def test_pods_are_in_kubernetes_words(pods: dict[str, Any], values: dict[str, Any]) -> None:
    """A model drops the words that it does not know."""
    said = [*pods.values(), {"spec": {"containers": [], "volumes": values["apiServer"]["extraVolumes"]}}]
    said += [{"spec": {"containers": [], "securityContext": values["securityContexts"]["pod"]}}]
    mounts = values["apiServer"]["extraVolumeMounts"]
    parts = [values[name]["resources"] for name in ("apiServer", "scheduler", "dagProcessor", "triggerer")]
    said += [{"spec": {"containers": [{"name": "base", "resources": part, "volumeMounts": mounts}]}} for part in parts]
    for pod in said:
        assert ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(pod)) == pod


def test_the_executor_makes_the_pods(made: dict[str, Any], pods: dict[str, Any]) -> None:
    for queue, pod in made.items():
        (container,) = pod["spec"]["containers"]
        assert container["args"][:3] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
        assert json.loads(container["args"][4])["ti"]["queue"] == queue
        assert container["image"] == "wat2mds"
        assert {"name": "WAT2MDS_ROOT", "value": "s3://wat2mds"} in container["env"], "what the chart says stays"
        assert {mount["name"] for mount in container["volumeMounts"]} >= {"logs"}
        assert pod["metadata"]["labels"]["component"] == "worker"
        assert pod["spec"]["restartPolicy"] == "Never"
        if queue in pods:
            assert container["resources"] == pods[queue]["spec"]["containers"][0]["resources"]
    gpu = made["gpu"]["spec"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [toleration["key"] for toleration in gpu["tolerations"]] == ["nvidia.com/gpu"]
    assert [volume["name"] for volume in gpu["volumes"]] == ["logs", "models"]
    download = made["download"]["spec"]
    assert [(mount["name"], mount["mountPath"]) for mount in download["containers"][0]["volumeMounts"]][-1] == (
        "in-flight",
        "/tmp",
    )
    for queue in ("default", "download", "another"):
        assert "nodeSelector" not in made[queue]["spec"]
    assert "resources" not in made["another"]["spec"]["containers"][0]


def test_pools_are_made_as_large_as_what_takes_their_tasks(
    values: dict[str, Any], env: dict[str, str], pods: dict[str, Any], tmp_path: Path
) -> None:
    """The migration job's command, run as the image runs it, on an empty database."""
    entrypoint = str(ROOT / "docker" / "entrypoint.sh")
    command = [entrypoint, *values["migrateDatabaseJob"]["args"]]
    done = subprocess.run(command, env=_airflow(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        slots = dict(database.execute("select pool, slots from slot_pool").fetchall())
    assert slots == {
        "default_pool": int(env["AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT"]),
        "downloads": int(env["WAT2MDS_DOWNLOAD__MACHINES"]),
        "scoring": 1,
    }
    assert 2 * sum(slots.values()) == int(env["AIRFLOW__CORE__PARALLELISM"]), "a place is free a while after its slot"
    assert env["WAT2MDS_DOWNLOAD__PROCESSES"] == pods["download"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]


def test_late_runs_are_told_of_by_an_executor_that_can(values: dict[str, Any], env: dict[str, str]) -> None:
    """A callback that reaches an executor which knows none ends the scheduler."""
    from airflow.executors.executor_loader import ExecutorLoader

    name = env["WAT2MDS_DEADLINE_EXECUTOR"]
    assert name in values["executor"].split(",")[1:]
    assert pkgutil.resolve_name(ExecutorLoader.executors[name]).supports_callbacks
    first = values["executor"].split(",")[0]
    assert not pkgutil.resolve_name(ExecutorLoader.executors[first]).supports_callbacks, (
        "then WAT2MDS_DEADLINE_EXECUTOR is needed no more"
    )

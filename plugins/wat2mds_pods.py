"""What a worker for each of Celery's queues is, said for the KubernetesExecutor, which knows no queues: a pod for each of them.

In: pods by queue, as YAML in Kubernetes' own words; what a pod does not say is the chart's. Out: the ``pod_mutation_hook`` of
airflow_local_settings. Guaranteed: a task's pod gets what its queue's says; pods of no task, and of queues that are not named, stay as they
are. What does not belong here: which queue a task has (the DAGs), and how large the pods are (docker/helm-values.yaml).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubernetes.client import V1Pod


def pods_by_queue(text: str) -> Callable[[V1Pod], None]:
    """The hook. Every component of Airflow loads its settings; YAML and Kubernetes' client are loaded where the first pod is made."""
    pods: dict[str, Any] = {}

    def pod_mutation_hook(pod: V1Pod) -> None:
        from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

        if not pods:
            import yaml

            pods.update({queue: PodGenerator.deserialize_model_dict(said) for queue, said in yaml.safe_load(text).items()})
        if (of_queue := pods.get(queue_of(pod))) is not None:
            made = PodGenerator.reconcile_pods(pod, of_queue)
            pod.metadata, pod.spec = made.metadata, made.spec

    return pod_mutation_hook


def queue_of(pod: V1Pod) -> str:
    """From the task's command line, in which the executor writes it; labels and annotations do not have it. Empty for other pods."""
    arguments = pod.spec.containers[0].args or []
    if "--json-string" not in arguments:
        return ""
    task = json.loads(arguments[arguments.index("--json-string") + 1])["ti"]
    return str(task["queue"])

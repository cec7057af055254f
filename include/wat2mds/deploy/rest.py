"""Airflow's REST API (``/api/v2``) as wat2mds uses it: trigger, follow, clear, backfill.

In: an address and a login. Out: plain dicts and lists as the API gives them. Guaranteed: a busy or restarting server (500, 502, 503,
no connection) is asked again with growing pauses, up to ``patience`` seconds; whatever is left raises an error of ours that says what
to do. What does not belong here: Airflow itself, which is not imported, and how it is started (``launcher.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import httpx

from wat2mds.errors import ConfigError, TransientError, Wat2MdsError

log = logging.getLogger(__name__)
PAGE = 100  # api.maximum_page_limit's default
BUSY = {500, 502, 503, 504}
RUN_ENDED = {"success", "failed"}
TASK_ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}
Json = dict[str, Any]


class AirflowClient:
    """One login to one Airflow."""

    def __init__(self, base_url: str, user: str, password: str, *, patience: float = 60) -> None:
        self.base_url = base_url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._patience = patience
        self._http = httpx.Client(base_url=self.base_url, timeout=30)
        self._token: str | None = None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the deployment

    def health(self) -> Json:
        """State by component, as ``{"scheduler": {"status": "healthy", …}, …}``."""
        return self._json("GET", "/api/v2/monitor/health")

    def set_pools(self, slots: Mapping[str, int]) -> None:
        known = {pool["name"]: pool["slots"] for pool in self._pages("/api/v2/pools", "pools")}
        for name, number in slots.items():
            if known.get(name) == number:
                continue
            body = {"slots": number, "include_deferred": False}
            if name in known:
                self._json("PATCH", f"/api/v2/pools/{name}", params={"update_mask": "slots"}, json={"name": name, **body})
            else:
                self._json("POST", "/api/v2/pools", json={"name": name, **body})

    def wait_for_dag(self, dag_id: str, timeout: float = 120) -> Json:
        """Until the dag-processor has read the DAG's file. Raises Wat2MdsError with the import error, TransientError on time-out."""
        deadline = time.monotonic() + timeout
        while True:
            answer = self._request("GET", f"/api/v2/dags/{dag_id}", accept={404})
            if answer.status_code != 404:
                found: Json = answer.json()
                return found
            for problem in self._pages("/api/v2/importErrors", "import_errors"):
                raise Wat2MdsError(f"{problem['filename']} cannot be imported by Airflow:\n{problem['stack_trace']}")
            if time.monotonic() > deadline:
                raise TransientError(f"Airflow has not found the DAG {dag_id} in {timeout:.0f} s: see its dag-processor's log")
            time.sleep(0.5)

    def set_paused(self, dag_id: str, paused: bool) -> None:
        self._json("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})

    # -- runs

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, partition_key: str | None = None) -> str:
        """Start a run; its id. ``conf`` holds the form's fields by name. Raises ConfigError for values that the form refuses."""
        body = {"logical_date": None, "conf": dict(conf or {}), "partition_key": partition_key}
        # Not sent again after a lost answer: a second run would do no harm, but nobody asked for it.
        run: Json = self._json("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        return str(run["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Json:
        return self._json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")

    def runs(self, dag_id: str, **filters: Any) -> list[Json]:
        """All runs, the one queued first first; ``filters`` as in the API: ``run_type=["scheduled"]``, ``state=["running"]``."""
        found = list(self._pages(f"/api/v2/dags/{dag_id}/dagRuns", "dag_runs", filters))
        return sorted(found, key=lambda run: run["queued_at"] or "")

    def tasks(self, dag_id: str, run_id: str) -> list[Json]:
        """Task instances, mapped ones each by itself with its ``rendered_map_index``."""
        return list(self._pages(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances"))

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        on_task: Callable[[Json], object] = lambda task: None,
        check: Callable[[], object] = lambda: None,
        interval: float = 1,
        timeout: float | None = None,
    ) -> Json:
        """Until the run has ended. ``on_task`` is called once for each task instance that has ended, in order of ending;
        ``check`` at each look, to raise when waiting has become pointless. Raises TransientError on time-out."""
        deadline = None if timeout is None else time.monotonic() + timeout
        told: set[tuple[str, int, int]] = set()
        while True:
            check()
            run = self.run(dag_id, run_id)  # before the tasks, so that none that ended before the run is missed
            ended = [task for task in self.tasks(dag_id, run_id) if task["state"] in TASK_ENDED]
            for task in sorted(ended, key=lambda task: task["end_date"] or ""):
                this = (task["task_id"], task["map_index"], task["try_number"])
                if this not in told:
                    told.add(this)
                    on_task(task)
            if run["state"] in RUN_ENDED:
                return run
            if deadline is not None and time.monotonic() > deadline:
                raise TransientError(
                    f"{dag_id} {run_id} is still {run['state']} after {timeout:.0f} s: {self.link(dag_id, run_id)}"
                )
            time.sleep(interval)

    def link(self, dag_id: str, run_id: str) -> str:
        """The run's page in the web UI."""
        return f"{self.base_url}/dags/{dag_id}/runs/{run_id}"

    def log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, try_number: int = 1) -> str:
        """One try's log as text."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        params = {"map_index": map_index, "full_content": True}
        content = self._json("GET", path, params=params, headers={"Accept": "application/json"})["content"]
        lines = content if isinstance(content, list) else [content]
        return "\n".join(_line(line) for line in lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Any:
        """What a task returned."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._json("GET", path, params={"map_index": map_index, "deserialize": True})["value"]

    def clear(self, dag_id: str, run_id: str, task_ids: list[Any] | None = None, *, only_failed: bool = False) -> list[Json]:
        """Run tasks again, with all that is downstream; ``["download"]`` or ``[["build_wat_file.download", 3]]`` for one mapped
        instance. All tasks of the run by default."""
        body: Json = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": only_failed,
            "reset_dag_runs": True,
            "include_downstream": task_ids is not None,
        }
        if task_ids is not None:
            body["task_ids"] = task_ids
        answer = self._json("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", json=body)
        return list(answer["task_instances"])

    # -- backfills

    def backfill(
        self,
        dag_id: str,
        from_date: str,
        to_date: str,
        *,
        reprocess: str = "none",
        max_active_runs: int = 1,
        run_backwards: bool = False,
        conf: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Create a backfill over partition dates, or with ``dry_run`` only say which runs it would make (``backfills``: each with
        ``partition_key``). ``reprocess``: none, failed or completed."""
        body = {
            "dag_id": dag_id,
            "from_date": from_date,
            "to_date": to_date,
            "run_backwards": run_backwards,
            "reprocess_behavior": reprocess,
            "max_active_runs": max_active_runs,
            "dag_run_conf": dict(conf or {}),
        }
        return self._json("POST", "/api/v2/backfills/dry_run" if dry_run else "/api/v2/backfills", json=body)

    def backfills(self, dag_id: str) -> list[Json]:
        return list(self._pages("/api/v2/backfills", "backfills", {"dag_id": dag_id}))

    # -- the wire

    def _pages(self, path: str, key: str, filters: Mapping[str, Any] | None = None) -> Iterator[Json]:
        offset = 0
        while True:
            page = self._json("GET", path, params={"limit": PAGE, "offset": offset, **(filters or {})})
            yield from page[key]
            offset += PAGE
            if offset >= page["total_entries"]:
                return

    def _json(self, method: str, path: str, **request: Any) -> Json:
        found: Json = self._request(method, path, **request).json()
        return found

    def _request(self, method: str, path: str, *, accept: Collection[int] = (), **request: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience
        pause = 0.2
        while True:
            problem: str
            try:
                answer = self._send(method, path, request)
                if answer.is_success or answer.status_code in accept:
                    return answer
                problem = f"{answer.status_code} {_detail(answer)}"
                if answer.status_code not in BUSY:
                    raise _refusal(answer, f"{method} {self.base_url}{path}")
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            if time.monotonic() + pause > deadline:
                raise TransientError(
                    f"{method} {self.base_url}{path}: {problem}. Is Airflow running? Tried for {self._patience:.0f} s"
                )
            log.debug("%s %s: %s; asking again in %.1f s", method, path, problem, pause)
            time.sleep(pause)
            pause = min(pause * 2, 5)

    def _send(self, method: str, path: str, request: Mapping[str, Any]) -> httpx.Response:
        for fresh in (False, True):
            if self._token is None or fresh:
                answer = self._http.post("/auth/token", json=self._login)
                if not answer.is_success:
                    return answer
                self._token = answer.json()["access_token"]
            headers = {"Authorization": f"Bearer {self._token}", **request.get("headers", {})}
            answer = self._http.request(method, path, **{**request, "headers": headers})
            if answer.status_code != 401:  # 401: the token has aged
                break
        return answer


def _line(line: Any) -> str:
    if not isinstance(line, dict):
        return str(line)
    raised = [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or []]
    return "\n".join([str(line.get("event", "")), *raised])


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail", answer.text)
    except ValueError:
        detail = answer.text
    return str(detail)[:2000]


def _refusal(answer: httpx.Response, what: str) -> Wat2MdsError:
    detail = _detail(answer)
    if answer.status_code in (401, 403):
        return ConfigError(f"{what}: refused ({detail}). Check WAT2MDS_AIRFLOW_USER and WAT2MDS_AIRFLOW_PASSWORD")
    if answer.status_code in (400, 404, 409, 422):
        return ConfigError(f"{what}: {detail}")
    return Wat2MdsError(f"{what}: {answer.status_code} {detail}")

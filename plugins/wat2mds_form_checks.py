"""Refuses a run whose form contradicts itself, before any of its tasks starts: Airflow checks each field alone.

In: requests to Airflow's REST API that trigger a run or make a backfill, from its web UI or from elsewhere. Out: 400 with the reason, which
the form shows; every other request goes on as it came. Guaranteed: the store is not asked, so that a form is refused while it is down.
What does not belong here: a field's own bounds (the forms' schemas), and what only the registry knows (``wat2mds plan``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from wat2mds.errors import ConfigError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_TRIGGER = re.compile(r"/api/v2/dags/([^/]+)/dagRuns/?$")
_BACKFILL = re.compile(r"/api/v2/backfills(/dry_run)?/?$")
_MOST_BYTES = 1 << 20  # the forms' fields are shorter by far; what is longer is Airflow's to refuse


class FormChecks:
    """A middleware around Airflow's API."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        trigger = _TRIGGER.search(path)
        if scope["type"] != "http" or scope["method"] != "POST" or not (trigger or _BACKFILL.search(path)):
            await self._app(scope, receive, send)
            return
        heard: list[dict[str, Any]] = []
        body = b""
        while len(body) <= _MOST_BYTES:
            message = await receive()
            heard.append(message)
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        if reason := _reason(trigger and trigger[1], body):
            answer = json.dumps({"detail": reason}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return

        async def again() -> dict[str, Any]:
            return heard.pop(0) if heard else await receive()

        await self._app(scope, again, send)


def _reason(dag_id: str | None, body: bytes) -> str | None:
    try:
        asked = json.loads(body)
        conf = (asked.get("conf") if dag_id else asked.get("dag_run_conf")) or {}
        name = dag_id or asked["dag_id"]
        key = asked.get("partition_key")
    except (ValueError, AttributeError, KeyError):
        return None  # Airflow says what is wrong with it
    return contradiction(name, conf, key) if isinstance(conf, dict) else None


def contradiction(dag_id: str, conf: Mapping[str, Any], partition_key: str | None = None) -> str | None:
    """Why this form, with the fields that are in ``conf``, cannot be what somebody wants; None when it can."""
    check = {
        "build_dataset": _build,
        "build_from_metadata": _import,
        "retry_downloads": _settings,
        "build_subset": _subset,
    }.get(dag_id)
    try:
        return check and check(conf, partition_key)
    except ConfigError as error:
        return str(error)
    except (TypeError, ValueError, AttributeError):
        return None  # a field of another type: its schema's to refuse


def _build(conf: Mapping[str, Any], partition_key: str | None) -> str | None:
    from wat2mds.plan import parse_ranges

    batch = conf.get("batch")
    if batch and partition_key and batch != partition_key:
        return f"the partition key names the batch {partition_key}, the field Batch {batch}: leave one of them empty"
    if batch or partition_key:
        # The untouched form sends its defaults, segment 0 and WAT file 0.
        fields = {"Snapshot": conf.get("snapshot"), "Segment": conf.get("segment"), "WAT files": conf.get("wat_files")}
        if chosen := [title for title, value in fields.items() if value not in (None, "", "0")]:
            others = " and ".join(chosen)
            return f"a batch is its WAT files, and {others} would choose others: empty the field Batch, or leave them untouched"
    elif conf.get("wat_files"):
        parse_ranges(conf["wat_files"])
    return _settings(conf, partition_key)


def _import(conf: Mapping[str, Any], partition_key: str | None) -> str | None:
    from wat2mds.plan import parse_ranges

    if conf.get("numbers"):
        parse_ranges(conf["numbers"], "files")
    return _settings(conf, partition_key)


def _settings(conf: Mapping[str, Any], partition_key: str | None) -> str | None:
    """Settings are checked as the first task does, which would be red otherwise."""
    from wat2mds.settings import load_settings
    from wat2mds_form import IMPORT_SETTINGS, set_options

    fields = {name: conf.get(name) for name in IMPORT_SETTINGS}
    options = set_options({**fields, "settings": conf.get("settings")}, IMPORT_SETTINGS)
    given = [option.removeprefix("--set=") for option in options]
    values: dict[str, str] = {}
    for key, _, value in (option.partition("=") for option in given):
        if values.setdefault(key.strip(), value.strip()) != value.strip():
            both = f"{values[key.strip()]} in one place of the form and {value.strip()} in another"
            return f"{key.strip()} is {both}: leave one of them empty"
    load_settings(conf.get("profile"), given)
    return None


def _subset(conf: Mapping[str, Any], partition_key: str | None) -> str | None:
    if conf.get("preset") and conf.get("where"):
        return "a subset has a preset or a condition of its own: empty one of the two fields"
    titles = {"preset": "Preset", "where": "Condition", "version": "Version", "fraction": "Fraction", "count": "Count"}
    parts = [title for name, title in titles.items() if conf.get(name)]
    if parts and not conf.get("name"):
        return f"{' and '.join(parts)}: a subset needs a name. Without one all subsets are brought to the newest version"
    return None

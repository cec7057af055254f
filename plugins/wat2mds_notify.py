"""Tells people of a run that failed or takes too long: by Slack, e-mail, a webhook, or whatever else Apprise has an address for.

In: the Airflow connection ``wat2mds_notify``, whose password is one or more of Apprise's addresses, separated by spaces; without it nobody
is told. Out: one message a run. Guaranteed: a message that cannot be sent is in the log and changes nothing else; addresses, which
hold tokens, are in no log. What does not belong here: what a task's own log says, and alerts on metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseHook, DeadlineAlert, DeadlineReference, SyncCallback
from airflow.sdk.exceptions import AirflowNotFoundException

from wat2mds.settings import deployment
from wat2mds_reports import run_address

log = logging.getLogger(__name__)
CONNECTION = "wat2mds_notify"


def run_failed(context: Mapping[str, Any]) -> None:
    """A DAG's ``on_failure_callback``: once a run, when no task of it can go on."""
    run = _run(context)
    batch = f" ({run['partition_key']})" if run.get("partition_key") else ""
    why = context.get("reason") or "a task failed"
    what_to_do = "The log of each red task ends with the reason and with what to do; then clear it with its downstream tasks."
    link = run_address(run["dag_id"], run["run_id"])
    tell(
        f"{run['dag_id']} failed{batch}",
        f"Run {run['run_id']}: {why}. {what_to_do} What is done is not done again.\n{link}",
        "failure",
    )


def run_is_late(context: Mapping[str, Any]) -> None:
    """Called when a run has not ended by its deadline."""
    run = _run(context)
    hours = deployment().run_deadline_hours
    tell(
        f"{run['dag_id']} takes longer than {hours:g} hours",
        f"Run {run['run_id']} goes on; nothing was stopped. `wat2mds status` shows its downloads with rate and time left.\n"
        f"{run_address(run['dag_id'], run['run_id'])}",
        "warning",
    )


def deadline() -> DeadlineAlert:
    """Counted from when a run was queued, so that one which waits for others counts too."""
    place = deployment()
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=place.run_deadline_hours),
        callback=SyncCallback("wat2mds_notify.run_is_late", executor=place.deadline_executor or None),
    )


def tell(title: str, body: str, kind: str) -> None:
    """``kind``: Apprise's info, success, warning or failure."""
    try:
        addresses = (BaseHook.get_connection(CONNECTION).password or "").split()
    except AirflowNotFoundException:
        log.info("%s: nobody is told, there is no connection %s", title, CONNECTION)
        return
    from apprise import Apprise, NotifyType  # half a second, and only here

    for number, address in enumerate(addresses, 1):
        sender = Apprise()
        its_log = logging.getLogger("apprise")
        its_log.disabled = True  # it writes out what it cannot read, token and all
        known = sender.add(address)
        its_log.disabled = False
        if not known:
            log.error("address %d of connection %s is not one of Apprise's: correct it there", number, CONNECTION)
        elif not sender.notify(body=body, title=title, notify_type=NotifyType(kind)):
            log.error("address %d of connection %s could not be told of: %s", number, CONNECTION, title)
        else:
            log.info("told address %d of connection %s: %s", number, CONNECTION, title)


def _run(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """``dag_id``, ``run_id`` and ``partition_key``. Of a failed run Airflow hands over objects, of a late one what its REST API says."""
    run = context.get("dag_run")
    if isinstance(run, Mapping):
        return {"dag_id": run["dag_id"], "run_id": run["dag_run_id"], "partition_key": run.get("partition_key")}
    return {"dag_id": context["dag"].dag_id, "run_id": context["run_id"], "partition_key": getattr(run, "partition_key", None)}

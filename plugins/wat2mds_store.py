"""The store's credentials in Airflow's own processes: from the Airflow connection ``wat2mds_store``.

In: that connection, from the environment, a secrets backend or Airflow's database. Out: AWS_ variables, for the program of a stage
(``store_environment``) and for what scheduler, dag-processor and api-server read themselves (``use_store_connection``). Guaranteed: the
secrets among them are masked in logs and put into no process's own environment. What does not belong here: how the store is asked
(``wat2mds.s3``).
"""

from __future__ import annotations

import threading
import time

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from wat2mds import s3
from wat2mds.errors import ConfigError

STORE_CONNECTION = "wat2mds_store"
# How long Airflow's own processes keep what the connection said: a page reads many objects, and a role's session lasts 15 minutes
# at least.
_KEPT_SECONDS = 60.0


def store_connection() -> str | None:
    """The name of the connection to the store; None without it, and then S3 is asked as whatever the worker is: instance role, AWS_
    variables, profile."""
    try:
        BaseHook.get_connection(STORE_CONNECTION)
    except AirflowNotFoundException:
        return None
    return STORE_CONNECTION


def store_environment(*urls: str) -> dict[str, str]:
    """AWS_ variables from the Airflow connection ``wat2mds_store``; empty where none of the URLs is on S3 or there is no connection."""
    if not any(url.startswith("s3:") for url in urls):
        return {}
    # Imported here: boto3 costs a second, and only a store on S3 needs it.
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
    from airflow.sdk.log import mask_secret

    if store_connection() is None:
        return {}
    hook = AwsGenericHook(aws_conn_id=STORE_CONNECTION, client_type="s3")
    credentials = hook.get_credentials()
    found = {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_SESSION_TOKEN": credentials.token,
        "AWS_REGION": hook.region_name,
        "AWS_DEFAULT_REGION": hook.region_name,
        "AWS_ENDPOINT_URL": hook.conn_config.get_service_endpoint_url("s3"),
    }
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        mask_secret(found[name])
    return {name: value for name, value in found.items() if value}


class _Connection:
    """What the connection said, for a minute; safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._until = float("-inf")

    def __call__(self) -> dict[str, str]:
        with self._lock:
            if time.monotonic() > self._until:
                try:
                    self._said = store_environment("s3:")
                except Exception as error:  # of Airflow, of its secrets backend, of boto
                    raise ConfigError(
                        f"the Airflow connection {STORE_CONNECTION} gives no credentials: {error}. Check it, and the rights of its role"
                    ) from error
                self._until = time.monotonic() + _KEPT_SECONDS
            return self._said


def use_store_connection() -> None:
    """From now on this process asks S3 as the connection says."""
    s3.use_variables(_Connection())

"""Waits on S3 for the listing of a snapshot that Common Crawl has announced, in the triggerer, where it costs no task's slot.

In: the listing's URL, as `refresh-snapshots` names it. Guaranteed: where nothing is awaited, the source is not on S3, or the listing has
not come in time, the task is skipped with what follows it, and says why: the next day's refresh looks again. A store that refuses us is an
error. What does not belong here: what the listing says, and registering it (`wat2mds refresh-snapshots`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowSkipException, TaskDeferralTimeout

from wat2mds_store import store_connection

if TYPE_CHECKING:
    from airflow.sdk import Context

# Of the XCom of the task before.
AWAITED = "{{ ti.xcom_pull(task_ids='refresh')['awaited'] }}"


class ListingSensor(BaseOperator):
    """The Amazon provider's deferrable key sensor, made of its hook and its trigger: its own class would load boto3 wherever the DAG
    is parsed, and takes what fails for what has not come."""

    template_fields = ("listing",)
    ui_color = "#e6f1f2"

    def __init__(self, *, listing: str, wait: timedelta, poke_interval: timedelta = timedelta(minutes=1), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.listing = listing
        self.wait = wait
        self.poke_interval = poke_interval

    def execute(self, context: Context) -> None:
        if not self.listing:
            raise AirflowSkipException("nothing is awaited: the newest snapshot's WAT files are listed")
        if not self.listing.startswith("s3:"):
            raise AirflowSkipException(
                f"{self.listing} is not there yet, and not on S3: it is looked for again with the next refresh"
            )
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from airflow.providers.amazon.aws.triggers.s3 import S3KeyTrigger

        connection = store_connection()
        bucket, key = S3Hook.parse_s3_url(self.listing)
        if S3Hook(aws_conn_id=connection).check_for_key(key, bucket):
            return
        self.log.info("%s is not there yet: waiting for it in the triggerer, %s at most", self.listing, self.wait)
        interval = self.poke_interval.total_seconds()
        trigger = S3KeyTrigger(bucket_name=bucket, bucket_key=key, aws_conn_id=connection, poke_interval=interval)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.wait)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        if event["status"] == "error":
            raise AirflowException(f"{self.listing} could not be looked for: {event['message']}")
        self.log.info("%s is there", self.listing)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            raise AirflowSkipException(
                f"{self.listing} did not come within {self.wait}: it is looked for again with the next refresh"
            ) from None

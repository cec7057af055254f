"""Messages to people: what they are sent, over a real web hook; nobody to tell and an address that is wrong harm nothing."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from tests.dags.live import webhook
from wat2mds_notify import run_failed, run_is_late

FAILED = {
    "dag": SimpleNamespace(dag_id="build_dataset"),
    "run_id": "scheduled__CC-MAIN-2023-50.1700679099281.67.b03",
    "dag_run": SimpleNamespace(partition_key="CC-MAIN-2023-50.1700679099281.67.b03"),
    "reason": "task_failure",
}


def connect(monkeypatch: pytest.MonkeyPatch, addresses: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_NOTIFY", json.dumps({"conn_type": "generic", "password": addresses}))


def test_each_address_is_told_of_a_failed_run(monkeypatch):
    with webhook() as (first, told), webhook() as (second, told_too):
        connect(monkeypatch, f"{first} {second}")
        run_failed(FAILED)
    (message,) = told
    assert message["title"] == "build_dataset failed (CC-MAIN-2023-50.1700679099281.67.b03)"
    assert message["type"] == "failure"
    assert "/dags/build_dataset/runs/scheduled__CC-MAIN-2023-50.1700679099281.67.b03" in message["message"]
    assert told_too == told


def test_of_a_late_run(monkeypatch):
    monkeypatch.setenv("WAT2MDS_RUN_DEADLINE_HOURS", "36")
    with webhook() as (address, told):
        connect(monkeypatch, address)
        run_is_late(context={"dag_run": {"dag_id": "build_dataset", "dag_run_id": "manual__1"}, "deadline": {}})
    assert [(message["title"], message["type"]) for message in told] == [("build_dataset takes longer than 36 hours", "warning")]


def test_nobody_to_tell(monkeypatch, caplog):
    monkeypatch.delenv("AIRFLOW_CONN_WAT2MDS_NOTIFY", raising=False)
    with caplog.at_level(logging.INFO):
        run_failed(FAILED)
    assert "nobody is told, there is no connection wat2mds_notify" in caplog.text


def test_wrong_and_dead_addresses_are_in_the_log_without_their_tokens(monkeypatch, caplog):
    with webhook() as (address, told):
        dead = "json://127.0.0.1:9/a-token"
        connect(monkeypatch, f"nobody://a-token {dead} {address}")
        run_failed(FAILED)
    assert len(told) == 1, "the others are told all the same"
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR and record.name == "wat2mds_notify"]
    assert errors == [
        "address 1 of connection wat2mds_notify is not one of Apprise's: correct it there",
        "address 2 of connection wat2mds_notify could not be told of: build_dataset failed (CC-MAIN-2023-50.1700679099281.67.b03)",
    ]
    assert "a-token" not in caplog.text

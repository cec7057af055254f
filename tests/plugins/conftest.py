"""Airflow's folders and home are set before any test here imports it."""

from __future__ import annotations

import json

import pytest

from tests import airflow_env  # noqa: F401


@pytest.fixture
def connection(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's side knows the store by the connection alone."""
    extra = {"region_name": "us-east-1", "endpoint_url": s3_server}
    said = {"conn_type": "aws", "login": "test", "password": "test-secret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_WAT2MDS_STORE", json.dumps(said))

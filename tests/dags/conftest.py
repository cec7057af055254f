"""Airflow's folders and home are set before any test here imports it."""

from tests import airflow_env  # noqa: F401
from tests.dags.distributed import apart  # noqa: F401
from tests.dags.live import live  # noqa: F401

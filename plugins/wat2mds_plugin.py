"""What Airflow itself loads: the batch timetable, the dashboard, the report pages, the checks of forms, and the store's credentials for
them.

The stage operator needs no registration; DAG files import it.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from wat2mds_dashboard import PREFIX, VIEW
from wat2mds_form_checks import FormChecks
from wat2mds_reports import ReportPages
from wat2mds_store import use_store_connection
from wat2mds_timetable import BatchTimetable


class Wat2MdsPlugin(AirflowPlugin):
    name = "wat2mds"
    timetables = [BatchTimetable]
    fastapi_apps = [{"app": ReportPages(), "url_prefix": PREFIX, "name": "wat2mds"}]
    fastapi_root_middlewares = [{"middleware": FormChecks, "name": "wat2mds form checks"}]
    external_views = [VIEW]

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        use_store_connection()

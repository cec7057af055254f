"""What Airflow itself loads: the batch timetable, the dashboard and the report pages.

The stage operator needs no registration; DAG files import it.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from wat2mds_dashboard import PREFIX, VIEW
from wat2mds_reports import ReportPages
from wat2mds_timetable import BatchTimetable


class Wat2MdsPlugin(AirflowPlugin):
    name = "wat2mds"
    timetables = [BatchTimetable]
    fastapi_apps = [{"app": ReportPages(), "url_prefix": PREFIX, "name": "wat2mds"}]
    external_views = [VIEW]

"""What Airflow itself loads: the batch timetable. The stage operator needs no registration; DAG files import it."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from wat2mds_timetable import BatchTimetable


class Wat2MdsPlugin(AirflowPlugin):
    name = "wat2mds"
    timetables = [BatchTimetable]

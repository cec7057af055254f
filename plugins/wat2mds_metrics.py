"""Airflow's metrics (StatsD or OpenTelemetry, whichever is switched on in its ``[metrics]``) of a download that runs.

In: lines of the stage's log. Out: counters and gauges named ``wat2mds.download.…``. Guaranteed: counters add up over tasks and attempts:
what an earlier attempt fetched is not counted again. What does not belong here: the figures (``wat2mds.figures``).

    wat2mds.download.pairs               counter  pairs finished
    wat2mds.download.bytes               counter  bytes fetched
    wat2mds.download.rate                gauge    pairs a second in the last minute
    wat2mds.download.done, .total        gauge    pairs of the WAT file
    wat2mds.download.success_share       gauge    share of the done pairs that have an image
    wat2mds.download.hosts_in_flight     gauge    hosts that something is asked of
    wat2mds.download.seconds_left        gauge
    wat2mds.download.paused              gauge    1: fetching pauses, as for a full disk
    wat2mds.download.dropped.<reason>    gauge    pairs of the WAT file without an image, by reason

Gauges are tagged with ``wat_file`` where the metrics' backend knows tags.
"""

from __future__ import annotations

from airflow.sdk.observability import stats

from wat2mds.figures import Figures, read_line

_PREFIX = "wat2mds.download"


class DownloadMetrics:
    """One for each attempt: ``hear`` each line of its log."""

    def __init__(self, wat_file: str) -> None:
        self._tags = {"wat_file": wat_file}
        self._last = Figures()

    def hear(self, line: str) -> None:
        figures = read_line(line)
        if figures is None:
            return
        for name, now, before in (
            ("pairs", figures.fetched, self._last.fetched),
            ("bytes", figures.size, self._last.size),
        ):
            if now > before:
                stats.incr(f"{_PREFIX}.{name}", now - before, tags=self._tags)
        gauges = {
            "rate": figures.rate,
            "done": figures.done,
            "total": figures.total,
            "success_share": figures.share,
            "hosts_in_flight": figures.hosts,
            "seconds_left": figures.seconds_left,
            "paused": int(bool(figures.waiting)),
        }
        gauges |= {f"dropped.{reason}": count for reason, count in figures.dropped.items()}
        for name, value in gauges.items():
            if value is not None:
                stats.gauge(f"{_PREFIX}.{name}", value, tags=self._tags)
        self._last = figures

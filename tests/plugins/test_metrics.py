"""The figures that a download logs become Airflow's metrics; what is fetched is counted once, whatever is logged how often."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.otel_logger import get_otel_logger
from opentelemetry import metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider

from wat2mds.figures import Figures
from wat2mds_operator import StageOperator

FIRST = Figures(done=140, total=1000, fetched=40, images=130, rate=4.0, size=9_000, hosts=3, dropped={"timeout": 10})
PAUSED = Figures(
    done=160, total=1000, fetched=60, images=140, rate=0.5, size=12_000, dropped={"timeout": 20}, waiting="disk full"
)


class Backend:
    """Keeps what a StatsD or OpenTelemetry backend would send."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.tags: set[str] = set()

    def incr(self, stat: str, count: int = 1, rate: float = 1, *, tags: dict[str, str] | None = None) -> None:
        self.counters[stat] += count
        self.tags |= set((tags or {}).values())

    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False, *, tags: Any = None) -> None:
        self.gauges[stat] = value


@pytest.fixture
def backend() -> Iterator[Backend]:
    found = Backend()
    stats.initialize(factory=lambda: found, export_legacy_names=False)  # type: ignore[arg-type, return-value]
    yield found
    stats.initialize(factory=None, export_legacy_names=True)  # type: ignore[arg-type]


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportMetricsServiceRequest]]:
    """What an OpenTelemetry collector received from Airflow's own backend."""
    found: list[ExportMetricsServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{collector.server_address[1]}/v1/metrics"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
        monkeypatch.setattr("atexit.register", lambda *_: None)  # by then there is no collector any more
        stats.initialize(factory=get_otel_logger, export_legacy_names=False)
        yield found
        collector.shutdown()
    stats.initialize(factory=None, export_legacy_names=True)  # type: ignore[arg-type]


def run_program(stage: str, folder: Path) -> None:
    """A stage's operator over a program that logs a download's lines."""
    lines = [f"07:00:01 INFO wat2mds.progress: {text}" for text in (FIRST.line(), "another line", PAUSED.line(), PAUSED.line())]
    program = folder / "program.py"
    program.write_text(f"import sys\nfor line in {lines!r}: print(line, file=sys.stderr)\nprint('{{}}')")
    unit = dict.fromkeys(("wat_file", "snapshot", "segment", "batch", "source", "work", "dataset", "settings"), "x")
    operator = StageOperator(task_id=stage, stage=stage, units={**unit, "wat_file": "00017", "digests": {}}, arguments=[stage])
    operator.program = [sys.executable, str(program)]
    operator.execute({})


@pytest.mark.parametrize("stage", ["download", "filter"])
def test_a_downloads_lines_become_metrics(stage: str, backend: Backend, tmp_path: Path) -> None:
    run_program(stage, tmp_path)
    if stage != "download":
        assert not backend.counters
        return
    assert backend.counters == {"wat2mds.download.pairs": 60, "wat2mds.download.bytes": 12_000}
    assert backend.tags == {"00017"}
    assert backend.gauges == {
        "wat2mds.download.rate": 0.5,
        "wat2mds.download.done": 160,
        "wat2mds.download.total": 1000,
        "wat2mds.download.success_share": 0.875,
        "wat2mds.download.hosts_in_flight": 0,
        "wat2mds.download.seconds_left": 1680,
        "wat2mds.download.paused": 1,
        "wat2mds.download.dropped.timeout": 20,
    }


def test_an_opentelemetry_collector_receives_them(collected: list[ExportMetricsServiceRequest], tmp_path: Path) -> None:
    run_program("download", tmp_path)
    provider = metrics.get_meter_provider()
    assert isinstance(provider, MeterProvider)
    provider.shutdown()  # sends what is left, as the end of a task's process does
    received = {
        metric.name: point.as_double or point.as_int
        for request in collected
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in (metric.sum.data_points or metric.gauge.data_points)
        if "00017" in {attribute.value.string_value for attribute in point.attributes}
    }
    assert received["airflow.wat2mds.download.pairs"] == 60
    assert received["airflow.wat2mds.download.bytes"] == 12_000
    assert received["airflow.wat2mds.download.success_share"] == 0.875
    assert received["airflow.wat2mds.download.dropped.timeout"] == 20

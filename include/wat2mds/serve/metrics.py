"""Prometheus' figures of one service, and its log.

In: requests and work, as they happen. Out: ``/metrics`` in Prometheus' text form. Guaranteed: labels are routes, methods and
statuses, whose number is bounded whatever is asked for; nothing of what people search for. What does not belong here: figures of
the dataset.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from wat2mds.serve.collection import Collections

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Of one app."""

    def __init__(self, collections: Collections) -> None:
        self.log = logging.getLogger("wat2mds.serve")
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "wat2mds_serve_requests", "requests answered", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "wat2mds_serve_request_seconds", "time to answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._work = Histogram(
            "wat2mds_serve_work_seconds", "time of a request's parts", ["part"], buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter(
            "wat2mds_serve_refused", "requests refused before they were looked at", ["why"], registry=self.registry
        )
        self._samples = Gauge("wat2mds_serve_samples", "samples of an index", ["index", "version"], registry=self.registry)
        self._collections = collections
        self._lock = threading.Lock()

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        with self._lock:
            self._samples.clear()
            for one in self._collections.every:
                self._samples.labels(one.name, str(one.version.number)).set(one.rows.count)
            return generate_latest(self.registry)

    @contextmanager
    def seconds(self, part: str) -> Iterator[None]:
        """Time one part of the work on a request."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._work.labels(part).observe(time.perf_counter() - began)


def metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router

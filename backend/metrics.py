"""Numbers for Prometheus, in a registry of their own so that several apps can live in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30, 60, 100)


class Metrics:
    """What the server counts. Labels have few values: never a task, a text or an address."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("x2sam_http_requests", "HTTP requests", ["endpoint", "status"], registry=self.registry)
        self.seconds = Histogram(
            "x2sam_predict_seconds", "Time to answer one task", ["kind"], buckets=_SECONDS, registry=self.registry
        )
        self.masks = Counter("x2sam_masks", "Masks in answers", ["kind"], registry=self.registry)
        self.errors = Counter("x2sam_predict_errors", "Tasks that got no answer", ["error"], registry=self.registry)
        self.events = Counter("x2sam_webhook_events", "Events from Label Studio", ["action"], registry=self.registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read when the numbers are fetched."""
        Gauge(name, text, registry=self.registry).set_function(read)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Measures the time to answer one task."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels(kind).observe(time.perf_counter() - start)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

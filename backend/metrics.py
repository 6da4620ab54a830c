"""Numbers for Prometheus, in a registry of their own so that several apps can live in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from x2sam.vitals import EngineVitals

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30, 60, 100)
_STAGE_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 3, 10, 30, 100)
STAGES = ("fetch", "decode", "wait", "encode", "segment", "shape", "journal")
"""Parts of answering a task; their times don't overlap."""


class Metrics:
    """What the server counts. Labels have few values: never a task, a text or an address."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("x2sam_http_requests", "HTTP requests", ["endpoint", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "x2sam_http_seconds",
            "Time to answer a request",
            ["endpoint"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.seconds = Histogram(
            "x2sam_predict_seconds", "Time to answer one task", ["kind"], buckets=_SECONDS, registry=self.registry
        )
        self.stages = Histogram(
            "x2sam_stage_seconds", "Time of one part of answering a task, by kind of prompt", ["stage", "kind"],
            buckets=_STAGE_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.masks = Counter("x2sam_masks", "Masks in answers", ["kind"], registry=self.registry)
        self.errors = Counter("x2sam_predict_errors", "Tasks that got no answer", ["error"], registry=self.registry)
        self.refused = Counter(
            "x2sam_http_errors", "Requests answered with an error", ["error"], registry=self.registry
        )
        self.events = Counter("x2sam_webhook_events", "Events from Label Studio", ["action"], registry=self.registry)
        self.trainings = Counter("x2sam_trainings", "Trainings that ended", ["outcome"], registry=self.registry)
        self.promotions = Counter("x2sam_promotions", "Trainings whose result took over", registry=self.registry)
        self.warmed = Counter("x2sam_warmed_tasks", "Tasks encoded before they were opened", registry=self.registry)
        self.warmed_used = Counter(
            "x2sam_warmed_tasks_used", "Tasks opened after they were encoded", registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def count(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a number that only grows and is read when the numbers are fetched."""
        self.registry.register(_Total(name, text, read))

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read when the numbers are fetched."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def watch_engine(self, read: Callable[[], EngineVitals | None]) -> None:
        """Adds what the engine tells about its queue, its thread and its memory; None while there is no engine."""
        self.registry.register(_EngineCollector(read))

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Measures the time to answer one task."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds.labels(kind).observe(time.perf_counter() - start)

    def answered(self, kind: str, stages: Mapping[str, float], masks: int, failure: str = "") -> None:
        """One task is done: the seconds of its parts, the masks found, the kind of error if it failed."""
        for stage, seconds in stages.items():
            self.stages.labels(stage, kind).observe(seconds)
        self.masks.labels(kind).inc(masks)
        if failure:
            self.errors.labels(failure).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector:
    """Asks the engine once for each fetch of the numbers."""

    def __init__(self, read: Callable[[], EngineVitals | None]):
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        vitals = self._read()
        if vitals is None:
            return
        waiting = GaugeMetricFamily("x2sam_queue_length", "Steps that wait for the device", labels=["class"])
        oldest = GaugeMetricFamily("x2sam_queue_age_seconds", "Age of the oldest that waits", labels=["class"])
        for name, queue in vitals.queues.items():
            waiting.add_metric([name], queue.waiting)
            oldest.add_metric([name], queue.oldest)
        memory = GaugeMetricFamily("x2sam_device_memory_bytes", "Memory of the device", labels=["kind"])
        for name, size in vitals.memory.items():
            memory.add_metric([name], size)
        compiled = GaugeMetricFamily(
            "x2sam_compiled_gain", "Times as quick as eagerly that compiled parts are; 0: eager", labels=["part"]
        )
        for part, gain in vitals.compiled.items():
            compiled.add_metric([part], gain)
        yield from (waiting, oldest, memory, compiled)
        yield GaugeMetricFamily("x2sam_device_step_seconds", "Age of the running step", value=vitals.running or 0.0)
        yield GaugeMetricFamily("x2sam_device_responsive", "1 unless a step is stuck", value=float(vitals.responsive))
        yield CounterMetricFamily("x2sam_device_restarts", "Replaced device threads", value=vitals.restarts)
        yield CounterMetricFamily(
            "x2sam_device_shortages", "Times that memory ran out and caches were emptied", value=vitals.shortages
        )


class _Total:
    """A counter that somebody else keeps."""

    def __init__(self, name: str, text: str, read: Callable[[], float]):
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())

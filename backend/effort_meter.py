"""The effort of annotations as they are submitted, for ``/metrics``: measured in a thread of its own, since Label
Studio lets the annotator wait for the webhook.

An annotation counts once, when it is first submitted; what is changed in it later is in ``python -m backend report``.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from backend.effort import Effort, measure
from backend.effort_tally import OTHERS, UNKNOWN_VERSION
from backend.errors import BackendError
from backend.events import CREATED
from backend.export_tasks import person_of
from backend.label_config import parse_label_config
from backend.logs import loggable, where
from backend.protocol import Json, objects_in
from backend.pseudonyms import Pseudonyms
from backend.remembered import Step

log = logging.getLogger(__name__)

_WAITING = 64  # annotations
_WAITING_WEIGHT = 16 << 20  # numbers and characters of their regions
_PAIRS, _PEOPLE = 64, 64
_LONGEST_NAME = 100
_PREDICTION_BYTES, _PREDICTION_SECONDS = 64 << 20, 10.0
_PROMPTS = (0, 1, 2, 3, 5, 8)
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300)
_OVERLAPS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_TOUCHED = {None: "unknown", True: "no", False: "yes"}


class EffortNumbers:
    """The numbers. Labels of the configuration with model versions are at most 64 pairs, annotators at most 64; what
    comes later counts as ``(all others)``."""

    def __init__(self, registry: CollectorRegistry, by_annotator: bool):
        names = ["label", "version"]
        self.masks = Counter(
            "x2sam_submitted_masks", "Masks of annotations when they were first submitted",
            [*names, "kind", "touched"], registry=registry,
        )  # fmt: skip
        self.prompts = Histogram(
            "x2sam_submitted_mask_prompts", "Clicks, boxes and texts for a mask", names, buckets=_PROMPTS,
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "x2sam_submitted_mask_seconds", "A mask's share of its annotation's time", names, buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.overlap = Histogram(
            "x2sam_submitted_mask_iou", "Intersection over union of what was proposed and submitted", names,
            buckets=_OVERLAPS, registry=registry,
        )  # fmt: skip
        self.lost = Counter("x2sam_submitted_unmeasured", "Annotations that were not measured", registry=registry)
        self._pairs: set[tuple[str, str]] = set()
        self._people: set[str] = set()
        self._by_annotator = None
        if by_annotator:
            self._by_annotator = (
                Counter("x2sam_annotator_masks", "Masks", ["annotator", "touched"], registry=registry),
                Summary("x2sam_annotator_mask_prompts", "Prompts for a mask", ["annotator"], registry=registry),
                Summary("x2sam_annotator_mask_seconds", "Time of a mask", ["annotator"], registry=registry),
            )

    def add(self, mask: Effort, annotator: str) -> None:
        """One mask, and the pseudonym of who submitted it."""
        version = mask.version or ("" if mask.kind == "drawn" else UNKNOWN_VERSION)
        pair = _known(self._pairs, (mask.label[:_LONGEST_NAME], version[:_LONGEST_NAME]), (OTHERS, OTHERS), _PAIRS)
        touched = _TOUCHED[mask.untouched]
        self.masks.labels(*pair, mask.kind, touched).inc()
        _observe((self.prompts, self.seconds, self.overlap), pair, (mask.prompts, mask.seconds, mask.overlap))
        if self._by_annotator is not None:
            masks, prompts, seconds = self._by_annotator
            name = _known(self._people, annotator, OTHERS, _PEOPLE)
            masks.labels(name, touched).inc()
            _observe((prompts, seconds), (name,), (mask.prompts, mask.seconds))


class EffortMeter:
    """Threads hand it what Label Studio tells; one thread measures.

    answers:    a task, an object and a page to what was answered about it
    prediction: its number to a stored prediction; None where it can't be had
    tolerance:  of outlines, as in the settings
    """

    def __init__(
        self,
        numbers: EffortNumbers,
        answers: Callable[[str, str, int], Sequence[Step]],
        prediction: Callable[[int], Json | None],
        people: Pseudonyms | None = None,
        tolerance: float = 0.5,
    ):
        self._numbers, self._answers, self._prediction, self._people = numbers, answers, prediction, people
        self._tolerance = tolerance
        self._waiting: queue.Queue[tuple[Json, Json, str, int] | None] = queue.Queue(_WAITING)
        self._weight = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="effort", daemon=True)
        self._thread.start()

    def told(self, action: str, data: Json, label_config: str) -> None:
        """An event of Label Studio; returns at once. Where too much waits it is counted as not measured."""
        annotation, task = data.get("annotation"), data.get("task")
        if action != CREATED or not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            return
        task = task if isinstance(task, dict) else {"id": annotation.get("task")}
        weight = sum(map(_weight, objects_in(annotation.get("result"))))
        with self._lock:
            full = self._weight and self._weight + weight > _WAITING_WEIGHT
            if not full:
                with suppress(queue.Full):
                    self._waiting.put_nowait((annotation, task, label_config, weight))
                    self._weight += weight
                    return
        self._numbers.lost.inc()

    def close(self) -> None:
        self._stop.set()
        with suppress(queue.Full):  # the thread sees the event
            self._waiting.put_nowait(None)

    def _work(self) -> None:
        while not self._stop.is_set():
            entry = self._waiting.get()
            if entry is None:
                return
            annotation, task, label_config, weight = entry
            try:
                self._measure(annotation, task, label_config)
            except Exception as error:  # the thread must live on, whatever stands in the annotation
                words = str(error) if isinstance(error, BackendError) else type(error).__name__
                fields = {"task": loggable(str(task.get("id"))), "error": type(error).__name__, "at": where(error)}
                log.warning("an annotation can't be measured: %s", words, extra={"fields": fields})
                self._numbers.lost.inc()
            with self._lock:
                self._weight -= weight

    def _measure(self, annotation: Json, task: Json, label_config: str) -> None:
        task_id, begun = str(task.get("id")), annotation.get("parent_prediction")
        found = measure(
            annotation,
            task,
            parse_label_config(label_config or "<View/>"),
            lambda name, page: self._answers(task_id, name, page),
            self._prediction(begun) if isinstance(begun, int) else None,
            self._tolerance,
        )
        annotator = self._people.of(person_of(annotation)) if self._people is not None else ""
        for mask in found.masks:
            self._numbers.add(mask, annotator)


def prediction_by(ask: Callable[[str, int, float], bytes]) -> Callable[[int], Json | None]:
    """The number of a prediction to itself, asked from Label Studio's API at a path, in so many bytes and seconds."""

    def prediction(number: int) -> Json | None:
        try:
            found = json.loads(ask(f"/api/predictions/{number}/", _PREDICTION_BYTES, _PREDICTION_SECONDS))
        except (BackendError, ValueError) as error:
            log.warning("a prediction can't be had: %s", type(error).__name__)
            return None
        return found if isinstance(found, dict) else None

    return prediction


def unknown_prediction(_number: int) -> None:
    """Where Label Studio can't be asked."""


def _observe(numbers: Sequence[Histogram | Summary], labels: Sequence[str], values: Sequence[float | None]) -> None:
    for one, value in zip(numbers, values, strict=True):
        if value is not None:
            one.labels(*labels).observe(value)


def _known(known: set, name: Any, others: Any, most: int) -> Any:
    """The name, while there is room for it."""
    if name not in known and len(known) >= most:
        return others
    known.add(name)
    return name


def _weight(item: Json) -> int:
    value = item.get("value")
    value = value if isinstance(value, dict) else {}
    parts = (value.get(name) for name in ("rle", "imageDataURL", "points", "sequence"))
    return 64 + sum(len(part) for part in parts if isinstance(part, list | str))

"""Which part of which video a task shows, and the task that shows the part before it.

``python -m backend video import`` writes it into each task. The task before is asked of Label Studio; where that can't
be, what this process has answered tells it (:class:`SeenTasks`).
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from backend.errors import LabelConfigError, MediaError
from backend.evidence import Work, parse_work
from backend.frames import addresses_of
from backend.label_config import ObjectTag, task_value
from backend.protocol import Json, Task, objects_in
from backend.settings import MEGABYTE
from backend.video_pages import MOST_PAGES

_LIST_BYTES, _RESULT_BYTES = 16 * MEGABYTE, 64 * MEGABYTE
_LISTED = 100
_CANDIDATES = 3
_SEEN = 32

AskLabelStudio = Callable[[str, int], bytes]
"""``ask(path, limit)`` gets a page of the API, of at most ``limit`` bytes."""


@dataclass(frozen=True)
class Span:
    """Pages of a task: page ``i`` is number ``start + i`` of the frames that were picked of the video at ``rate``."""

    project: str
    video_id: str
    rate: float
    start: int
    pages: int

    @property
    def stop(self) -> int:
        return self.start + self.pages

    def follows(self, other: Span) -> bool:
        """Whether this goes on in the same video where the other one ends, or within it."""
        same = (self.project, self.video_id, self.rate) == (other.project, other.video_id, other.rate)
        return same and other.start < self.start <= other.stop


def span_of(task: Task, pages: int) -> Span | None:
    """The part of a video that a task of ``pages`` pages shows; None for tasks that were not imported as such."""
    video_id, rate, start = (task.data.get(name) for name in ("video_id", "video_fps", "start_frame"))
    if not (isinstance(video_id, str) and 0 < len(video_id) <= 64 and _is_number(rate) and rate > 0):
        return None
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        return None
    return Span(task.project, video_id, float(rate), start, pages)


@dataclass(frozen=True, eq=False)
class TaskBefore:
    """A task whose pages come before those of another, and what stands in it or was answered about it.

    ``answered`` are labels of objects, by name, that may wait to be accepted; ``submitted``: a person says that this is
    all.
    """

    task: Task
    span: Span
    work: Work
    answered: Mapping[str, str] = field(default_factory=dict)
    submitted: bool = False


class SeenTasks:
    """The tasks of videos that requests were about, with what was on the screen then. Threads may share one."""

    def __init__(self, capacity: int = _SEEN):
        self._capacity = capacity
        self._lock = threading.Lock()
        self._tasks: OrderedDict[tuple[Span, str], TaskBefore] = OrderedDict()

    def note(self, task: Task, span: Span, work: Work, answered: Mapping[str, str]) -> None:
        """Takes note of a request: ``answered`` are labels by the name of each object of its answer.

        Only the newest page of each object and the last few of all are kept of what stands.
        """
        key = span, task.id
        with self._lock:
            before = self._tasks.pop(key, None)
            if before is not None and not work.regions and not work.drawn:
                # answers that nobody has accepted yet leave no draft
                answered, work = {**before.answered, **answered}, before.work
            self._tasks[key] = TaskBefore(task, span, work_at_end(work, span.pages), answered)
            while len(self._tasks) > self._capacity:
                self._tasks.popitem(last=False)

    def before(self, span: Span) -> list[TaskBefore]:
        """The tasks before a part of a video, the nearest and newest first."""
        with self._lock:
            found = [one for one in reversed(self._tasks.values()) if span.follows(one.span)]
        return sorted(found, key=lambda one: _nearness(span, one.span))


LAST_PAGES = 3
"""So many pages of the task before are looked at before its own begin."""


def work_at_end(work: Work, pages: int) -> Work:
    """Of what stands, the last pages out of ``pages`` and the last one of each object."""
    last: dict[str, int] = {}
    for region in work.regions:
        if region.page < pages:
            last[region.object_id] = max(region.page, last.get(region.object_id, 0))
    tail = range(pages - LAST_PAGES, pages)
    regions = tuple(r for r in work.regions if r.page in tail or r.page == last.get(r.object_id))
    newest = max((r.page for r in work.drawn if r.page < pages), default=0)
    drawn = tuple(r for r in work.drawn if r.page in tail or r.page == newest)
    return replace(work, regions=regions, drawn=drawn, annotation=None)


class TasksBefore:
    """Asks Label Studio for the task before one.

    A plain listing of tasks, or a look at one, makes Label Studio ask this very backend for predictions where it
    retrieves them automatically; ``review=true`` keeps it from that, and single results are asked for by themselves.
    """

    def __init__(self, ask: AskLabelStudio):
        self._ask = ask

    def before(self, span: Span, tag: ObjectTag) -> list[tuple[Task, Span]]:
        """The tasks before a part of a video, the nearest first; ``tag`` shows the pages.

        :raises MediaError: Label Studio refuses or can't be asked.
        """
        if not span.project.isdigit() or not span.start:
            return []
        filters = [
            _filter("data.video_id", "equal", "String", span.video_id),
            _filter("data.start_frame", "less", "Number", span.start),
            _filter("data.start_frame", "greater_or_equal", "Number", max(span.start - MOST_PAGES, 0)),
        ]
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["-tasks:id"]}
        asked = {"project": span.project, "page": 1, "page_size": _LISTED, "review": "true", "resolve_uri": "false"}
        answer = self._json(f"/api/tasks?{urlencode({**asked, 'query': json.dumps(query)})}", _LIST_BYTES)
        tasks = objects_in(answer.get("tasks") if isinstance(answer, dict) else None)
        found = [pair for pair in _spans(tasks, span.project, tag) if span.follows(pair[1])]
        return sorted(found, key=lambda pair: _nearness(span, pair[1]))[:_CANDIDATES]

    def person_left(self, task: Task, span: Span) -> TaskBefore | None:
        """What a person submitted last, else the newest draft; None where there is neither.

        :raises MediaError: Label Studio refuses or can't be asked.
        """
        annotations = self._results(f"/api/tasks/{task.id}/annotations/")
        if annotations:
            work = parse_work({"annotations": [_newest(annotations)]}, None).annotation or Work()
            return TaskBefore(task, span, work, submitted=True)
        drafts = self._results(f"/api/tasks/{task.id}/drafts")
        return TaskBefore(task, span, parse_work({"drafts": [_newest(drafts)]}, None)) if drafts else None

    def we_left(self, task: Task, span: Span) -> TaskBefore | None:
        """The newest prediction, None where there is none.

        :raises MediaError: Label Studio refuses or can't be asked.
        """
        predictions = self._results(f"/api/predictions/?{urlencode({'task': task.id})}")
        return (
            TaskBefore(task, span, parse_work({"predictions": [_newest(predictions)]}, None)) if predictions else None
        )

    def _results(self, path: str) -> list[Json]:
        return [entry for entry in objects_in(self._json(path, _RESULT_BYTES)) if not entry.get("was_cancelled")]

    def _json(self, path: str, limit: int) -> Any:
        try:
            return json.loads(self._ask(path, limit))
        except (ValueError, RecursionError) as error:
            raise MediaError("Label Studio's API does not answer in JSON; check LABEL_STUDIO_URL.") from error


def _spans(tasks: Iterable[Json], project: str, tag: ObjectTag) -> Iterator[tuple[Task, Span]]:
    for raw in tasks:
        data = raw.get("data")
        if not isinstance(data, dict):
            continue
        task = Task(str(raw.get("id")), data, frozenset(), project)
        try:
            pages = len(addresses_of(task_value(tag, data)))
        except (LabelConfigError, MediaError):
            continue  # it has no pages
        span = span_of(task, pages)
        if span is not None and task.id.isdigit():
            yield task, span


def _nearness(span: Span, before: Span) -> tuple[int, int]:
    """What ends where the span begins comes first, then what overlaps it least."""
    return before.stop - span.start, -before.start


def _newest(entries: Sequence[Json]) -> Json:
    def age(entry: Json) -> tuple[str, int]:
        number = entry.get("id")
        return str(entry.get("updated_at") or ""), number if isinstance(number, int) else -1

    return max(entries, key=age)


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Objects of the task before, taken along into the next one of the same video.

They keep their names, so that they are one track over all tasks. What is known of them comes from the last pages of the
task before and, for those that were out of sight there, from the page where they were seen last, also a few tasks
earlier: the walk begins on these pages (:mod:`backend.earlier_pages`), so that it is memory that carries them over, not
a box.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.answers import Services, frames_of
from backend.carried import Carried, Known, Screen
from backend.earlier_pages import EarlierPages
from backend.errors import EXPECTED, MediaError, MediaTimeoutError
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.label_config import ObjectTag
from backend.protocol import Task
from backend.remembered import PackedMask
from backend.video_spans import LAST_PAGES, Span, TaskBefore, TasksBefore, span_of, work_at_end

log = logging.getLogger(__name__)

_TASKS_BACK = 3
_SEEN_LAST = 4
_API_SECONDS = 10.0  # for all that is asked for one answer

NO_VIDEO = (
    "There is nothing to continue: the pages were not imported with “video import”, which notes what comes before."
)
FIRST = "There is nothing to continue: this is where the video begins."
NO_TASK = "There is nothing to continue: the project has no task with the pages before these."
NOTHING_THERE = (
    "There is nothing to continue: the task before this one has no masks, as far as can be seen here. Submit it, then "
    "type “continue” again."
)
NOT_ASKED = (
    "There is nothing to continue as far as is known here. Set LABEL_STUDIO_API_KEY of the ML backend, so that it can "
    "look into the task before this one."
)


@dataclass(frozen=True, eq=False)
class Brought:
    """``objects`` whose earlier pages, ``pages``, are numbered from -1 down, or why there are none."""

    objects: Sequence[Carried] = ()
    pages: EarlierPages | None = None
    problem: str = ""


def bring(services: Services, task: Task, tag: ObjectTag, frames: TaskFrames) -> Brought:
    """The objects of the task before this one, and those that left a little earlier, as far as pages before its own
    show them."""
    span = span_of(task, len(frames))
    if span is None or span.start == 0:
        return Brought(problem=NO_VIDEO if span is None else FIRST)
    left: list[_Left] = []
    problem, at, until = "", span, time.monotonic() + _API_SECONDS
    try:
        while len(left) < _TASKS_BACK:
            found = None
            for before in _tasks_before(services, at, tag, until):
                problem = NOTHING_THERE
                found = _left_in(services, before, tag, at)
                if found is not None:
                    break
            if found is None:
                break
            left.append(found)
            at = found.span
    except MediaError as error:
        log.warning("the task before another can not be looked at: %s", type(error).__name__)
        problem = f"The task before this one can't be looked at: {error}"
    if left:
        return _brought(services, left, span)
    asked = services.settings.label_studio_api_key and span.project.isdigit()
    return Brought(problem=problem or (NO_TASK if asked else NOT_ASKED))


def joined(brought: Sequence[Carried], here: Sequence[Carried]) -> list[Carried]:
    """Objects of the task before and those of this one, each once; on pages that have numbers below 0 all stay."""
    own = {one.object_id: one for one in here}
    whole = []
    for one in brought:
        mine = own.pop(one.object_id, None)
        if mine is not None:
            known = {page: known for page, known in mine.known.items() if page not in mine.anew}
            kept = one.kept | mine.kept
            one = replace(one, known={**one.known, **known}, kept=kept, shape=mine.shape or one.shape, anew=mine.anew)
        whole.append(one)
    return [*whole, *own.values()]


def note_seen(services: Services, task: Task, frames: TaskFrames, work: Work, answered: Mapping[str, str]) -> None:
    """Takes note of what a request about a task of a video was answered, for the task after it."""
    span = span_of(task, len(frames))
    if span is not None:
        services.seen_tasks.note(task, span, work, answered)


def _tasks_before(services: Services, span: Span, tag: ObjectTag, until: float) -> Iterator[TaskBefore]:
    """What was left in the tasks before, the likeliest first: what people did, what was on a screen here, what was
    predicted. Label Studio is asked ``until`` then."""
    remembered = services.seen_tasks.before(span)
    if not services.settings.label_studio_api_key:
        yield from remembered
        return

    def ask(path: str, limit: int) -> bytes:
        left = until - time.monotonic()
        if left <= 0:
            raise MediaTimeoutError("Label Studio is too slow to tell what is in it; try again.")
        return services.fetcher.ask_label_studio(path, limit, left)

    api = TasksBefore(ask)
    try:
        candidates = api.before(span, tag)
    except MediaError:
        yield from remembered
        raise
    for task, before in candidates:
        left = api.person_left(task, before)
        if left is not None:
            yield left
        if left is not None and left.submitted:
            continue
        yield from (one for one in remembered if one.task.id == task.id)
        yield api.we_left(task, before) or TaskBefore(task, before, Work())


@dataclass(frozen=True, eq=False)
class _Left:
    """What a task has of its ``objects``: where each is ``seen``, by the number of the frame in the video;
    ``submitted``: a person says that this is all."""

    span: Span
    frames: TaskFrames
    objects: Mapping[str, Carried]
    seen: Mapping[str, Mapping[int, Known]]
    submitted: bool


def _left_in(services: Services, before: TaskBefore, tag: ObjectTag, span: Span) -> _Left | None:
    """What can be taken along from a task; None where that is nothing, or its pages can't be read."""
    usable = span.start - before.span.start
    work = work_at_end(before.work, usable)
    try:
        frames, _ = frames_of(services, tag, before.task)
        screen = Screen.of(before.task.id, work, services.remembered, frames.size_of)
        objects = {one.object_id: one for one in screen.objects()}
        for name, label in before.answered.items():
            if name not in objects:
                objects[name] = screen.object(name, label)
    except EXPECTED as error:
        log.warning("pages of the task before another can not be read: %s", type(error).__name__)
        return None
    seen: dict[str, dict[int, Known]] = {}
    for name, one in objects.items():
        masks = {**one.anew, **one.known}
        shown = {page: known for page, known in masks.items() if page < usable and known.mask.box is not None}
        if shown:
            seen[name] = {before.span.start + page: known for page, known in shown.items()}
    return _Left(before.span, frames, objects, seen, before.submitted) if seen else None


def _brought(services: Services, left: Sequence[_Left], span: Span) -> Brought:
    """The last pages before ``span``, and where the objects that are not on them were seen last; ``left`` are the tasks
    before it, the nearest first."""
    numbers = set(range(max(left[0].span.start, span.start - LAST_PAGES), span.start))
    newest: dict[str, _Left] = {}
    for one in left:
        for name in one.seen:
            newest.setdefault(name, one)
    last = {max(one.seen[name]) for name, one in newest.items() if not numbers & one.seen[name].keys()}
    order = sorted(numbers | set(sorted(last, reverse=True)[:_SEEN_LAST]))
    homes = [next(one for one in left if one.span.start <= number < one.span.stop) for number in order]
    addresses = [home.frames.addresses[number - home.span.start] for number, home in zip(order, homes, strict=True)]
    frames = TaskFrames(addresses, services.fetcher, services.decoded, services.settings.max_pixels)
    objects = []
    for name, one in newest.items():
        known: dict[int, Known] = {}
        for page, (number, home) in enumerate(zip(order, homes, strict=True)):
            if number in one.seen[name]:
                known[page - len(order)] = one.seen[name][number]
            elif known and home.submitted:  # a page without it shows that it is out of sight
                known[page - len(order)] = Known(PackedMask.of(np.zeros(frames.size_of(page), bool)))
        if known:
            thing = one.objects[name]
            objects.append(Carried(name, thing.label, known, frozenset(known), thing.shape))
    return Brought(objects, EarlierPages(frames, tuple(range(len(order)))))

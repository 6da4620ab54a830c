"""Encodes pictures before somebody clicks: of the task that was opened, then of those that are likely to follow.

One thread works through it, one picture at a time and only while no request of a person is being answered; on the
device it comes last. The task that was opened latest goes first. What fails is left to the click that needs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backend.engines import EngineLoader
from backend.errors import EXPECTED, LabelConfigError, MediaError
from backend.frames import DecodedPictures, TaskFrames, addresses_of
from backend.label_config import LabelConfig, task_value
from backend.logs import where
from backend.media import MediaFetcher
from backend.metrics import Metrics
from backend.next_tasks import NextTasks
from backend.protocol import Task
from backend.settings import Settings
from x2sam.errors import BusyError

log = logging.getLogger(__name__)

_PLANS = 8
_REMEMBERED = 1024
_AGAIN_SECONDS = 60.0
_CLOSE_SECONDS = 5.0

FramesOf = Callable[[Task, LabelConfig], TaskFrames | None]
Key = tuple[str, str]


def frames_by(settings: Settings, fetcher: MediaFetcher, decoded: DecodedPictures) -> FramesOf:
    """The way from a task to its pages that requests take, too; None for tasks without pictures."""

    def frames_of(task: Task, config: LabelConfig) -> TaskFrames | None:
        tag = config.picture()
        if tag is None or tag.kind != "image":
            return None
        addresses = addresses_of(task_value(tag, task.data), task.id)
        return TaskFrames(addresses, fetcher, decoded, settings.max_pixels)

    return frames_of


@dataclass(frozen=True)
class Opened:
    """A task that somebody has before them. ``encoded``: a request about its picture was answered already."""

    project_id: str
    task: Task
    config: LabelConfig
    encoded: bool

    @property
    def key(self) -> Key:
        return self.project_id, self.task.id


class Warmer:
    """``frames_of(task, config)`` gives the pages of a task that can be encoded, None for others.

    Nothing is done where ``warm_tasks`` is 0. The thread begins with the first task that is opened.
    """

    def __init__(
        self, settings: Settings, engines: EngineLoader, next_tasks: NextTasks, frames_of: FramesOf, metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._settings, self._engines, self._metrics, self._clock = settings, engines, metrics, clock
        self._next_tasks, self._frames_of = next_tasks, frames_of
        self._ready = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._working = False
        self._thread: threading.Thread | None = None
        self._plans: OrderedDict[Key, Iterator[None]] = OrderedDict()
        self._planned: OrderedDict[Key, float] = OrderedDict()
        self._unused: OrderedDict[Key, None] = OrderedDict()
        self._complained = False

    @contextmanager
    def person_waits(self) -> Iterator[None]:
        """Nothing new is begun meanwhile."""
        with self._ready:
            self._waiting += 1
        try:
            yield
        finally:
            with self._ready:
                self._waiting -= 1
                self._ready.notify_all()

    def opened(self, project_id: str, task: Task, config: LabelConfig, encoded: bool) -> None:
        """Somebody has this task before them. Returns at once."""
        if not self._settings.warm_tasks:
            return
        opened = Opened(project_id, task, config, encoded)
        with self._ready:
            if opened.key in self._unused:
                del self._unused[opened.key]
                self._metrics.warmed_used.inc()
            if self._closed or self._clock() < self._planned.get(opened.key, 0.0):
                return
            _remember(self._planned, opened.key, self._clock() + _AGAIN_SECONDS, _REMEMBERED)
            _remember(self._plans, opened.key, self._steps(opened), _PLANS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="x2sam-warming", daemon=True)
                self._thread.start()
            self._ready.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Whether everything that was planned got done in that time."""
        with self._ready:
            return self._ready.wait_for(lambda: not self._plans and not self._working, seconds)

    def close(self) -> None:
        """Drops what is planned and ends the thread."""
        with self._ready:
            self._closed = True
            self._plans.clear()
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while True:
            with self._ready:
                self._working = False
                self._ready.notify_all()
                self._ready.wait_for(lambda: self._closed or (self._plans and not self._waiting))
                if self._closed:
                    return
                key, plan = next(reversed(self._plans.items()))
                self._working = True
            if self._step(plan):
                with self._ready:
                    if self._plans.get(key) is plan:
                        del self._plans[key]

    def _step(self, plan: Iterator[None]) -> bool:
        """The next picture of a plan; True when there is none any more."""
        try:
            return next(plan, plan) is plan
        except Exception as error:  # the thread must live on; the text of the error may quote a task
            fields = {"error": type(error).__name__, "at": where(error)}
            log.error("unexpected error while pictures were encoded ahead", extra={"fields": fields})
            return True

    def _steps(self, opened: Opened) -> Iterator[None]:
        """Stops after each picture, so that others can be more urgent."""
        if not opened.encoded:
            self._prepare(opened.task, opened.config)
            yield
        spent = 0
        for task in self._following(opened):
            key = opened.project_id, task.id
            size = self._prepare(task, opened.config)
            if size is None:
                return
            if size:
                spent += size
                with self._ready:
                    if key not in self._unused:
                        self._metrics.warmed.inc()
                    _remember(self._unused, key, None, _REMEMBERED)
            if spent >= self._settings.warm_bytes:
                return
            yield

    def _following(self, opened: Opened) -> list[Task]:
        if not self._settings.label_studio_api_key:
            return []
        try:
            found = self._next_tasks.after(opened.project_id, opened.task.id, self._settings.warm_tasks)
        except EXPECTED as error:
            # once: the same is wrong with every task
            log.log(
                logging.DEBUG if self._complained else logging.WARNING,
                "the tasks after an opened one are not known, so they are not encoded ahead: %s", type(error).__name__,
            )  # fmt: skip
            self._complained = True
            return []
        return [task for task in found if task.id != opened.task.id]

    def _prepare(self, task: Task, config: LabelConfig) -> int | None:
        """Bytes of what is now there for a first click on the first page; 0 when it can't be, None: not now."""
        try:
            frames = self._frames_of(task, config)
            if frames is None:
                return 0
            session = self._engines.wait(self._settings.load_wait).open(frames, key=frames.key)
            try:
                return session.prepare(0)
            finally:
                session.close()
        except BusyError:
            return None
        except (MediaError, LabelConfigError) as error:
            log.info("a picture could not be encoded ahead: %s", type(error).__name__)
            return 0
        except EXPECTED as error:
            log.info("pictures are not encoded ahead now: %s", type(error).__name__)
            return None


def _remember(kept: OrderedDict, key: Key, value: object, most: int) -> None:
    """Puts an entry last and drops the oldest ones."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)

"""The one thread that owns the device.

Work waits in order of priority, within a priority in order of arrival. Long work (a track, a batch) is handed in frame
by frame, so a click waits for one frame at most. A newer job with the same ``replaces`` key takes the place of an older
one that still waits; the older caller gets :class:`CancelledError`. Which one is newer is decided by its :class:`Turn`,
not by who reaches the queue first.

Jobs that say so (:class:`Joint`) are done together with those of their kind that wait beside them. Where that fails,
each is done by itself, so that only the caller is told whose job it was.

A thread that breaks is replaced and its job's caller told. A job that hangs can't be stopped from outside; while it
does, callers are told so instead of being kept waiting, and the vitals say that the device does not respond.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from x2sam.errors import BusyError, CancelledError, DeviceError
from x2sam.stages import spent
from x2sam.vitals import EngineVitals, QueueVitals

log = logging.getLogger(__name__)

REMEMBERED_TURNS = 4096
_YIELDING = 5  # more niceness than the rest of the process: short requests between its steps get a core at once
_OVERDUE = 20.0  # seconds after which what was asked in bulk takes turns with tracks, of which a frame always waits
_LOOK_UP = 1.0  # seconds after which a waiting caller looks whether the device hangs


class Priority(IntEnum):
    CLICK = 0
    TEXT = 1
    TRACK = 2
    BATCH = 3


@dataclass(frozen=True)
class Turn:
    """The place of a request among those with the same ``key``: only the one with the highest ``number`` is answered.

    A request that consists of several jobs hands the same turn to all of them, so that a late one of an older request
    never takes the place of a newer request.
    """

    key: str
    number: int


@dataclass(frozen=True, eq=False)
class Joint:
    """A job that may be done together with others of the same ``key``: ``work`` takes the items of several and gives
    their results in the same order. Jobs whose key is None are done alone."""

    key: Hashable
    item: Any
    work: Callable[[list[Any]], list[Any]]

    def __call__(self) -> Any:
        (result,) = self.work([self.item])
        return result

    @classmethod
    def alone(cls, job: Callable[[], Any]) -> Joint:
        return cls(None, None, lambda _: [job()])


@dataclass(order=True)
class _Job:
    priority: int
    arrival: int
    joint: Joint = field(compare=False)
    turn: Turn | None = field(compare=False)
    future: Future = field(default_factory=Future, compare=False)
    context: contextvars.Context = field(default_factory=contextvars.copy_context, compare=False)
    since: float = field(default_factory=time.monotonic, compare=False)  # when it began to wait


class Scheduler:
    """``limit`` jobs may wait, a quarter of the places being kept for people; ``timeout`` seconds is what a caller
    waits at most unless it says otherwise; a job that takes longer than ``hang`` seconds is taken for stuck; so many
    are done ``together`` at most."""

    def __init__(self, limit: int = 64, timeout: float = 120.0, hang: float = 120.0, together: int = 1):
        self._limit, self._timeout, self._hang = limit, timeout, hang
        self.together = together
        self._queue: list[_Job] = []
        self._arrival = itertools.count()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._ready = threading.Condition()
        self._running: list[_Job] = []
        self._begun = 0.0  # when those that run began
        self._closed = False
        self._restarts = 0
        self._obliged = False  # the job before was one that was overdue
        self._begin()

    def run(
        self,
        job: Callable[[], Any],
        priority: Priority = Priority.CLICK,
        replaces: str | Turn | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The job's result, computed on the device's thread in the caller's context; its exception is raised here.

        Raises BusyError when too much waits or the answer takes longer than ``timeout`` seconds, CancelledError when
        a newer job took this one's place (``replaces``: a turn, or a key to take the newest turn of) or the scheduler
        was closed, DeviceError when the thread broke or hangs.
        """
        return self.run_all([Joint.alone(job)], priority, replaces, timeout)[0]

    def run_all(
        self,
        jobs: Sequence[Joint],
        priority: Priority = Priority.CLICK,
        replaces: str | Turn | None = None,
        timeout: float | None = None,
    ) -> list[Any]:
        """The results of several jobs of one caller, who waits for all of them. They are queued at once, so that those
        of the same key go together. Raises like :meth:`run`, for the first that fails; the others are given up then."""
        if threading.current_thread() is self._thread:
            return [job() for job in jobs]  # a job may call code that also serves other threads
        turn = self.turn(replaces) if isinstance(replaces, str) else replaces
        entries = [_Job(int(priority), next(self._arrival), job, turn) for job in jobs]
        with self._ready:
            self._admit(entries, priority, turn)
            for entry in entries:
                heapq.heappush(self._queue, entry)
            self._ready.notify()
        seconds = self._timeout if timeout is None else timeout
        until = time.monotonic() + seconds
        try:
            return [self._result(entry, until, seconds) for entry in entries]
        except BaseException:
            for entry in entries:
                self._abandon(entry)
            raise

    def turn(self, key: str) -> Turn:
        """The newest turn of a key. To be taken when a request arrives."""
        return Turn(key, next(self._arrival))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def vitals(self) -> EngineVitals:
        """What waits and runs; never blocks on a job."""
        now = time.monotonic()
        with self._ready:
            ages: dict[int, list[float]] = {int(priority): [] for priority in Priority}
            for entry in self._queue:
                ages[entry.priority].append(now - entry.since)
            queues = {p.name.lower(): QueueVitals(len(ages[p]), max(ages[p], default=0.0)) for p in Priority}
            running = self._running_seconds()
            return EngineVitals(queues, running, not self._stuck() and not self._closed, self._restarts)

    def close(self, timeout: float | None = 30.0) -> None:
        """Cancels what waits, lets the running job finish (waiting for it at most so long) and ends the thread."""
        with self._ready:
            self._closed = True
            for entry in self._queue:
                entry.future.set_exception(CancelledError("the engine was closed before this could run"))
            self._queue.clear()
            self._ready.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _admit(self, entries: Sequence[_Job], priority: Priority, turn: Turn | None) -> None:
        """Raises when there is no place for all of some jobs."""
        if self._closed:
            raise CancelledError("the engine is closed; open a new one")
        if not self._thread.is_alive():  # it could not be started again, or this process is a fork
            self._begin()
        self._check_stuck()
        if turn is not None:
            self._supersede(turn)
        room = self._limit if priority < Priority.TRACK else self._limit - self._limit // 4
        if len(self._queue) + len(entries) > room:
            raise BusyError(f"{len(self._queue)} requests wait already; try again in a moment")

    def _result(self, entry: _Job, until: float, seconds: float) -> Any:
        while True:
            try:
                return entry.future.result(max(0.0, min(until - time.monotonic(), _LOOK_UP)))
            except FutureTimeoutError as error:
                if entry.future.done():  # in the last instant, or the job itself ran into a timeout
                    return entry.future.result()
                self._check_stuck()
                if time.monotonic() >= until:
                    raise BusyError(f"no answer within {seconds:g} s; the device is busy, try again") from error

    def _running_seconds(self) -> float | None:
        return time.monotonic() - self._begun if self._running else None

    def _stuck(self) -> bool:
        return (self._running_seconds() or 0.0) > self._hang

    def _check_stuck(self) -> None:
        if self._stuck():
            raise DeviceError(
                f"the device has not come back from one step for more than {self._hang:g} s; wait for it, or restart "
                "the server"
            )

    def _abandon(self, entry: _Job) -> None:
        """Nobody waits for this any more: out of the queue, or its result is thrown away."""
        with self._ready:
            self._queue = [e for e in self._queue if e is not entry]
            heapq.heapify(self._queue)
            entry.future.cancel()

    def _supersede(self, turn: Turn) -> None:
        """Cancels what waits with an older turn; raises CancelledError when this one is the older."""
        if self._newest.get(turn.key, turn.number) > turn.number:
            raise CancelledError("a newer request took the place of this one")
        self._newest[turn.key] = turn.number
        self._newest.move_to_end(turn.key)
        if len(self._newest) > REMEMBERED_TURNS:
            self._newest.popitem(last=False)
        for entry in [e for e in self._queue if e.turn and e.turn.key == turn.key and e.turn.number < turn.number]:
            self._queue.remove(entry)
            entry.future.set_exception(CancelledError("a newer request took the place of this one"))
        heapq.heapify(self._queue)

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._live, name="x2sam-device", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        """The thread: works until the scheduler is closed; should it break, another one takes over."""
        if sys.platform == "linux":  # elsewhere the priority is that of a whole process
            niceness = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + _YIELDING, 19)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        try:
            self._work()
        except BaseException as error:
            log.error("the device's thread broke (%s); a new one takes over", type(error).__name__)
            with self._ready:
                broken, self._running = self._running, []
                self._restarts += 1
                if not self._closed:
                    self._begin()
            told = DeviceError("the device's thread broke during this request and was started again; try again")
            told.__cause__ = error
            for entry in broken:
                if not entry.future.done():
                    entry.future.set_exception(told)

    def _work(self) -> None:
        while group := self._next():
            self._answer([entry for entry in group if entry.future.set_running_or_notify_cancel()])
            self._running = []
            del group  # what a job holds must not live on until the next one

    def _answer(self, group: Sequence[_Job]) -> None:
        if len(group) > 1 and self._answer_together(group):
            return
        for entry in group:
            self._begun = time.monotonic()
            try:
                entry.future.set_result(entry.context.run(entry.joint))
            except Exception as error:  # handed to the caller, who waits for it
                entry.future.set_exception(error)

    def _answer_together(self, group: Sequence[_Job]) -> bool:
        """Whether that went well; otherwise nobody was told anything yet, and each is to be done by itself."""
        first = group[0]
        try:
            results = first.context.run(first.joint.work, [entry.joint.item for entry in group])
            told = list(zip(group, results, strict=True))
        except Exception as error:
            log.warning("%d requests could not be answered together (%s)", len(group), type(error).__name__)
            return False
        for entry, result in told:
            entry.future.set_result(result)
        return True

    def _next(self) -> list[_Job]:
        """The next job and those that go with it, marked as running; none when the scheduler was closed."""
        with self._ready:
            while not self._queue and not self._closed:
                self._ready.wait()
            if self._closed:
                return []
            first = self._take_first()
            group = [first, *self._companions(first)]
            self._begun, self._running = time.monotonic(), group
        for entry in group:
            entry.context.run(spent, "wait", self._begun - entry.since)
        return group

    def _take_first(self) -> _Job:
        """The most urgent job; every second time before a frame of a track, one that is overdue."""
        now, first = time.monotonic(), self._queue[0]
        overdue = [e for e in self._queue if e.priority == Priority.BATCH and now - e.since > _OVERDUE]
        self._obliged = bool(overdue) and first.priority == Priority.TRACK and not self._obliged
        if not self._obliged:
            return heapq.heappop(self._queue)
        first = min(overdue)
        self._queue.remove(first)
        heapq.heapify(self._queue)
        return first

    def _companions(self, first: _Job) -> list[_Job]:
        """Takes what is done together with a job out of the queue, those that came first."""
        if first.joint.key is None or self.together < 2:
            return []
        alike = [e for e in self._queue if e.priority == first.priority and e.joint.key == first.joint.key]
        alike = sorted(alike)[: self.together - 1]
        if alike:
            taken = set(map(id, alike))
            self._queue = [e for e in self._queue if id(e) not in taken]
            heapq.heapify(self._queue)
        return alike

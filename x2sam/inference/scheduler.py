"""The one thread that owns the device.

Work waits in order of priority, within a priority in order of arrival. Long work (a track, a batch) is handed in frame
by frame, so a click waits for one frame at most. A newer job with the same ``replaces`` key takes the place of an older
one that still waits; the older caller gets :class:`CancelledError`. Which one is newer is decided by its :class:`Turn`,
not by who reaches the queue first.

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
from collections.abc import Callable
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


@dataclass(order=True)
class _Job:
    priority: int
    arrival: int
    work: Callable[[], Any] = field(compare=False)
    turn: Turn | None = field(compare=False)
    future: Future = field(default_factory=Future, compare=False)
    context: contextvars.Context = field(default_factory=contextvars.copy_context, compare=False)
    since: float = field(default_factory=time.monotonic, compare=False)  # when it began to wait
    begun: float = field(default=0.0, compare=False)  # when it began to run

    def __call__(self) -> Any:
        """The work, in the context of whoever asked for it."""
        self.context.run(spent, "wait", self.begun - self.since)
        return self.context.run(self.work)


class Scheduler:
    """``limit`` jobs may wait, a quarter of the places being kept for people; ``timeout`` seconds is what a caller
    waits at most unless it says otherwise; a job that takes longer than ``hang`` seconds is taken for stuck."""

    def __init__(self, limit: int = 64, timeout: float = 120.0, hang: float = 120.0):
        self._limit, self._timeout, self._hang = limit, timeout, hang
        self._queue: list[_Job] = []
        self._arrival = itertools.count()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._ready = threading.Condition()
        self._running: _Job | None = None
        self._closed = False
        self._restarts = 0
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
        if threading.current_thread() is self._thread:
            return job()  # a job may call code that also serves other threads
        turn = self.turn(replaces) if isinstance(replaces, str) else replaces
        entry = _Job(int(priority), next(self._arrival), job, turn)
        with self._ready:
            self._admit(entry)
            heapq.heappush(self._queue, entry)
            self._ready.notify()
        return self._result(entry, self._timeout if timeout is None else timeout)

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

    def _admit(self, entry: _Job) -> None:
        """Raises when there is no place for a job."""
        if self._closed:
            raise CancelledError("the engine is closed; open a new one")
        if not self._thread.is_alive():  # it could not be started again, or this process is a fork
            self._begin()
        self._check_stuck()
        if entry.turn is not None:
            self._supersede(entry.turn)
        room = self._limit if entry.priority < Priority.TRACK else self._limit - self._limit // 4
        if len(self._queue) >= room:
            raise BusyError(f"{len(self._queue)} requests wait already; try again in a moment")

    def _result(self, entry: _Job, seconds: float) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                return entry.future.result(max(0.0, min(until - time.monotonic(), _LOOK_UP)))
            except FutureTimeoutError as error:
                if entry.future.done():  # in the last instant, or the job itself ran into a timeout
                    return entry.future.result()
                try:
                    self._check_stuck()
                    if time.monotonic() >= until:
                        raise BusyError(f"no answer within {seconds:g} s; the device is busy, try again") from error
                except (BusyError, DeviceError):
                    self._abandon(entry)
                    raise

    def _running_seconds(self) -> float | None:
        running = self._running
        return None if running is None else time.monotonic() - running.begun

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
                broken, self._running = self._running, None
                self._restarts += 1
                if not self._closed:
                    self._begin()
            if broken is not None and not broken.future.done():
                told = DeviceError("the device's thread broke during this request and was started again; try again")
                told.__cause__ = error
                broken.future.set_exception(told)

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            if entry.future.set_running_or_notify_cancel():
                try:
                    entry.future.set_result(entry())
                except Exception as error:  # handed to the caller, who waits for it
                    entry.future.set_exception(error)
            self._running = None
            del entry  # what a job holds must not live on until the next one

    def _next(self) -> _Job | None:
        """The next job, marked as the running one; None when the scheduler was closed."""
        with self._ready:
            while not self._queue and not self._closed:
                self._ready.wait()
            if self._closed:
                return None
            entry = heapq.heappop(self._queue)
            entry.begun = time.monotonic()
            self._running = entry
            return entry

"""The one thread that owns the device.

Work waits in order of priority, within a priority in order of arrival. Long work (a track, a batch) is handed in frame
by frame, so a click waits for one frame at most. A newer job with the same ``replaces`` key takes the place of an older
one that still waits; the older caller gets :class:`CancelledError`. Which one is newer is decided by its :class:`Turn`,
not by who reaches the queue first.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from x2sam.errors import BusyError, CancelledError

REMEMBERED_TURNS = 4096


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


class Scheduler:
    """``limit`` jobs may wait; ``timeout`` seconds is what a caller waits at most unless it says otherwise."""

    def __init__(self, limit: int = 64, timeout: float = 120.0):
        self._limit, self._timeout = limit, timeout
        self._queue: list[tuple[int, int, Future, Callable[[], Any], Turn | None]] = []
        self._arrival = itertools.count()
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="x2sam-device", daemon=True)
        self._thread.start()

    def run(
        self,
        job: Callable[[], Any],
        priority: Priority = Priority.CLICK,
        replaces: str | Turn | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The job's result, computed on the device's thread; its exception is raised here.

        Raises BusyError when too much waits or the answer takes longer than ``timeout`` seconds, CancelledError when
        a newer job took this one's place (``replaces``: a turn, or a key to take the newest turn of) or the scheduler
        was closed.
        """
        if threading.current_thread() is self._thread:
            return job()  # a job may call code that also serves other threads
        future: Future = Future()
        turn = self.turn(replaces) if isinstance(replaces, str) else replaces
        with self._ready:
            if self._closed:
                raise CancelledError("the engine is closed; open a new one")
            if turn is not None:
                self._supersede(turn)
            if len(self._queue) >= self._limit:
                raise BusyError(f"{len(self._queue)} requests wait already; try again in a moment")
            heapq.heappush(self._queue, (int(priority), next(self._arrival), future, job, turn))
            self._ready.notify()
        seconds = self._timeout if timeout is None else timeout
        try:
            return future.result(seconds)
        except FutureTimeoutError as error:
            if future.done():  # in the last instant, or the job itself ran into a timeout
                return future.result()
            self._abandon(future)
            raise BusyError(f"no answer within {seconds:g} s; the device is busy, try again") from error

    def turn(self, key: str) -> Turn:
        """The newest turn of a key. To be taken when a request arrives."""
        return Turn(key, next(self._arrival))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        """Finishes the running job, cancels the waiting ones and ends the thread."""
        with self._ready:
            self._closed = True
            for *_, future, _job, _key in self._queue:
                future.set_exception(CancelledError("the engine was closed before this could run"))
            self._queue.clear()
            self._ready.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _abandon(self, future: Future) -> None:
        """Nobody waits for this any more: out of the queue, or its result is thrown away."""
        with self._ready:
            self._queue = [e for e in self._queue if e[2] is not future]
            heapq.heapify(self._queue)
            future.cancel()

    def _supersede(self, turn: Turn) -> None:
        """Cancels what waits with an older turn; raises CancelledError when this one is the older."""
        if self._newest.get(turn.key, turn.number) > turn.number:
            raise CancelledError("a newer request took the place of this one")
        self._newest[turn.key] = turn.number
        self._newest.move_to_end(turn.key)
        if len(self._newest) > REMEMBERED_TURNS:
            self._newest.popitem(last=False)
        for entry in [e for e in self._queue if e[4] and e[4].key == turn.key and e[4].number < turn.number]:
            self._queue.remove(entry)
            entry[2].set_exception(CancelledError("a newer request took the place of this one"))
        heapq.heapify(self._queue)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closed:
                    self._ready.wait()
                if self._closed:
                    return
                _, _, future, job, _ = heapq.heappop(self._queue)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # handed to the caller, who waits for it
                future.set_exception(error)
            del future, job  # what a job holds must not live on until the next one

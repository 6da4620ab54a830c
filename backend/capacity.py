"""How many annotators engines carry: a simulation of who waits for whom, from measured times of the engine's steps.

Each engine works on one step at a time, as its device's thread does: clicks first, then frames of tracks, then
pictures that are encoded ahead; a step that has begun is finished. Annotators click, think, and go to the next picture
after some clicks; a picture belongs to one engine (:mod:`backend.ray_engine`). What a click waits for beyond the engine
(network, shaping the answer) comes on top.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from backend.errors import BadRequestError

_WARM_UP = 0.1  # share of the time at the beginning that does not count
_MOST_PEOPLE = 1 << 14
_CLICKS = 6000  # about as many are enough for a 95th percentile


class Kind(IntEnum):
    """Steps in the order in which an engine takes them."""

    CLICK = 0
    FRAME = 1
    AHEAD = 2


@dataclass(frozen=True)
class Steps:
    """Measured seconds, of which each simulated step takes one at random. ``first``: a click on a picture that was not
    encoded; ``following``: any other click; ``frame``: a frame of a track; ``encode``: a picture encoded ahead."""

    first: Sequence[float]
    following: Sequence[float]
    frame: Sequence[float]
    encode: Sequence[float]


@dataclass(frozen=True)
class Work:
    """``think``: mean seconds between an answer and the next click (exponential); ``clicks`` on each picture; ``look``:
    seconds from opening a picture to the first click; ``ahead``: pictures are encoded when they are opened; ``tracks``
    that run without end."""

    think: float = 3.0
    clicks: int = 5
    look: float = 2.0
    ahead: bool = True
    tracks: int = 0


@dataclass
class _Engine:
    waiting: list[tuple[int, int, object]] = field(default_factory=list)
    busy: bool = False


@dataclass
class _Person:
    engine: int
    picture: int = 0
    made: int = 0
    asked: float = 0.0


class Simulation:
    """``people`` at ``engines`` for ``seconds`` of their time; ``latencies`` are those of the clicks, in seconds."""

    def __init__(self, steps: Steps, work: Work, people: int, engines: int, seconds: float, seed: int = 0):
        self._steps, self._work, self._seconds = steps, work, seconds
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, object, tuple]] = []
        self._engines = [_Engine() for _ in range(engines)]
        self._encoded: set[tuple[int, int]] = set()
        self._people = [_Person(self._random.randrange(engines)) for _ in range(people)]
        self.latencies: list[float] = []

    def run(self) -> Simulation:
        for number in range(len(self._people)):
            self._at(self._random.random() * self._work.think, self._opened, number)
        for track in range(self._work.tracks):
            self._put(0.0, track % len(self._engines), Kind.FRAME, ("frame", track))
        while self._events:
            now, _, happens, arguments = heapq.heappop(self._events)
            if now > self._seconds:
                break
            happens(now, *arguments)
        return self

    def _at(self, when: float, happens: object, *arguments: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens, arguments))

    def _opened(self, now: float, number: int) -> None:
        person = self._people[number]
        person.picture, person.made = person.picture + 1, 0
        person.engine = self._random.randrange(len(self._engines))
        if self._work.ahead:
            self._put(now, person.engine, Kind.AHEAD, ("encode", number, person.picture))
        self._at(now + self._work.look, self._clicked, number)

    def _clicked(self, now: float, number: int) -> None:
        person = self._people[number]
        person.asked = now
        self._put(now, person.engine, Kind.CLICK, ("click", number, person.picture))

    def _put(self, now: float, engine: int, kind: Kind, job: tuple) -> None:
        heapq.heappush(self._engines[engine].waiting, (kind, next(self._order), job))
        self._take(now, engine)

    def _take(self, now: float, number: int) -> None:
        engine = self._engines[number]
        if engine.busy or not engine.waiting:
            return
        _, _, job = heapq.heappop(engine.waiting)
        engine.busy = True
        self._at(now + self._cost(job), self._done, number, job)

    def _cost(self, job: tuple) -> float:
        known = job[1:] in self._encoded
        if job[0] == "encode":
            return 0.0 if known else self._random.choice(self._steps.encode)
        if job[0] == "frame":
            return self._random.choice(self._steps.frame)
        return self._random.choice(self._steps.following if known else self._steps.first)

    def _done(self, now: float, number: int, job: tuple) -> None:
        self._engines[number].busy = False
        if job[0] == "frame":
            self._put(now, number, Kind.FRAME, job)
        else:
            self._encoded.add(job[1:])
        if job[0] == "click":
            self._answered(now, job[1])
        self._take(now, number)

    def _answered(self, now: float, number: int) -> None:
        person = self._people[number]
        if now >= self._seconds * _WARM_UP:
            self.latencies.append(now - person.asked)
        person.made += 1
        happens = self._opened if person.made >= self._work.clicks else self._clicked
        if happens == self._opened:
            self._encoded.discard((number, person.picture))
        self._at(now + self._random.expovariate(1 / self._work.think), happens, number)


def p95(steps: Steps, work: Work, people: int, engines: int, seconds: float = 600.0, seeds: int = 3) -> float:
    """The 95th percentile of clicks' latencies in seconds, the median of some runs; of many people a shorter time."""
    seconds = max(min(seconds, _CLICKS * work.think / people), 20 * (work.look + work.think))
    runs = (Simulation(steps, work, people, engines, seconds, seed).run().latencies for seed in range(seeds))
    return float(np.median([np.percentile(run, 95) if run else np.inf for run in runs]))


def carried(steps: Steps, work: Work, engines: int, limit: float = 0.2, seconds: float = 600.0) -> int:
    """The largest number of people whose p95 stays within ``limit`` seconds; 0 when one alone waits longer."""
    if p95(steps, work, 1, engines, seconds) > limit:
        return 0
    good, bad = 1, 2
    while bad < _MOST_PEOPLE and p95(steps, work, bad, engines, seconds) <= limit:
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 50):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if p95(steps, work, middle, engines, seconds) <= limit else (good, middle)
    return good


def steps_of(bench: Mapping[str, Any]) -> Steps:
    """Steps from what ``python -m x2sam bench --json`` wrote; one click in twenty takes its p95.

    :raises BadRequestError: it is no such file.
    """
    try:
        first, frames = bench["first_click_ms"] / 1e3, float(bench["track_fps"]["1"])
        usual, slow = (bench["next_click_ms"][name] / 1e3 for name in ("p50", "p95"))
        frame = 1 / frames
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadRequestError("That is no result of 'python -m x2sam bench --json FILE'.") from error
    return Steps([first], [usual] * 19 + [slow], [frame], [max(first - usual, 0.0)])

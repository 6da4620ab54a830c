"""Objects carried over the pages of a task, step by step: where walks begin, what is left to walk, what was found.

A walk that was interrupted, or whose objects were corrected, is gone on with: pages that are found are not walked
again. Known masks enter the memory as before; of what was found itself, the pages just before the first one that is
missing do, as masks that are neither pinned nor met. What differs from a walk without interruption: the memory holds
those pages' masks as they were shown, not as the network saw them; what an object looks like is learned from known
masks and those few pages only; and on the way to a known mask that lies ahead, pages are begun anew from the last page
that was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backend.carried import Carried, Known
from backend.engines import Engine, Session
from backend.errors import EngineLostError, MediaError, MediaTimeoutError
from backend.remembered import PackedMask
from x2sam.errors import FramesError
from x2sam.structures import FrameMasks

_COMMAND = re.compile(r"track(?:\s+(?:(forward|backward)s?|([1-9]\d{0,4})(?:\s+pages?)?))?\s*[.!]*", re.IGNORECASE)
_CONTINUE = re.compile(r"continue\s*[.!]*", re.IGNORECASE)
_STOP = re.compile(r"(?:stop|cancel)(?:\s+(?:track|tracking|it))?\s*[.!]*", re.IGNORECASE)
_LOCK = re.compile(r"lock(?:\s+(all)(?:\s+pages)?)?\s*[.!]*", re.IGNORECASE)
_GONE = re.compile(r"(?:gone|not\s+here)\s*[.!]*", re.IGNORECASE)
_LOST_ENGINES = 3  # under one walk, which goes on from what was found
_SEEDS = 5  # pages that a walk is gone on with from: as many as the network's memory holds


@dataclass(frozen=True)
class Reach:
    """How far to carry. ``direction`` is ``forward``, ``backward`` or ``both``; ``pages`` ends it so many pages after
    ``page``, or after the first page where an object is known. ``earlier``: what was on the pages of the task before
    comes along."""

    direction: str = "both"
    pages: int | None = None
    page: int | None = None
    earlier: bool = False


@dataclass(frozen=True)
class Order:
    """What a command asks for: ``track``, ``stop``, ``lock`` or ``gone``; a lock is on one ``page``, or on all where
    None, what is gone is so on the ``page``."""

    kind: str
    reach: Reach = Reach()
    page: int | None = None


def order_of(text: str, page: int | None = None) -> Order | None:
    """The command in a text typed on ``page``; None for other texts."""
    reach = command_of(text, page)
    if reach is not None:
        return Order("track", reach)
    if _STOP.fullmatch(text.strip()):
        return Order("stop")
    if _GONE.fullmatch(text.strip()):
        return Order("gone", page=page)
    locked = _LOCK.fullmatch(text.strip())
    return Order("lock", page=None if locked[1] else page) if locked else None


def command_of(text: str, page: int | None = None) -> Reach | None:
    """The command ``track``, ``track forward``, ``track backward``, ``track 20`` or ``continue`` typed on ``page``;
    None for other texts."""
    if _CONTINUE.fullmatch(text.strip()):
        return Reach(earlier=True)
    found = _COMMAND.fullmatch(text.strip())
    if found is None:
        return None
    if found[2]:
        return Reach("forward", int(found[2]), page)
    return Reach(found[1].lower() if found[1] else "both")


@dataclass(frozen=True, eq=False)
class _Leg:
    """A walk in one direction from the first known page of its objects up to ``end``, without the pages ``skip``.
    ``known`` are masks by object and page, ``seeds`` those that an earlier walk found."""

    direction: str
    known: Mapping[str, Mapping[int, Known]]
    end: int
    seeds: Mapping[str, Mapping[int, Known]] = field(default_factory=dict)
    skip: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Stride:
    """New masks of a page, by object."""

    page: int
    masks: Mapping[str, Known]


class Track:
    """Objects on their way over the pages. Forward they meet what is known further on from both sides; backward they
    go from where each is known first. One thread at a time may use it.

    found:  masks by page and object, those that are known included
    wanted: the pages of each object that the walk comes by
    """

    def __init__(
        self, open_session: Callable[[], Session], pages: int, objects: Sequence[Carried], reach: Reach,
        found: Mapping[int, Mapping[str, Known]] | None = None,
    ):  # fmt: skip
        self.objects, self.pages = objects, pages
        self._open = open_session
        self._legs, self.wanted = _legs(objects, reach, pages)
        self.found: dict[int, dict[str, Known]] = {}
        for one in objects:
            for page, known in one.known.items():
                if page in self.wanted[one.object_id]:
                    self.found.setdefault(page, {})[one.object_id] = known
        for page, masks in (found or {}).items():
            for name, known in masks.items():
                if page in self.wanted.get(name, ()):
                    self.found.setdefault(page, {}).setdefault(name, known)

    @property
    def done(self) -> int:
        """Pages on which every object that should come by has come by."""
        return sum(all(name in self.found.get(page, ()) for name in names) for page, names in self._by_page().items())

    @property
    def total(self) -> int:
        return len(self._by_page())

    def walk(self) -> Iterator[Stride | None]:
        """What is new, page by page; None after each step whose masks come later, or that found nothing new.

        :raises BackendError, X2SAMError: a page can't be fetched or read; what was found before it stays, and pages on
            the other side of where objects are known are walked first.
        """
        problem: Exception | None = None
        for whole in self._legs:
            try:
                yield from self._leg_walked(whole)
            except MediaTimeoutError:
                raise  # the next page would take as long
            except (FramesError, MediaError) as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def _leg_walked(self, whole: _Leg) -> Iterator[Stride | None]:
        lost = 0
        while (leg := _left(whole, self.found)) is not None:
            try:
                yield from self._walked(leg)
                break
            except EngineLostError:
                lost += 1
                if lost > _LOST_ENGINES:
                    raise

    def _walked(self, leg: _Leg) -> Iterator[Stride | None]:
        # A session of its own: what is known now counts, not what other requests have left in a shared one.
        session = self._open()
        try:
            yield from self._begun(session, leg)
            stop = leg.end + 1 if leg.direction == "forward" else self.pages
            start = 0 if leg.direction == "forward" else leg.end
            for masks in session.track(list(leg.known), start, stop, leg.direction, pauses=True, skip=leg.skip):
                yield self._taken(masks) if masks is not None else None
        finally:
            session.close()

    def _begun(self, session: Session, leg: _Leg) -> Iterator[None]:
        for name, known in leg.known.items():
            # An object is made from a mask that shows it; empty ones come after.
            for page, one in sorted(known.items(), key=lambda item: (item[1].mask.box is None, item[0])):
                session.correct(page, name, one.mask.unpack())
                yield None
            for page, one in leg.seeds.get(name, {}).items():
                session.recall(page, name, one.mask.unpack(), one.score)

    def _taken(self, masks: FrameMasks) -> Stride | None:
        here = self.found.setdefault(masks.frame, {})
        new = {
            mask.object_id: Known(PackedMask.of(mask.mask), mask.score, mask.doubt)
            for mask in masks.masks
            if mask.object_id not in here and masks.frame in self.wanted[mask.object_id]
        }
        here |= new
        return Stride(masks.frame, new) if new else None

    def _by_page(self) -> dict[int, list[str]]:
        pages: dict[int, list[str]] = {}
        for name, wanted in self.wanted.items():
            for page in wanted:
                pages.setdefault(page, []).append(name)
        return pages


def session_opener(engine: Engine, frames: Sequence, key: str) -> Callable[[], Session]:
    """Opens sessions on the same frames; they share features."""
    return lambda: engine.open(frames, key=key)


def pages_wanted(objects: Sequence[Carried], reach: Reach, pages: int) -> dict[str, set[int]]:
    """The pages of each object that a walk comes by."""
    return _legs(objects, reach, pages)[1]


def untouched(now: Carried, before: Carried, found: Mapping[int, Mapping[str, Known]]) -> dict[int, Known]:
    """What an earlier track found of an object that what is known now does not change: pages between the same known
    masks as before."""
    same = {page: one for page, one in found.items() if now.object_id in one and page not in now.known}
    kept = {}
    for page, masks in same.items():
        if _neighbours(now, page) == _neighbours(before, page):
            kept[page] = masks[now.object_id]
    return kept


def _neighbours(one: Carried, page: int) -> list[tuple[int, PackedMask] | None]:
    """The known masks on both sides of a page."""
    before = max((known for known in one.known if known <= page), default=None)
    after = min((known for known in one.known if known >= page), default=None)
    return [None if known is None else (known, one.known[known].mask) for known in (before, after)]


def _legs(objects: Sequence[Carried], reach: Reach, pages: int) -> tuple[list[_Leg], dict[str, set[int]]]:
    """The walks, and the pages of each object that they come by. A walk begins where an object is seen; pages with
    numbers below 0 are of the task before: walks begin there, but nothing is wanted of them."""
    first, last = ({one.object_id: one.seen[end] for one in objects} for end in (0, -1))
    if reach.direction == "backward":
        known = {one.object_id: _between(one, 0, last[one.object_id]) for one in objects if one.seen[-1] >= 0}
        wanted = {name: set(range(page + 1)) for name, page in last.items()}
        return [_Leg("backward", known, 0)] if known else [], wanted
    stop = pages
    if reach.pages is not None:
        begin = reach.page if reach.page is not None else max(min(first.values()), 0)
        stop = min(pages, begin + reach.pages + 1)
    wanted = {name: set(range(max(page, 0), stop)) for name, page in first.items()}
    ahead = {one.object_id: _between(one, first[one.object_id], stop - 1) for one in objects}
    legs = [_Leg("forward", {name: known for name, known in ahead.items() if known}, stop - 1)]
    if reach.direction == "both" and any(page > 0 for page in first.values()):
        # What is known further on was met on the way forward.
        behind = {one.object_id: _between(one, 0, first[one.object_id]) for one in objects if one.seen[0] >= 0}
        legs.append(_Leg("backward", behind, 0))
        wanted = {name: every | set(range(first[name])) for name, every in wanted.items()}
    return [leg for leg in legs if leg.known], wanted


def _between(one: Carried, first: int, last: int) -> dict[int, Known]:
    return {page: known for page, known in one.known.items() if first <= page <= last}


def _left(leg: _Leg, found: Mapping[int, Mapping[str, Known]]) -> _Leg | None:
    """What is left of a walk: the objects with missing pages, from known masks and the pages before the first one that
    is missing, to the last one or the known mask behind it. None where nothing is missing."""
    way = 1 if leg.direction == "forward" else -1
    ranges = {name: range(min(k * way for k in known), leg.end * way + 1) for name, known in leg.known.items()}
    missing = {
        name: [step for step in steps if step * way >= 0 and name not in found.get(step * way, ())]
        for name, steps in ranges.items()
    }
    names = [name for name, steps in missing.items() if steps]
    if not names:
        return None
    first = min(missing[name][0] for name in names)
    end = first
    for name in names:
        last = missing[name][-1]
        end = max(end, min((k * way for k in leg.known[name] if k * way > last), default=last))
    known = {name: {k: one for k, one in leg.known[name].items() if k * way <= end} for name in names}
    seeds = {name: _seeds(known[name], found, name, ranges[name], first, end, way) for name in names}
    needed = {page for pages in (*known.values(), *seeds.values()) for page in pages}
    begin = min(ranges[name].start for name in names)
    skip = frozenset(step * way for step in range(begin, first) if step * way not in needed)
    return _Leg(leg.direction, known, end * way, seeds, skip)


def _seeds(
    known: Mapping[int, Known], found: Mapping[int, Mapping[str, Known]], name: str, steps: range, first: int,
    end: int, way: int,
) -> dict[int, Known]:  # fmt: skip
    """What was found just before and behind the first missing page; ``steps`` are pages times ``way``."""
    pages = [step * way for step in range(max(steps.start, first - _SEEDS), end + 1)]
    return {page: found[page][name] for page in pages if page not in known and name in found.get(page, ())}

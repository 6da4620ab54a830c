"""Words over a whole clip, step by step: other requests get in between, and whoever asks may stop at any time.

Two ways. ``fifo`` is the paper's: the words are read once, every frame is streamed through one memory, and ids go from
frame to frame. By default a bounded, evenly spread sample of the frames is looked at, each by itself, and what is the
same thing on several of them is joined (:mod:`x2sam.inference.clip_join`): so an object is known where it is seen
best, an error on one frame stays there, and the cost of finding does not grow with the clip.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from x2sam.data.tasks import Task
from x2sam.inference.clip_join import MOST_OBJECTS, Group, Joining
from x2sam.inference.clip_objects import ClipObject, Finding, Sighting
from x2sam.inference.clip_stream import ClipStream
from x2sam.inference.meeting import Stop
from x2sam.inference.scheduler import Priority, Turn
from x2sam.inference.walk import Anchor, ObjectTrack
from x2sam.inference.worded import Worded, answer_on, masks_of, read_words
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.session import Session

SAMPLED = 8
"""Frames that are looked at: as many as the published training and benchmarks ask about at a time."""
CARRIED_AT_ONCE = 8
"""Objects that are carried in one step: whoever clicks meanwhile waits for no more."""
STREAMED_OBJECTS = 256
"""Of a stream: the objects that are remembered with their surest mask, those that were seen last."""


class ClipSearch:
    """Made by :meth:`x2sam.inference.session.Session.find_in_clip`. Iterate to search; what was found so far can be
    had at any time with :meth:`found`. One thread at a time may use it.

    A step yields the :class:`FrameMasks` of a frame that was looked at, else None. With ``fifo`` these are the
    answer, with ids that last; else what was found on that frame by itself, which belongs to no object yet.

    looked: the frames that were looked at so far; text: the words of a description, None without one;
    finished: nothing is left to do; left_out: things that were found and not joined, since there were too many
    """

    def __init__(
        self, session: Session, prompt: Prompt, task: Task, frames: Sequence[int], first: int | None, memory: str,
        priority: Priority, replaces: Turn | None, threshold: float | None = None,
    ):  # fmt: skip
        self.looked: list[int] = []
        self.text: str | None = None
        self.finished = False
        self.left_out = 0
        self._session, self._prompt, self._task, self._memory = session, prompt, task, memory
        self._first, self._priority, self._turn = first, priority, replaces
        self._walks = max(priority, Priority.TRACK)  # frame by frame it takes turns with the tracks of others
        self._frames, self._threshold = list(frames), threshold
        self._sightings: list[Sighting] = []
        self._streamed: dict[int, Sighting] = {}
        self._names: dict[Hashable, str] = {}
        self._joining: Joining | None = None
        self._things: tuple[bool, ...] = ()
        self._steps = self._stream() if memory == "fifo" else self._sample()

    def __iter__(self) -> Iterator[FrameMasks | None]:
        return self

    def __next__(self) -> FrameMasks | None:
        return next(self._steps)

    def close(self) -> None:
        self._steps.close()

    def found(self) -> list[ClipObject]:
        """The objects so far, in the order in which they were first known; the session can track them from here on.
        Of a stream each has its surest mask, as all would fill the memory."""
        if self._memory == "fifo":
            objects = [self._object(Group(n, [one], [one]), n) for n, one in self._streamed.items()]
        else:
            joining = self._joining or self._new_joining()  # not all was looked at yet: as far as it goes
            objects = [self._object(group, group.members[0]) for group in joining.objects()]
        self._session.note_objects(objects)
        return objects

    def _object(self, group: Group, key: Hashable) -> ClipObject:
        findings: dict[int, Finding] = {}
        for one in sorted(group.anchors, key=lambda one: one.score):
            findings[one.frame] = one.finding  # of several on one frame the surest
        name = group.name
        return ClipObject(self._name(key), findings, name.category, name.phrase)

    def _name(self, key: Hashable) -> str:
        """The name of what has an id in a stream, or was first known by a finding."""
        if key not in self._names:
            self._names[key] = self._session.new_id()
        return self._names[key]

    # the steps

    def _run(self, job, frames: Sequence[int], priority: Priority | None = None):
        with self._session.looking.hold(frames):
            return self._session.engine.run(job, self._priority if priority is None else priority, self._turn)

    def _read(self, first: int) -> Worded:
        session, looking = self._session, self._session.looking
        engine = session.engine
        asked = (looking, [self._prompt], first, self._task, engine.seed, engine.generate_limit)
        (worded,) = self._run(lambda: read_words(*asked), looking.seen(self._task, first))
        worded = replace(worded, rule=replace(worded.rule, threshold=self._threshold))
        self.text, self._things = worded.text, worded.things
        return worded

    def _sample(self) -> Iterator[FrameMasks | None]:
        sample = sampled(self._frames, self._first)
        worded = self._read(sample[0] if self._first is None else self._first)
        yield None
        for frame in sample:
            masks = self._run(
                lambda at=frame: answer_on(self._session.looking, worded, at, self._session.engine.snap), [frame]
            )
            masks = sorted(masks, key=lambda mask: -mask.score)
            self.left_out += len(masks[MOST_OBJECTS:])
            self._sightings += [Sighting.of(frame, mask) for mask in masks[:MOST_OBJECTS]]
            self.looked.append(frame)
            yield FrameMasks(frame, masks)
        self._joining = self._new_joining()
        for _ in self._joining.steps(self._carry):
            yield None
        self.left_out += self._joining.left_out
        self.finished = True

    def _new_joining(self) -> Joining:
        one_each = self._task.select in ("best", "phrases")
        return Joining(self._sightings, self._things, one_each, self._first)

    def _carry(self, seeds: Mapping[int, Sighting]) -> _Carried:
        return _Carried(self._session, seeds, self._memory, self._walks, self._turn)

    def _stream(self) -> Iterator[FrameMasks | None]:
        looking = self._session.looking
        worded = self._read(self._frames[0])
        yield None
        stream = ClipStream(looking.model, worded.condition, {"": worded.rule})
        for frame in self._frames:
            begins, ends = frame == self._frames[0], frame == self._frames[-1]

            def job(at=frame, first=begins, last=ends):
                features = looking.features(at) if first else looking.later_features(at)
                return stream.advance(features, looking.sizes(at), last)[""]

            masks = []
            for number, mask in masks_of(worded, self._run(job, [frame], self._walks)):
                masks.append(Mask(mask.mask, mask.score, self._name(number), mask.phrase, mask.category))
                self._note(number, Sighting.of(frame, mask))
            self.looked.append(frame)
            yield FrameMasks(frame, masks)
        self.finished = True

    def _note(self, number: int, sighting: Sighting) -> None:
        known = self._streamed.pop(number, sighting)
        self._streamed[number] = sighting if sighting.score > known.score else known
        while len(self._streamed) > STREAMED_OBJECTS:
            oldest = next(iter(self._streamed))  # not seen for the longest time
            del self._streamed[oldest], self._names[oldest]


class _Carried:
    """Findings carried by the memory of their masks; see :class:`x2sam.inference.clip_join.Walk`."""

    def __init__(
        self, session: Session, seeds: Mapping[int, Sighting], memory: str, priority: Priority, turn: Turn | None
    ):  # fmt: skip
        self._session, self._priority, self._turn = session, priority, turn
        start = next(iter(seeds.values())).frame
        self._things = {
            number: session.thing_of(start, str(number), seed.finding.mask(), priority)
            for number, seed in seeds.items()
        }
        self._anchor(start, seeds)
        model, things = session.looking.model, list(self._things.values())
        parts = [things[i : i + CARRIED_AT_ONCE] for i in range(0, len(things), CARRIED_AT_ONCE)]
        self._tracks = [ObjectTrack(model, part, memory) for part in parts]
        for track in self._tracks:
            self._advance(track, start, True)

    def to(self, frame: int) -> dict[int, np.ndarray]:
        stops = [self._advance(track, frame) for track in self._tracks]
        return {int(number): mask for stop in stops for number, (mask, _) in stop.found.items()}

    def confirm(self, frame: int, seen: Mapping[int, Sighting]) -> None:
        """The frame is walked once more, with what was found there as known masks."""
        self._anchor(frame, seen)
        for track in self._tracks:
            if any(int(name) in seen for name in track.objects):
                self._advance(track, frame)

    def _advance(self, track: ObjectTrack, frame: int, first: bool = False) -> Stop:
        return self._session.advance(track, frame, first, self._priority, self._turn)

    def _anchor(self, frame: int, seen: Mapping[int, Sighting]) -> None:
        for number, one in seen.items():
            self._things[number].anchors[frame] = Anchor(frame, one.finding.mask(), one.score)


def sampled(frames: Sequence[int], first: int | None = None, most: int = SAMPLED) -> list[int]:
    """At most ``most`` of ``frames``, evenly spread with both ends, in order; ``first`` in place of the nearest."""
    count = min(len(frames), most)
    spread = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()]
    if first is not None and first not in spread:
        spread.remove(min(spread, key=lambda frame: abs(frame - first)))
        spread.append(first)
    return sorted(spread)

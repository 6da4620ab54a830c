"""Tracks on the device, frame by frame, so that other requests get in between; on the way to a frame that a person
corrected, from both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from x2sam.inference.ahead import one_ahead
from x2sam.inference.drift import Rating
from x2sam.inference.looking import Looking
from x2sam.inference.meeting import Meetings, Stop
from x2sam.inference.scheduler import Priority, Turn
from x2sam.inference.walk import MODES, Found, ObjectTrack, Tracked
from x2sam.model.x2sam import FrameFeatures
from x2sam.structures import FrameMasks, Mask

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine


class Walks:
    """Walks over the frames of one piece of media."""

    def __init__(self, engine: Engine, looking: Looking):
        self._engine, self._looking = engine, looking

    def walk(self, objects: Sequence[Tracked], frames: Sequence[int], mode: str) -> Iterator[FrameMasks | None]:
        """Masks frame by frame. Those on the way to a frame that a person corrected come once that has been reached and
        walked back from, as far as they wait for it; until then None does."""
        track = ObjectTrack(self._looking.model, objects, mode)
        meetings = Meetings(objects if track.followers else (), frames, MODES[mode].exclusive)
        for frame in one_ahead(self._looking, frames):
            meetings.add(self.advance(track, frame, frame == frames[0]))
            way = meetings.way_back(frame)
            if way:
                yield None
                yield from self._walk_back(meetings, way, mode)
            ready = meetings.ready(frame)
            for stop in ready:
                yield FrameMasks(stop.frame, _masks_of(stop.found, stop.ratings))
            if not ready:
                yield None

    def advance(
        self, track: ObjectTrack, frame: int, first: bool, priority: Priority = Priority.TRACK,
        replaces: Turn | None = None,
    ) -> Stop:  # fmt: skip
        """The next frame of a track, between other requests; ``first``: nothing came before it."""
        with self._looking.hold([frame]):
            # not once more as a whole: a track that was half advanced would be advanced twice
            return self._engine.run(lambda: self._advance(track, frame, first), priority, replaces, again=False)

    def _walk_back(self, meetings: Meetings, way: Sequence[int], mode: str) -> Iterator[None]:
        """From a corrected frame, the first of ``way``, towards the known masks before it; None for each frame."""
        end = way[0]
        track = ObjectTrack(self._looking.model, meetings.returning(end), mode)
        for frame in way:
            meetings.meet(end, self.advance(track, frame, frame == end))
            yield None

    def _advance(self, track: ObjectTrack, frame: int, first: bool) -> Stop:
        looking = self._looking

        def look() -> tuple[FrameFeatures, FrameFeatures | None]:
            if not first:
                features = looking.later_features(frame)
                return features, features
            # the same frame as later ones look, for what is compared between frames
            later = looking.model.decode_pixels(looking.encoded(frame), first=False) if track.followers else None
            return looking.features(frame), later

        features, plain = self._engine.with_room(look)
        sizes = looking.sizes(frame)
        found = track.advance(features, sizes, frame, looking.picture(frame), plain)
        return Stop(frame, found, track.probabilities(), sizes.original, dict(track.ratings))


def _masks_of(found: Mapping[str, Found], ratings: Mapping[str, Rating]) -> list[Mask]:
    doubts = {object_id: rating.doubt for object_id, rating in ratings.items()}
    return [Mask(m, score, object_id, doubt=doubts.get(object_id)) for object_id, (m, score) in found.items()]

"""Session: one picture or clip that somebody works on. Prompts in, masks out; objects and corrections are kept."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from x2sam.data.prompts import prompt_region
from x2sam.data.tasks import CategoryList, Task, find_task, task_of
from x2sam.errors import PromptError
from x2sam.inference.conversation import Query, query_of, render
from x2sam.inference.drift import Rating
from x2sam.inference.looking import Looking
from x2sam.inference.meeting import Stop, from_the_other_side, meet, meet_ratings, meeting_frames, span_before
from x2sam.inference.object_rounds import ObjectRounds, Round, rounds_of
from x2sam.inference.postprocess import Prediction, Rule, postprocess
from x2sam.inference.preprocess import region_masks
from x2sam.inference.refine import snap_for
from x2sam.inference.scheduler import Priority, Turn
from x2sam.inference.sketch import paint_words
from x2sam.inference.walk import Anchor, Found, ObjectTrack, Tracked
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

REMEMBERED_ROUNDS = 256
REMEMBERED_FINDINGS = 256


@dataclass(frozen=True, eq=False)
class Finding:
    """A mask (H, W) as bits."""

    bits: np.ndarray
    size: tuple[int, int]
    score: float

    @classmethod
    def of(cls, mask: Mask) -> Finding:
        return cls(np.packbits(mask.mask), mask.mask.shape, mask.score)

    def mask(self) -> np.ndarray:
        return np.unpackbits(self.bits, count=self.size[0] * self.size[1]).reshape(self.size).astype(bool)


class Session:
    """Made by :meth:`x2sam.inference.engine.Engine.open`. May be called from several threads."""

    def __init__(self, engine: Engine, looking: Looking):
        self.engine, self.looking = engine, looking
        self.modality = "image" if len(looking) == 1 else "video"
        self.rounds = ObjectRounds(looking, engine.seed)
        self._objects: dict[str, Tracked] = {}
        self._answers: OrderedDict[tuple, tuple[Round, np.ndarray]] = OrderedDict()
        self._findings: OrderedDict[str, tuple[int, Finding]] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.looking)

    def size(self, frame: int = 0) -> tuple[int, int]:
        """(H, W) of a frame."""
        return tuple(self.looking.picture(frame).shape[:2])

    def prepare(self, frame: int = 0, priority: Priority = Priority.BATCH) -> int:
        """Computes what the first click on ``frame`` needs of the picture, piece by piece, so that other requests get
        in between. Returns the bytes of it. Raises like :meth:`segment`."""
        looking, task = self.looking, find_task("intseg", self.modality)
        pieces = (lambda: looking.encoded(frame), lambda: looking.features(frame), lambda: looking.looked(task, frame))
        with looking.hold(looking.seen(task, frame)):
            return sum(self.engine.run(piece, priority).nbytes for piece in pieces)

    # prompts

    def segment(
        self, prompt: Prompt, frame: int = 0, priority: Priority | None = None, replaces: str | Turn | None = None
    ) -> list[Mask]:
        """Masks of what ``prompt`` asks for on ``frame``, best first; an empty list when nothing was found.

        A newer call with the same ``replaces`` key cancels one that still waits; a turn tells which one is newer.
        Raises PromptError for a prompt that can't be answered, FramesError for a frame that can't be read, BusyError
        and CancelledError from the scheduler.
        """
        task = self._task_of(prompt)
        # one turn for all rounds: a late round of an older call must not take the place of a newer call
        replaces = self.engine.scheduler.turn(replaces) if isinstance(replaces, str) else replaces
        if task.name == "chat":
            return self.chat(prompt.text or "", frame)[1]
        self._check_inside(prompt, frame)
        if task.single and task.select in ("region", "object"):
            single = [prompt]
            if len(prompt.boxes) > 1 and not prompt.points:
                single = [replace(prompt, boxes=(box,), object_id=None) for box in prompt.boxes]
            how = Priority.CLICK if priority is None else priority
            return [self._segment_object(p, frame, task, how, replaces) for p in single]
        how = Priority.TEXT if priority is None else priority
        with self.looking.hold(self.looking.seen(task, frame)):
            return self.engine.run(lambda: self._segment_words(prompt, frame, task), how, replaces)

    def _task_of(self, prompt: Prompt) -> Task:
        """The task that the prompt asks for; clicks that only take away are corrections of one object."""
        worded = bool(prompt.task or (prompt.text or "").strip() or prompt.categories)
        if not worded and not prompt.has_region and (prompt.points or prompt.previous is not None):
            return find_task("intseg", self.modality)
        return task_of(prompt, self.modality)

    def _segment_object(
        self, prompt: Prompt, frame: int, task: Task, priority: Priority, replaces: Turn | None
    ) -> Mask:
        image = self.looking.picture(frame)
        current: Round | None = None
        mask: np.ndarray | None = prompt.previous
        for beginning in rounds_of(prompt):
            key = _key_of(beginning, frame)
            found = self._recall(key)
            if found is None:
                job = lambda b=beginning, c=current, m=mask: self.rounds.answer(b, c, m, frame, task)  # noqa: E731
                with self.looking.hold(self.looking.seen(task, frame)):
                    answer = self.engine.run(job, priority, replaces)
                found = (answer, self._finish(image, answer, beginning, mask))
                self._keep(key, found)
            current, mask = found
        assert current is not None and mask is not None
        region = current.region
        rule = Rule(find_task(task.name, self.modality), region=region)
        object_id = self._remember(prompt, current.condition, rule, Anchor(frame, mask, current.score))
        return Mask(mask, current.score, object_id)

    def _finish(self, image: np.ndarray, answer: Round, prompt: Prompt, before: np.ndarray | None) -> np.ndarray:
        """The answer at picture size, made to obey its clicks unless the engine was told not to."""
        if self.engine.snap and (prompt.points or prompt.boxes):
            snap = snap_for(self.looking.model.config.memory.sketch)
            return snap(image, answer.probability, prompt.points, prompt.boxes, before)
        plane = torch.from_numpy(answer.probability)[None, None]
        return (F.interpolate(plane, image.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0.5).numpy()

    def _segment_words(self, prompt: Prompt, frame: int, task: Task) -> list[Mask]:
        interpreter, looked = self.looking.interpreter, self.looking.looked(task, frame)
        sizes = self.looking.sizes(frame)
        regions = region_masks(self._drawn(prompt, frame), sizes) if prompt.has_region else None
        rule = Rule(task, regions=0 if regions is None else len(regions))
        if task.generates:
            reading = interpreter.generate(looked, task, Query(), self.engine.generate_limit)
            condition, phrases = reading.condition, reading.phrases
        else:
            tokens = None
            if regions is not None:
                generator = torch.Generator().manual_seed(self.engine.seed)
                stage3 = self.looking.encoded(frame).stage3
                tokens = self.looking.model.region_tokens(stage3, regions, generator)
            query = query_of(task, prompt, rule.regions)
            condition = interpreter.read(looked, render(task, query), tokens, share=task.shares_conditions)
            phrases = query.phrases
            if task.select == "categories":
                rule = replace(rule, things=CategoryList.of(prompt).things)
        model, features = self.looking.model, self.looking.features(frame)
        pointed = []
        if task.select == "best" and model.config.memory.sketch:
            # a small model points better with words than it outlines; with the place marked it outlines as for a click
            pointed = [model.sketch(features, paint_words(features, condition))]
        level = model.step(features, condition, pointed)[-1]
        segments = postprocess(rule, Prediction(level.mask_logits[0], level.class_logits[0], sizes))
        masks = []
        for mask, score, category in zip(segments.masks, segments.scores, segments.categories, strict=True):
            if not mask.any():
                continue
            phrase = phrases[int(category)] if int(category) < len(phrases) else None
            found = Mask(mask, float(score), f"obj{next(self._numbers)}", phrase, int(category))
            masks.append(found)
        masks.sort(key=lambda m: -m.score)
        self._note(frame, masks)
        return masks

    def _drawn(self, prompt: Prompt, frame: int) -> list[np.ndarray]:
        """Every drawn thing by itself, at picture size."""
        size = self.size(frame)
        parts = [Prompt(points=(p,)) for p in prompt.points if p.positive]
        parts += [Prompt(boxes=(b,)) for b in prompt.boxes] + [Prompt(strokes=(s,)) for s in prompt.strokes]
        return [*(prompt_region(part, size) for part in parts), *prompt.masks]

    def chat(self, question: str, frame: int = 0, timeout: float | None = None) -> tuple[str, list[Mask]]:
        """The answer in words, and masks where it grounds some (never for plain chat)."""
        task = find_task("chat", self.modality)
        query = query_of(task, Prompt(text=question))

        def answer() -> str:
            looked = self.looking.looked(task, frame)
            return self.looking.interpreter.generate(looked, task, query, self.engine.generate_limit).text or ""

        with self.looking.hold(self.looking.seen(task, frame)):
            return self.engine.run(answer, Priority.TEXT, timeout=timeout), []

    # tracking

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        """A person's mask of an object: it enters the memory as it is and is never overwritten by a track."""
        mask = np.asarray(mask, bool)
        if mask.shape != self.size(frame):
            raise PromptError(f"the mask is {mask.shape}, frame {frame} is {self.size(frame)}; draw it on this frame")
        self._take_up(object_id)
        with self._lock:
            known = self._objects.get(object_id)
        if known is None:
            if not mask.any():
                raise PromptError(f"object {object_id} is unknown and its mask is empty; mark it on a frame first")
            known = self._from_mask(frame, object_id, mask)
        known.anchors[frame] = Anchor(frame, mask.copy(), locked=True)

    def recall(self, frame: int, object_id: str, mask: np.ndarray, score: float = 1.0) -> None:
        """A mask (H, W) that an earlier walk found, to go on from: it enters the memory like that of any frame that is
        walked, is not pinned, and no walk turns back from it. The object was corrected on another frame before."""
        (known,) = self.objects([object_id])
        mask = np.asarray(mask, bool)
        if mask.shape != self.size(frame):
            raise PromptError(f"the mask is {mask.shape}, frame {frame} is {self.size(frame)}")
        known.anchors.setdefault(frame, Anchor(frame, mask, score, walked=True))

    def _from_mask(self, frame: int, object_id: str, mask: np.ndarray) -> Tracked:
        """An object that is known by its mask only."""
        task = find_task("intseg", self.modality)
        region = region_masks([mask], self.looking.sizes(frame))[0]
        with self.looking.hold(self.looking.seen(task, frame)):
            condition = self.engine.run(lambda: self.rounds.read(region, frame, task), Priority.TRACK)
        known = Tracked(object_id, condition, Rule(task, region=region))
        with self._lock:
            return self._objects.setdefault(object_id, known)

    def track(
        self, object_ids: Sequence[str], start: int = 0, stop: int | None = None, direction: str = "forward",
        memory: str | None = None, pauses: bool = False, skip: Collection[int] = (),
    ) -> Iterator[FrameMasks | None]:  # fmt: skip
        """Masks of the objects on frames ``start`` to ``stop`` - 1, in the order in which they are computed.

        ``direction`` is ``forward``, ``backward`` or ``both`` (forward first): from the first frame on which one of
        the objects was prompted or corrected towards the end, from the last such frame towards the beginning. Other
        requests get in between the frames. With ``pauses`` None comes after each frame whose masks come later, which
        is so on the way to a corrected frame: whoever has to stop in time can do so there, and go on later. The frames
        in ``skip`` are left out, as if the clip did not have them.
        """
        objects = self.objects(object_ids)
        stop = len(self) if stop is None else min(stop, len(self))
        known = sorted({f for o in objects for f in o.anchors})
        walks = {
            "forward": [range(known[0], stop)],
            "backward": [range(known[-1], start - 1, -1)],
            "both": [range(known[0], stop), range(known[0], start - 1, -1)],
        }
        if direction not in walks:
            raise PromptError(f"the direction is forward, backward or both, not {direction!r}")
        mode = memory or self.engine.memory
        for number, way in enumerate(walks[direction]):
            frames = [frame for frame in way if frame not in skip]
            for walked in self._walk(objects, frames, way.step, mode) if frames else ():
                if walked is None:
                    if pauses:
                        yield None
                elif start <= walked.frame < stop and not (number and walked.frame == frames[0]):
                    yield walked

    def _walk(
        self, objects: Sequence[Tracked], frames: Sequence[int], step: int, mode: str
    ) -> Iterator[FrameMasks | None]:
        """Masks frame by frame. On the way to a frame that a person corrected they come once that has been reached
        and walked back from; until then None does."""
        track = ObjectTrack(self.looking.model, objects, mode)
        ahead = meeting_frames(objects, frames) if track.followers else []
        waiting: list[Stop] = []
        for frame in frames:
            stop = self.advance(track, frame, frame == frames[0])
            if frame == frames[0] or not ahead:
                yield FrameMasks(frame, _masks_of(stop.found, stop.ratings))
                continue
            waiting.append(stop)
            yield None
            if frame == ahead[0]:
                ahead.pop(0)
                yield from self._met(objects, waiting, step, mode)
                waiting = []

    def _met(
        self, objects: Sequence[Tracked], waiting: Sequence[Stop], step: int, mode: str
    ) -> Iterator[FrameMasks | None]:
        """The stops on the way to a corrected frame, the last of ``waiting``, with what the walk back from it finds:
        None for each frame on the way back, then the masks."""
        end = waiting[-1].frame
        returning = from_the_other_side(objects, end)
        track = ObjectTrack(self.looking.model, returning, mode)
        spans = {o.object_id: span_before(o, end, step) for o in returning}
        back: dict[int, Stop] = {}
        for stop in reversed(waiting) if returning else ():
            back[stop.frame] = self.advance(track, stop.frame, stop.frame == end)
            yield None
        exclusive = mode == "pinned"
        for stop in waiting:
            known = stop.frame in back
            found = meet(stop, back[stop.frame], end, spans, exclusive) if known else stop.found
            ratings = meet_ratings(stop, back[stop.frame], end, spans) if known else stop.ratings
            yield FrameMasks(stop.frame, _masks_of(found, ratings))

    def objects(self, object_ids: Sequence[str]) -> list[Tracked]:
        """What is known of the objects. Raises PromptError for those that were never prompted, and for none at all."""
        for object_id in object_ids:
            self._take_up(object_id)
        with self._lock:
            missing = [i for i in object_ids if i not in self._objects]
            objects = [self._objects[i] for i in object_ids if i in self._objects]
        if missing or not objects:
            raise PromptError(f"nothing to track: {', '.join(missing) or 'no object was named'}; prompt it first")
        return objects

    def _take_up(self, object_id: str) -> None:
        """Makes an object of what words found, if it is not one yet: from here on it is known by that mask."""
        with self._lock:
            if object_id in self._objects or object_id not in self._findings:
                return
            frame, finding = self._findings[object_id]
        mask = finding.mask()
        known = self._from_mask(frame, object_id, mask)
        known.anchors.setdefault(frame, Anchor(frame, mask, finding.score))

    def advance(self, track: ObjectTrack, frame: int, first: bool) -> Stop:
        """The next frame of a track, between other requests; ``first``: nothing came before it."""
        with self.looking.hold([frame]):
            return self.engine.run(lambda: self._advance(track, frame, first), Priority.TRACK)

    def _advance(self, track: ObjectTrack, frame: int, first: bool) -> Stop:
        looking = self.looking
        if not first:
            features = plain = looking.later_features(frame)
        else:
            features = looking.features(frame)
            # the same frame as later ones look, for what is compared between frames
            plain = looking.model.decode_pixels(looking.encoded(frame), first=False) if track.followers else None
        sizes = self.looking.sizes(frame)
        found = track.advance(features, sizes, frame, self.looking.picture(frame), plain)
        return Stop(frame, found, track.probabilities(), sizes.original, dict(track.ratings))

    def close(self) -> None:
        """Forgets everything prompted. Features of media that has a name stay while they fit, for whoever opens it
        next; those of nameless media go at once, nobody can come back to them."""
        if not self.looking.named:
            self.engine.cache.forget(self.looking.key)
        with self._lock:
            self._objects.clear()
            self._answers.clear()
            self._findings.clear()

    # what is kept

    def _remember(self, prompt: Prompt, condition, rule: Rule, anchor: Anchor) -> str:
        with self._lock:
            object_id = prompt.object_id or f"obj{next(self._numbers)}"
            known = self._objects.setdefault(object_id, Tracked(object_id, condition, rule))
            known.condition, known.rule = condition, rule
            locked = anchor.frame in known.anchors and known.anchors[anchor.frame].locked
            if not locked:
                known.anchors[anchor.frame] = anchor
            return object_id

    def _note(self, frame: int, masks: Sequence[Mask]) -> None:
        """Keeps what words found, so that it can be tracked. Most of it never is: only bits are kept."""
        with self._lock:
            for mask in masks:
                self._findings[mask.object_id] = (frame, Finding.of(mask))
            while len(self._findings) > REMEMBERED_FINDINGS:
                self._findings.popitem(last=False)

    def _recall(self, key: tuple) -> tuple[Round, np.ndarray] | None:
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)

    def _keep(self, key: tuple, found: tuple[Round, np.ndarray]) -> None:
        with self._lock:
            self._answers[key] = found
            while len(self._answers) > REMEMBERED_ROUNDS:
                self._answers.popitem(last=False)

    def _check_inside(self, prompt: Prompt, frame: int) -> None:
        height, width = self.size(frame)
        for point in prompt.points:
            if not (0 <= point.x <= width and 0 <= point.y <= height):
                raise PromptError(f"the click {point.x:g}, {point.y:g} is outside the picture of {width} x {height}")
        for mask in (*prompt.masks, *([] if prompt.previous is None else [prompt.previous])):
            if mask.shape != (height, width):
                raise PromptError(f"the mask is {mask.shape[1]} x {mask.shape[0]}, the picture {width} x {height}")


def _masks_of(found: Mapping[str, Found], ratings: Mapping[str, Rating]) -> list[Mask]:
    doubts = {object_id: rating.doubt for object_id, rating in ratings.items()}
    return [Mask(m, score, object_id, doubt=doubts.get(object_id)) for object_id, (m, score) in found.items()]


def _key_of(prompt: Prompt, frame: int) -> tuple:
    """Equal for equal prompts; arrays count by their bytes."""
    arrays = [*prompt.strokes, *prompt.masks, *([] if prompt.previous is None else [prompt.previous])]
    drawn = tuple((a.shape, hash(np.ascontiguousarray(a).tobytes())) for a in arrays)
    return (frame, prompt.points, prompt.boxes, drawn, prompt.previous is not None, prompt.task)

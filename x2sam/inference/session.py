"""Session: one picture or clip that somebody works on. Prompts in, masks out; objects and corrections are kept."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from x2sam.data.tasks import Task, find_task, task_of
from x2sam.errors import PicturesOnlyError, PromptError
from x2sam.inference.ahead import one_ahead
from x2sam.inference.clip_objects import ClipObject, Finding
from x2sam.inference.clip_search import ClipSearch
from x2sam.inference.conversation import query_of
from x2sam.inference.drift import Rating
from x2sam.inference.looking import Looking
from x2sam.inference.meeting import Meetings, Stop
from x2sam.inference.object_rounds import ObjectRounds, Round, rounds_of
from x2sam.inference.postprocess import Rule
from x2sam.inference.preprocess import region_masks
from x2sam.inference.refine import snap_for
from x2sam.inference.scheduler import Priority, Turn
from x2sam.inference.survey import Survey, embedded_survey_weights, survey
from x2sam.inference.walk import MODES, Anchor, Found, ObjectTrack, Tracked
from x2sam.inference.worded import masks_in, predict_on, read_words
from x2sam.model.x2sam import FrameFeatures
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine

REMEMBERED_BYTES = 64 * 2**20  # of answers, by session; a large picture's are megabytes each
REMEMBERED_OBJECTS = 32  # that were prompted and neither corrected nor followed
REMEMBERED_FINDINGS = 256


class Session:
    """Made by :meth:`x2sam.inference.engine.Engine.open`. May be called from several threads."""

    def __init__(self, engine: Engine, looking: Looking):
        self.engine, self.looking = engine, looking
        # a model without memory answers about the pages of a clip as about so many pictures
        self.modality = "video" if len(looking) > 1 and engine.remembers else "image"
        self.rounds = ObjectRounds(looking, engine.seed)
        self._objects: dict[str, Tracked] = {}
        self._prompted: OrderedDict[str, None] = OrderedDict()  # those that may be forgotten, the latest last
        self._answers: OrderedDict[tuple, tuple[Round, np.ndarray]] = OrderedDict()
        self._answers_bytes = 0
        self._findings: OrderedDict[str, dict[int, Finding]] = OrderedDict()
        self._surveyed: tuple[tuple, Survey] | None = None
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
            rated = how == Priority.BATCH  # nobody waits, and whoever asks in bulk may want to know
            return self.engine.run(lambda: self._segment_words(prompt, frame, task, rated), how, replaces)[1]

    def _task_of(self, prompt: Prompt) -> Task:
        """The task that the prompt asks for; clicks that only take away are corrections of one object."""
        if (prompt.task or "").startswith("vid_"):
            self._need_memory()
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

    def survey(self, prompt: Prompt, frame: int = 0, priority: Priority = Priority.BATCH) -> Survey:
        """How much of what :meth:`segment` answers to words is probably wrong, and what the frame looks like. It costs
        nothing where that was asked last, with this priority. Raises like :meth:`segment`, and PromptError for a prompt
        without words."""
        task = self._task_of(prompt)
        if task.select in (None, "region", "object"):
            raise PromptError("only answers to words can be surveyed")
        known, asked = self._surveyed, _asked(prompt, frame)
        if known is not None and known[0] == asked:
            return known[1]
        with self.looking.hold(self.looking.seen(task, frame)):
            return self.engine.run(lambda: self._answer_words(prompt, frame, task, rated=True)[2], priority)

    def _answer_words(
        self, prompt: Prompt, frame: int, task: Task, rated: bool
    ) -> tuple[str, list[Mask], Survey | None]:
        """What the model says, nothing where its answer is not generated, the masks, and where ``rated`` what is
        to be thought of them."""
        looking, engine = self.looking, self.engine
        worded = read_words(looking, prompt, frame, task, engine.seed, engine.generate_limit)
        prediction = predict_on(looking, worded, frame)
        masks = masks_in(looking, worded, frame, prediction, engine.snap)
        if not rated:
            return worded.text or "", masks, None
        names = max(len(worded.things), 1)
        rating = survey(prediction, looking.encoded(frame), masks, names, embedded_survey_weights())
        self._surveyed = _asked(prompt, frame), rating
        return worded.text or "", masks, rating

    def _segment_words(self, prompt: Prompt, frame: int, task: Task, rated: bool = False) -> tuple[str, list[Mask]]:
        """What the model says, and the masks, which are objects from here on."""
        text, found, _ = self._answer_words(prompt, frame, task, rated)
        masks = [replace(mask, object_id=self.new_id()) for mask in found]
        masks.sort(key=lambda m: -m.score)
        self._note({mask.object_id: {frame: Finding.of(mask)} for mask in masks})
        return text, masks

    def find_in_clip(
        self, prompt: Prompt, frames: Sequence[int] | None = None, first: int | None = None, memory: str | None = None,
        priority: Priority = Priority.TEXT, replaces: str | Turn | None = None, threshold: float | None = None,
    ) -> ClipSearch:  # fmt: skip
        """Looks for words, or with ``vgdseg`` for everything that is like what was drawn, on the ``frames`` of the
        clip, all of them by default. Nothing happens until the search is iterated; see :class:`ClipSearch`.

        first:  the frame that the language model sees first, and that what is drawn is on; where a phrase is found on
                it at least half surely, that is what it means. By default the first of those that are looked at
        memory: ``fifo`` streams every frame as the paper does; otherwise a sample of the frames is looked at, and this
                is the mode in which they are joined, by default the engine's
        threshold: least score of what is found for names and "all like this", by default the task's

        Raises PromptError for a prompt that is answered in words, or that means one drawn object, and where the model
        has no memory.
        """
        self._need_memory()
        task = self._task_of(prompt)
        if task.select in (None, "region", "object"):
            raise PromptError("only words and “all like this” can be looked for in a whole clip; segment one frame")
        frames = range(len(self)) if frames is None else sorted(set(frames))
        if not frames:
            raise PromptError("there are no frames to look at; name some")
        first = frames[0] if first is None and prompt.has_region else first
        self._check_inside(prompt, frames[0] if first is None else first)
        turn = self.engine.scheduler.turn(replaces) if isinstance(replaces, str) else replaces
        return ClipSearch(self, prompt, task, frames, first, memory or self.engine.memory, priority, turn, threshold)

    def chat(
        self, question: str, frame: int = 0, timeout: float | None = None, replaces: str | Turn | None = None
    ) -> tuple[str, list[Mask]]:
        """The answer in words, and masks of what it names where it grounds some: ``describe`` does, plain chat never.

        Raises like :meth:`segment`, whose ``replaces`` this has.
        """
        prompt = Prompt(text=question)
        task = self._task_of(prompt)
        if not (task.generates and task.segments):
            task = find_task("chat", self.modality)
        query = query_of(task, prompt)

        def answer() -> tuple[str, list[Mask]]:
            if task.segments:
                return self._segment_words(prompt, frame, task)
            looked = self.looking.looked(task, frame)
            return self.looking.interpreter.generate(looked, task, query, self.engine.generate_limit).text or "", []

        with self.looking.hold(self.looking.seen(task, frame)):
            return self.engine.run(answer, Priority.TEXT, replaces, timeout)

    # tracking

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        """A person's mask of an object: it enters the memory as it is and is never overwritten by a track."""
        self._need_memory()
        mask = np.asarray(mask, bool)
        if mask.shape != self.size(frame):
            raise PromptError(f"the mask is {mask.shape}, frame {frame} is {self.size(frame)}; draw it on this frame")
        self._take_up(object_id)
        with self._lock:
            known = self._objects.get(object_id)
            self._prompted.pop(object_id, None)
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

    def thing_of(self, frame: int, object_id: str, mask: np.ndarray, priority: Priority = Priority.TRACK) -> Tracked:
        """An object that is known by its mask (H, W) only; the session takes no note of it."""
        task = find_task("intseg", self.modality)
        region = region_masks([mask], self.looking.sizes(frame))[0]
        with self.looking.hold(self.looking.seen(task, frame)):
            condition = self.engine.run(lambda: self.rounds.read(region, frame, task), priority)
        return Tracked(object_id, condition, Rule(task, region=region))

    def _from_mask(self, frame: int, object_id: str, mask: np.ndarray) -> Tracked:
        """An object that is known by its mask only."""
        known = self.thing_of(frame, object_id, mask)
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
        in ``skip`` are left out, as if the clip did not have them. Raises PromptError where the model has no memory.
        """
        self._need_memory()
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
            for walked in self._walk(objects, frames, mode) if frames else ():
                if walked is None:
                    if pauses:
                        yield None
                elif start <= walked.frame < stop and not (number and walked.frame == frames[0]):
                    yield walked

    def _walk(
        self, objects: Sequence[Tracked], frames: Sequence[int], mode: str
    ) -> Iterator[FrameMasks | None]:  # fmt: skip
        """Masks frame by frame. Those on the way to a frame that a person corrected come once that has been reached and
        walked back from, as far as they wait for it; until then None does."""
        track = ObjectTrack(self.looking.model, objects, mode)
        meetings = Meetings(objects if track.followers else (), frames, MODES[mode].exclusive)
        for frame in one_ahead(self.looking, frames):
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

    def _walk_back(self, meetings: Meetings, way: Sequence[int], mode: str) -> Iterator[None]:
        """From a corrected frame, the first of ``way``, towards the known masks before it; None for each frame."""
        end = way[0]
        track = ObjectTrack(self.looking.model, meetings.returning(end), mode)
        for frame in way:
            meetings.meet(end, self.advance(track, frame, frame == end))
            yield None

    def objects(self, object_ids: Sequence[str]) -> list[Tracked]:
        """What is known of the objects. Raises PromptError for those that were never prompted, and for none at all."""
        for object_id in object_ids:
            self._take_up(object_id)
        with self._lock:
            missing = [i for i in object_ids if i not in self._objects]
            objects = [self._objects[i] for i in object_ids if i in self._objects]
            for object_id in object_ids:
                self._prompted.pop(object_id, None)
        if missing or not objects:
            raise PromptError(f"nothing to track: {', '.join(missing) or 'no object was named'}; prompt it first")
        return objects

    def _take_up(self, object_id: str) -> None:
        """Makes an object of what words found, if it is not one yet: from here on it is known by these masks."""
        with self._lock:
            if object_id in self._objects or object_id not in self._findings:
                return
            findings = dict(self._findings[object_id])
        surest = max(findings, key=lambda frame: findings[frame].score)
        known = self._from_mask(surest, object_id, findings[surest].mask())
        for frame, finding in findings.items():
            known.anchors.setdefault(frame, Anchor(frame, finding.mask(), finding.score))

    def advance(
        self, track: ObjectTrack, frame: int, first: bool, priority: Priority = Priority.TRACK,
        replaces: Turn | None = None,
    ) -> Stop:  # fmt: skip
        """The next frame of a track, between other requests; ``first``: nothing came before it."""
        with self.looking.hold([frame]):
            # not once more as a whole: a track that was half advanced would be advanced twice
            return self.engine.run(lambda: self._advance(track, frame, first), priority, replaces, again=False)

    def _advance(self, track: ObjectTrack, frame: int, first: bool) -> Stop:
        looking = self.looking

        def look() -> tuple[FrameFeatures, FrameFeatures | None]:
            if not first:
                features = looking.later_features(frame)
                return features, features
            # the same frame as later ones look, for what is compared between frames
            later = looking.model.decode_pixels(looking.encoded(frame), first=False) if track.followers else None
            return looking.features(frame), later

        features, plain = self.engine.with_room(look)
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
            self._prompted.clear()
            self._answers.clear()
            self._answers_bytes = 0
            self._findings.clear()

    def _need_memory(self) -> None:
        if not self.engine.remembers:
            raise PicturesOnlyError.of(self.engine.name)

    # what is kept

    def _remember(self, prompt: Prompt, condition, rule: Rule, anchor: Anchor) -> str:
        with self._lock:
            object_id = prompt.object_id or self.new_id()
            if object_id not in self._objects or object_id in self._prompted:
                self._prompted[object_id] = None
                self._prompted.move_to_end(object_id)
            known = self._objects.setdefault(object_id, Tracked(object_id, condition, rule))
            known.condition, known.rule = condition, rule
            locked = anchor.frame in known.anchors and known.anchors[anchor.frame].locked
            if not locked:
                known.anchors[anchor.frame] = anchor
            while len(self._prompted) > REMEMBERED_OBJECTS:
                oldest, _ = self._prompted.popitem(last=False)
                self._objects.pop(oldest, None)
            return object_id

    def new_id(self) -> str:
        """A name that no object of this session has."""
        return f"obj{next(self._numbers)}"

    def note_objects(self, objects: Sequence[ClipObject]) -> None:
        """Keeps what words found in the clip, so that it can be tracked."""
        self._note({one.object_id: one.findings for one in objects})

    def _note(self, found: Mapping[str, Mapping[int, Finding]]) -> None:
        """Keeps what words found, by object and frame. Most of it is never tracked: only bits are kept."""
        with self._lock:
            for object_id, findings in found.items():
                self._findings[object_id] = dict(findings)
                self._findings.move_to_end(object_id)
            while len(self._findings) > REMEMBERED_FINDINGS:
                self._findings.popitem(last=False)

    def _recall(self, key: tuple) -> tuple[Round, np.ndarray] | None:
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
            return self._answers.get(key)

    def _keep(self, key: tuple, found: tuple[Round, np.ndarray]) -> None:
        with self._lock:
            before = self._answers.pop(key, None)
            self._answers[key] = found
            self._answers_bytes += _bytes_of(found) - (_bytes_of(before) if before else 0)
            while self._answers_bytes > REMEMBERED_BYTES and len(self._answers) > 1:
                self._answers_bytes -= _bytes_of(self._answers.popitem(last=False)[1])

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


def _asked(prompt: Prompt, frame: int) -> tuple:
    return (*_key_of(prompt, frame), prompt.text, prompt.categories)


def _bytes_of(found: tuple[Round, np.ndarray]) -> int:
    answer, mask = found
    return mask.nbytes + answer.probability.nbytes + answer.region.nbytes


def _key_of(prompt: Prompt, frame: int) -> tuple:
    """Equal for equal prompts; arrays count by their bytes."""
    arrays = [*prompt.strokes, *prompt.masks, *([] if prompt.previous is None else [prompt.previous])]
    drawn = tuple((a.shape, hash(np.ascontiguousarray(a).tobytes())) for a in arrays)
    return (frame, prompt.points, prompt.boxes, drawn, prompt.previous is not None, prompt.task)

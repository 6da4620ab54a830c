"""Session: one picture or clip that somebody works on. Prompts in, masks out; objects and corrections are kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from x2sam.data.tasks import Task, find_task, task_of
from x2sam.errors import PicturesOnlyError, PromptError
from x2sam.inference.clip_objects import ClipObject, Finding
from x2sam.inference.clip_search import ClipSearch
from x2sam.inference.conversation import query_of
from x2sam.inference.kept import KeptAnswers, KnownObjects, asked_of, drawn_of
from x2sam.inference.looking import Looking
from x2sam.inference.meeting import Stop
from x2sam.inference.object_rounds import Ask, ObjectRounds, Round, rounds_of
from x2sam.inference.postprocess import Rule
from x2sam.inference.preprocess import region_masks
from x2sam.inference.scheduler import Joint, Priority, Turn
from x2sam.inference.side_by_side import Step, Way, walk_all
from x2sam.inference.survey import Survey, embedded_survey_weights, survey
from x2sam.inference.walk import Anchor, ObjectTrack, Tracked, at_picture_size
from x2sam.inference.walks import Walks
from x2sam.inference.worded import masks_in, predict_on, read_words
from x2sam.structures import FrameMasks, Mask, Prompt

if TYPE_CHECKING:
    from x2sam.inference.engine import Engine


Answer = tuple[str, list[Mask], Survey | None]
"""To words: what the model says, nothing where that is not generated; the masks, which are no objects yet; where it was
asked for, what is to be thought of them."""


class Session:
    """Made by :meth:`x2sam.inference.engine.Engine.open`. May be called from several threads."""

    def __init__(self, engine: Engine, looking: Looking):
        self.engine, self.looking = engine, looking
        # a model without memory answers about the pages of a clip as about so many pictures
        self.modality = "video" if len(looking) > 1 and engine.remembers else "image"
        self.rounds = ObjectRounds(looking, engine.seed)
        self.walks = Walks(engine, looking)
        self.known, self.answers = KnownObjects(), KeptAnswers()

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
        return self.segment_all([(prompt, frame)], priority, replaces)[0]

    def segment_all(
        self, asked: Sequence[tuple[Prompt, int]], priority: Priority | None = None,
        replaces: str | Turn | None = None,
    ) -> list[list[Mask]]:  # fmt: skip
        """The answers to several prompts about frames, each as :meth:`segment` gives it. Those of a kind about one
        frame go through the network together, also with what others ask about it at the same time. Raises like
        :meth:`segment`, for the first that fails."""
        # one turn for all rounds: a late round of an older call must not take the place of a newer call
        turn = self.engine.scheduler.turn(replaces) if isinstance(replaces, str) else replaces
        ways = [self._ways(prompt, frame, priority) for prompt, frame in asked]
        most = max(1, self.engine.scheduler.together)
        found = iter(walk_all([way for several in ways for way in several], most, lambda steps: self._run(steps, turn)))
        return [[mask for _ in several for mask in next(found)] for several in ways]

    def _run(self, steps: Sequence[Step], turn: Turn | None) -> list[Any]:
        with self.looking.hold(frame for step in steps for frame in step.frames):
            return self.engine.run_all([step.job for step in steps], steps[0].priority, turn)

    def _ways(self, prompt: Prompt, frame: int, priority: Priority | None) -> list[Way]:
        """What a prompt is answered by; several boxes are as many objects."""
        task = self._task_of(prompt)
        if task.name == "chat":
            return [self._chatted(prompt.text or "", frame)]
        self._check_inside(prompt, frame)
        if task.single and task.select in ("region", "object"):
            single = [prompt]
            if len(prompt.boxes) > 1 and not prompt.points:
                single = [replace(prompt, boxes=(box,), object_id=None) for box in prompt.boxes]
            how = Priority.CLICK if priority is None else priority
            return [self._object(one, frame, task, how) for one in single]
        return [self._words(prompt, frame, task, Priority.TEXT if priority is None else priority)]

    def _task_of(self, prompt: Prompt) -> Task:
        """The task that the prompt asks for; clicks that only take away are corrections of one object."""
        if (prompt.task or "").startswith("vid_"):
            self._need_memory()
        worded = bool(prompt.task or (prompt.text or "").strip() or prompt.categories)
        if not worded and not prompt.has_region and (prompt.points or prompt.previous is not None):
            return find_task("intseg", self.modality)
        return task_of(prompt, self.modality)

    def _object(self, prompt: Prompt, frame: int, task: Task, priority: Priority) -> Way:
        image, seen = self.looking.picture(frame), self.looking.seen(task, frame)
        current: Round | None = None
        mask: np.ndarray | None = prompt.previous
        for beginning in rounds_of(prompt):
            key = drawn_of(beginning, frame)
            found = self.answers.get(key)
            if found is None:
                ask, answer_all = Ask(beginning, current, mask), lambda asks: self.rounds.answer_all(asks, frame, task)
                answer = yield Step(self._joint("object", frame, task, ask, answer_all), priority, seen)
                found = (answer, self._finish(image, answer, beginning, mask))
                self.answers.keep(key, found)
            current, mask = found
        assert current is not None and mask is not None
        condition, region = current.meaning
        rule = Rule(find_task(task.name, self.modality), region=region)
        object_id = self.known.prompted(prompt, condition, rule, Anchor(frame, mask, current.score))
        return [Mask(mask, current.score, object_id)]

    def _finish(self, image: np.ndarray, answer: Round, prompt: Prompt, before: np.ndarray | None) -> np.ndarray:
        """The answer at picture size, made to obey its clicks unless the engine was told not to."""
        snap = self.engine.snap
        if snap is not None and (prompt.points or prompt.boxes):
            return snap(image, answer.probability, prompt.points, prompt.boxes, before, window=answer.window)
        if answer.window is None:
            return at_picture_size(answer.probability, image.shape[:2])
        return answer.window.laid_out(at_picture_size(answer.probability, answer.window.shape), image.shape[:2])

    def _words(self, prompt: Prompt, frame: int, task: Task, priority: Priority) -> Way:
        rated = priority == Priority.BATCH  # nobody waits, and whoever asks in bulk may want to know
        work = lambda prompts: self._answer_words(prompts, frame, task, rated)  # noqa: E731
        job = self._joint("words", frame, task, prompt, work)
        answer = yield Step(job, priority, self.looking.seen(task, frame))
        return self._objects_of(answer, prompt, frame)

    def _joint(self, kind: str, frame: int, task: Task, item: Any, work: Callable[[list[Any]], list[Any]]) -> Joint:
        """A job that goes with those of its kind about the same frame, unless its answer is generated word by word."""
        key = None if task.generates else (kind, self.looking.key, frame, task.name, task.modality)
        return Joint(key, item, work)

    def survey(self, prompt: Prompt, frame: int = 0, priority: Priority = Priority.BATCH) -> Survey:
        """How much of what :meth:`segment` answers to words is probably wrong, and what the frame looks like. It costs
        nothing where that was asked lately, with this priority. Raises like :meth:`segment`, and PromptError for a
        prompt without words."""
        task = self._task_of(prompt)
        if task.select in (None, "region", "object"):
            raise PromptError("only answers to words can be surveyed")
        known = self.answers.survey(asked_of(prompt, frame))
        if known is not None:
            return known
        with self.looking.hold(self.looking.seen(task, frame)):
            ((_, _, rating),) = self.engine.run(lambda: self._answer_words([prompt], frame, task, True), priority)
        assert rating is not None
        self.answers.keep_survey(asked_of(prompt, frame), rating)
        return rating

    def _answer_words(self, prompts: Sequence[Prompt], frame: int, task: Task, rated: bool) -> list[Answer]:
        """To each prompt. They may be those of other sessions on the same picture, so nothing is kept here."""
        looking, engine, answers = self.looking, self.engine, []
        worded = read_words(looking, prompts, frame, task, engine.seed, engine.generate_limit)
        for one, prediction in zip(worded, predict_on(looking, worded, frame), strict=True):
            masks, rating = masks_in(looking, one, frame, prediction, engine.snap), None
            if rated:
                names = max(len(one.things), 1)
                rating = survey(prediction, looking.encoded(frame), masks, names, embedded_survey_weights())
            answers.append((one.text or "", masks, rating))
        return answers

    def _objects_of(self, answer: Answer, prompt: Prompt, frame: int) -> list[Mask]:
        """The masks of an answer, which are objects from here on."""
        _, found, rating = answer
        masks = [replace(mask, object_id=self.known.new_id()) for mask in found]
        masks.sort(key=lambda m: -m.score)
        self.known.found({mask.object_id: {frame: Finding.of(mask)} for mask in masks})
        if rating is not None:
            self.answers.keep_survey(asked_of(prompt, frame), rating)
        return masks

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
        job = lambda: self._chat(prompt, frame, task)  # noqa: E731
        with self.looking.hold(self.looking.seen(task, frame)):
            answer = self.engine.run(job, Priority.TEXT, replaces, timeout)
        return answer[0], self._objects_of(answer, prompt, frame)

    def _chat(self, prompt: Prompt, frame: int, task: Task) -> Answer:
        if task.segments:
            return self._answer_words([prompt], frame, task, rated=False)[0]
        looked, query = self.looking.looked(task, frame), query_of(task, prompt)
        text = self.looking.interpreter.generate(looked, task, query, self.engine.generate_limit).text
        return text or "", [], None

    def _chatted(self, question: str, frame: int) -> Way:
        prompt, task = Prompt(text=question), find_task("chat", self.modality)
        job = Joint.alone(lambda: self._chat(prompt, frame, task))
        answer = yield Step(job, Priority.TEXT, self.looking.seen(task, frame))
        return self._objects_of(answer, prompt, frame)

    # tracking

    def correct(self, frame: int, object_id: str, mask: np.ndarray) -> None:
        """A person's mask of an object: it enters the memory as it is and is never overwritten by a track."""
        self._need_memory()
        mask = np.asarray(mask, bool)
        if mask.shape != self.size(frame):
            raise PromptError(f"the mask is {mask.shape}, frame {frame} is {self.size(frame)}; draw it on this frame")
        self._take_up(object_id)
        known = self.known.corrected(object_id)
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
        return self.known.add(self.thing_of(frame, object_id, mask))

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
            for walked in self.walks.walk(objects, frames, mode) if frames else ():
                if walked is None:
                    if pauses:
                        yield None
                elif start <= walked.frame < stop and not (number and walked.frame == frames[0]):
                    yield walked

    def objects(self, object_ids: Sequence[str]) -> list[Tracked]:
        """What is known of the objects. Raises PromptError for those that were never prompted, and for none at all."""
        for object_id in object_ids:
            self._take_up(object_id)
        objects, missing = self.known.followed(object_ids)
        if missing or not objects:
            raise PromptError(f"nothing to track: {', '.join(missing) or 'no object was named'}; prompt it first")
        return objects

    def _take_up(self, object_id: str) -> None:
        """Makes an object of what words found, if it is not one yet: from here on it is known by these masks."""
        findings = self.known.only_found(object_id)
        if not findings:
            return
        surest = max(findings, key=lambda frame: findings[frame].score)
        known = self._from_mask(surest, object_id, findings[surest].mask())
        for frame, finding in findings.items():
            known.anchors.setdefault(frame, Anchor(frame, finding.mask(), finding.score))

    def advance(
        self, track: ObjectTrack, frame: int, first: bool, priority: Priority = Priority.TRACK,
        replaces: Turn | None = None,
    ) -> Stop:  # fmt: skip
        """See :meth:`x2sam.inference.walks.Walks.advance`."""
        return self.walks.advance(track, frame, first, priority, replaces)

    def close(self) -> None:
        """Forgets everything prompted. Features of media that has a name stay while they fit, for whoever opens it
        next; those of nameless media go at once, nobody can come back to them."""
        if not self.looking.named:
            self.engine.cache.forget(self.looking.key)
        self.known.clear()
        self.answers.clear()

    def _need_memory(self) -> None:
        if not self.engine.remembers:
            raise PicturesOnlyError.of(self.engine.name)

    def new_id(self) -> str:
        """A name that no object of this session has."""
        return self.known.new_id()

    def note_objects(self, objects: Sequence[ClipObject]) -> None:
        """Keeps what words found in the clip, so that it can be tracked."""
        self.known.found({one.object_id: one.findings for one in objects})

    def _check_inside(self, prompt: Prompt, frame: int) -> None:
        height, width = self.size(frame)
        for point in prompt.points:
            if not (0 <= point.x <= width and 0 <= point.y <= height):
                raise PromptError(f"the click {point.x:g}, {point.y:g} is outside the picture of {width} x {height}")
        for mask in (*prompt.masks, *([] if prompt.previous is None else [prompt.previous])):
            if mask.shape != (height, width):
                raise PromptError(f"the mask is {mask.shape[1]} x {mask.shape[0]}, the picture {width} x {height}")

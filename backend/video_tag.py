"""Answers to texts on a Video tag: objects followed over the frames, as boxes over time.

Words are looked for on a sample of the frames, and what they find is followed from there. ``track`` follows the
rectangles that stand: the box at each keyframe of a person is asked for a mask there, the masks are walked to from both
sides, and these keyframes come back as they are. Nothing is drawn where a person hid a rectangle.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend import replies, video_replies
from backend.answers import Answer, Services, only_words, reply_items
from backend.clip_words import SEARCH_SHARE, Seen, numbered, search_clip, session_on
from backend.cloud_storage import through_label_studio
from backend.engines import Engine, Session
from backend.errors import MediaError
from backend.evidence import Work
from backend.geometry import Box, corners_to_box, corners_to_mask, mask_to_box, percent_to_corners
from backend.label_config import ControlTag, Label, LabelConfig, ObjectTag, task_value
from backend.look_list import Suspect, worst_first
from backend.prompts import Ask
from backend.protocol import Task, TypedText
from backend.remembered import PackedMask, Step
from backend.results import Item
from backend.standing import SAME
from backend.track_replies import NOTHING_RUNS, Carriage
from backend.tracking import Order, Reach, order_of
from backend.video_boxes import box_iou, sequence_to_boxes, track_value
from backend.video_files import ClipFrames, frame_rate
from backend.video_regions import Keyframes, VideoRegion, numbers_of
from backend.video_walk import BoxWalk, Thing
from backend.words import category_names, label_for, needs_label, text_asks, understood
from x2sam.data.tasks import task_of
from x2sam.inference.clip_objects import ClipObject
from x2sam.inference.scheduler import Turn
from x2sam.stages import stage
from x2sam.structures import Prompt

MOST_ANCHORS, MOST_OF_ALL = 64, 192
"""Keyframes of a rectangle, and of all together, that are asked for masks, evenly chosen where a person made more; all
come back. An open session remembers the masks of so many."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A rectangle to make. ``known`` are masks by frame of the clip; ``fixed`` a person's keyframes, and ``hidden`` the
    frames that they hide, by Label Studio's numbers; ``standing`` is what is on the screen."""

    id: str
    label: str
    known: Mapping[int, PackedMask]
    fixed: Keyframes = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()
    standing: VideoRegion | None = None

    @property
    def fingerprint(self) -> tuple:
        """Equal where nothing that is known has changed."""
        masks = tuple(sorted((frame, mask.data) for frame, mask in self.known.items()))
        return self.id, masks, tuple(sorted((number, numbers_of(key)) for number, key in self.fixed.items()))


def answer_video(
    services: Services, task: Task, config: LabelConfig, tag: ObjectTag, texts: Sequence[TypedText], work: Work,
    turn: Turn | None = None,
) -> Answer:  # fmt: skip
    """The answer to the newest text; ``work`` is what the person has on the screen.

    :raises MediaError: the video can't be had or decoded.
    :raises LabelConfigError: the task has none.
    """
    control = next(config.on(tag.name, "videorectangle"), None)
    labels = [label for parent in config.on(tag.name, "labels") for label in parent.labels]
    if control is None or not labels or not texts:
        return only_words(config, tag, video_replies.NO_RECTANGLES)
    engine = services.engines.wait(services.settings.load_wait)
    if not engine.remembers:
        return only_words(config, tag, replies.pictures_only(engine.name))
    begun = time.monotonic()
    value = task_value(tag, task.data)
    if not isinstance(value, str) or not value.strip():
        raise MediaError("The task holds no address of a video; check its data against the labeling configuration.")
    video = services.video_files.open(through_label_studio(value, task.id))
    frames = ClipFrames(services.video_files, video, frame_rate(tag, task.data))
    request = _Request(services, task, config, tag, control, labels, frames, work, turn, begun)
    # Texts of several fields come together, and nothing tells which one is new but that it did not come before.
    fresh = [one for one in texts if services.remembered.first_time(("text", task.id, one.id, one.page, one.text))]
    text = (fresh or texts)[-1]
    order = order_of(text.text)
    if order is None:
        return request.found_by(text)
    return request.followed(order.reach) if order.kind == "track" else request.told_about(order)


@dataclass(frozen=True, eq=False)
class _Request:
    """One request about a video."""

    services: Services
    task: Task
    config: LabelConfig
    tag: ObjectTag
    control: ControlTag
    labels: Sequence[Label]
    frames: ClipFrames
    work: Work
    turn: Turn | None
    begun: float

    @property
    def _engine(self) -> Engine:
        return self.services.engines.wait(self.services.settings.load_wait)

    def followed(self, reach: Reach) -> Answer:
        """Everything that stands, followed on."""
        subjects: list[Subject] = []
        with session_on(self.services, self.frames) as session:
            for region in self._standing():
                if subjects and self._seconds_to_look() <= 0:
                    return self._told(video_replies.rectangles_looked_at(len(subjects), len(self._standing())))
                subjects.append(self._subject(session, region))
        subjects = [one for one in subjects if _seen(one)]
        if not subjects:
            return self._told(video_replies.NOTHING_TO_FOLLOW)
        if all(self._is_done(one, reach) for one in subjects):
            return self._told(video_replies.RECTANGLES_KEPT)
        return self._walked(subjects, reach)

    def told_about(self, order: Order) -> Answer:
        """The other commands: a lock is on all that stands; nothing goes on between requests that could be stopped."""
        if order.kind == "gone":
            return self._told(video_replies.HIDE_IT)
        if order.kind != "lock":
            return self._told(NOTHING_RUNS)
        for region in self._standing():
            self.services.told_sequences.forget(self.task.id, region.id)
        return self._told(video_replies.LOCKED if self._standing() else video_replies.NOTHING_TO_LOCK)

    def found_by(self, text: TypedText) -> Answer:
        """What a text finds, followed over the whole video."""
        (ask,) = text_asks(self.task, [text], self.config, self.labels, self)
        if needs_label(ask) and not (ask.label or label_for(self.labels, ask.typed)):
            return self._told(replies.which_label([label.value for label in self.labels], ask.typed))
        if ask.prompt.text is not None and task_of(ask.prompt, "video").name == "chat":
            with session_on(self.services, self.frames) as session:
                told = session.chat(ask.prompt.text, replaces=self.turn)[0]
                return self._told(told.strip() or replies.NO_ANSWER)
        seconds = self._seconds_to_look()
        seen = search_clip(self.services, self.frames, ask.prompt, ask.page, seconds, turn=self.turn)
        sentence, subjects = self._named(ask, seen)
        for one in subjects:
            for frame, mask in one.known.items():
                step = Step(one.label, frame, mask, 1.0)
                self.services.remembered.add(self.task.id, one.id, ask.prompt_ids, step)
        subjects = [self._with_standing(one) for one in subjects]
        return self._walked(subjects, Reach(), sentence) if subjects else self._told(sentence)

    def example(self, _page: int | None) -> Ask | None:
        """The newest rectangle on the screen, for “all”: the frame of the clip is its page."""
        if not self._standing():
            return None
        region = self._standing()[-1]
        key = region.keyframes[min(self._fixed(region) or region.keyframes)]
        box = sequence_to_boxes([{**key, "frame": 1}], self.frames.video.size, 1)[0]
        frame = self.frames.at(key["frame"])
        return Ask(region.id, Prompt(boxes=(box,)), self.tag.name, label=region.label, page=frame) if box else None

    def _seconds_to_look(self) -> float:
        """What is left for finding out what there is to follow."""
        return SEARCH_SHARE * self.services.settings.track_seconds - (time.monotonic() - self.begun)

    # what is known

    def _standing(self) -> tuple[VideoRegion, ...]:
        """What is on the screen; where nothing is saved of that, what was submitted."""
        if not self.work.boxes and self.work.annotation is not None:
            return self.work.annotation.boxes
        return self.work.boxes

    def _fixed(self, region: VideoRegion) -> dict[int, Mapping[str, Any]]:
        """The keyframes of a region that are the person's, or were submitted."""
        mine = self.services.told_sequences.persons(self.task.id, region)
        submitted = self.work.filed if self.work.boxes else self._standing()
        for one in submitted:
            if one.id == region.id:
                mine |= {number: key for number, key in region.keyframes.items() if number in one.keyframes}
        return mine

    def _subject(self, session: Session, region: VideoRegion) -> Subject:
        """What is known of a region that stands."""
        fixed = self._fixed(region)
        known = {frame: mask for frame, mask in self._remembered(region.id).items()}
        most = max(2, min(MOST_ANCHORS, MOST_OF_ALL // max(len(self._standing()), 1)))
        asked = _thinned(sorted(fixed), most) if fixed or known else sorted(region.keyframes)[:1]
        known |= {self.frames.at(number): self._mask_at(session, region.keyframes[number]) for number in asked}
        hidden = frozenset(region.hidden(len(self.frames.shown), fixed))
        known = self._without(known, fixed, hidden)
        return Subject(region.id, region.label, known, fixed, hidden, region)

    def _with_standing(self, one: Subject) -> Subject:
        """What words found, with what a person did to the same rectangle before."""
        region = next((region for region in self._standing() if region.id == one.id), None)
        if region is None:
            return one
        with session_on(self.services, self.frames) as session:
            here = self._subject(session, region)
        return Subject(one.id, region.label or one.label, {**one.known, **here.known}, here.fixed, here.hidden, region)

    def _remembered(self, region_id: str) -> dict[int, PackedMask]:
        """Masks that words found."""
        remembered = self.services.remembered
        pages = (page for page in remembered.pages(self.task.id, region_id) if page < len(self.frames))
        return {page: remembered.steps(self.task.id, region_id, page)[-1].mask for page in pages}

    def _without(
        self, known: Mapping[int, PackedMask], fixed: Keyframes, hidden: frozenset[int]
    ) -> dict[int, PackedMask]:
        """Known masks, without those that a person hid; at the ends of what is hidden it is known to be out of
        sight."""
        if not hidden:
            return dict(known)
        empty = PackedMask.of(np.zeros(self.frames.video.size, bool))
        shown = {self.frames.at(number) for number in fixed}
        gone = {self.frames.at(number) for number in hidden} - shown
        ends = {frame for frame in gone if not {frame - 1, frame + 1} <= gone}
        return {frame: mask for frame, mask in known.items() if frame not in gone} | dict.fromkeys(ends, empty)

    def _mask_at(self, session: Session, key: Mapping[str, Any]) -> PackedMask:
        """What is in the box of a keyframe; the box itself where nothing is found."""
        size, frame = self.frames.video.size, self.frames.at(key["frame"])
        measures = (float(key.get(name, 0)) for name in ("x", "y", "width", "height", "rotation"))
        corners = percent_to_corners(*measures, size)
        filled = corners_to_mask(corners, size)
        x0, y0, x1, y1 = box = corners_to_box(corners, size)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return PackedMask.of(filled)
        turned = key.get("rotation", 0) % 360
        prompt = Prompt(masks=(filled,)) if turned else Prompt(boxes=(box,))
        masks = session.segment(prompt, frame=frame, replaces=self.turn)
        return PackedMask.of(masks[0].mask if masks and masks[0].mask.any() else filled)

    def _named(self, ask: Ask, seen: Seen) -> tuple[str, list[Subject]]:
        """What is told about a text, and what it found."""
        names = category_names(ask.prompt)
        alike = ask.prompt.task == "vgdseg"
        things = [thing for thing in seen.objects if not (alike and self._is_marked(thing))]
        kept, told, strange = [], [], []
        for number, thing in enumerate(things):
            phrase = thing.phrase or (names[thing.category] if names else "")
            label = ask.label or getattr(
                label_for(self.labels, *((phrase,) if names else (phrase, ask.typed))), "value", None
            )
            if label is None:
                strange.append(phrase)
                continue
            known = {frame: PackedMask.of(thing.mask(frame).mask) for frame in thing.findings}
            kept.append(Subject(numbered(ask.object_id, number), label, known))
            told.append(thing.mask(thing.surest))
        sentences = [seen.text] if seen.text else []
        if alike:
            sentences.append(replies.about_all(ask.label or "", told, len(seen.objects) - len(things)))
        elif kept or not strange:
            sentences.append(replies.about_text(ask.typed or "", told))
        if strange:
            sentences.append(replies.no_label_for(strange, [label.value for label in self.labels]))
        if not seen.finished:
            sentences.append(video_replies.LOOKED_AT_SOME)
        sentences.append(understood(ask, self._engine.words))
        return " ".join(filter(None, sentences)), [one for one in kept if _seen(one)]

    def _is_marked(self, thing: ClipObject) -> bool:
        """Whether a rectangle on the screen is about where a thing is seen best."""
        size, number = self.frames.video.size, int(np.searchsorted(self.frames.shown, thing.surest)) + 1
        box = mask_to_box(thing.mask(thing.surest).mask)
        drawn = (sequence_to_boxes(list(one.keyframes.values()), size, number)[-1] for one in self._standing())
        return box is not None and any(_overlap(box, other) > SAME for other in drawn if other is not None)

    # the walk

    def _walked(self, subjects: Sequence[Subject], reach: Reach, before: str = "") -> Answer:
        directions, stop = self._way(subjects, reach)
        engine = self._engine
        about = (engine.version, self.task.id, self.work.person)
        key = (*about, directions, stop, tuple(one.fingerprint for one in subjects))
        walk = self.services.walks.take(key)
        if walk is None:
            name = self.frames.key
            things = [Thing(one.id, one.known) for one in subjects]
            walk = BoxWalk(lambda: engine.open(self.frames, key=name), things, directions, stop)
        left = self.services.settings.track_seconds - (time.monotonic() - self.begun)
        with stage("segment"):
            walk.go_on(left, lambda: self.services.admission.stopping)
        if walk.finished:
            self._note_doubts(subjects, walk)
        else:
            self.services.walks.put(key, walk)
        items: list[Item] = []
        for one in subjects:
            item = self._item(one, walk)
            if item is not None:
                state = (reach, one.fingerprint) if walk.finished and walk.problem is None else None
                sequence = item["value"]["sequence"]
                self.services.told_sequences.note(self.task.id, one.id, sequence, one.fixed, state)
                items.append(item)
        told = self._about(subjects, walk)
        scores = [score for one in subjects for score in walk.paths[one.id].scores.values()]
        score = round(min(max(min(scores), 0.0), 1.0), 4) if scores else None
        told_items = reply_items(self.config, self.tag, [(None, f"{before} {told}".strip())])
        return Answer(items + told_items, score, len(items))

    def _way(self, subjects: Sequence[Subject], reach: Reach) -> tuple[tuple[str, ...], int]:
        """Directions, and the first frame of the clip that is too far."""
        count = len(self.frames)
        if reach.pages is not None:
            last = max(_seen(one)[-1] for one in subjects)
            number = int(np.searchsorted(self.frames.shown, last, side="right"))
            return ("forward",), min(count, self.frames.at(number + reach.pages) + 1)
        return {"both": ("forward", "backward")}.get(reach.direction, (reach.direction,)), count

    def _is_done(self, one: Subject, reach: Reach) -> bool:
        """Whether this was followed before and nothing has changed since."""
        told = self.services.told_sequences
        state = told.state(self.task.id, one.id)
        return state == (reach, one.fingerprint) and told.frames(self.task.id, one.id) == one.standing.keyframes.keys()

    def _boxes(self, one: Subject, walk: BoxWalk) -> list[Box | None]:
        """A box for each of Label Studio's frames, as far as they are known: what was not come by stays as it is drawn
        now, between the first and the last keyframe."""
        shown, found = self.frames.shown, walk.paths[one.id].boxes
        now: list[Box | None] = []
        numbers = range(0)
        if one.standing is not None:
            keys = one.standing.keyframes
            numbers = range(min(keys), max(keys) + 1)
            now = sequence_to_boxes(list(keys.values()), self.frames.video.size, min(max(keys), len(shown)))
        boxes: list[Box | None] = []
        known = 0
        for number, frame in enumerate(shown.tolist(), 1):
            box = None
            if frame in found or number in one.hidden:
                box, known = None if number in one.hidden else found[frame], number
            elif number in numbers:
                box, known = now[number - 1], number
            boxes.append(box)
        return boxes[:known]

    def _item(self, one: Subject, walk: BoxWalk) -> Item | None:
        frames, size = self.frames, self.frames.video.size
        value = track_value(
            self._boxes(one, walk), size, frames.rate, [one.label], fixed=one.fixed, frames=len(frames.shown)
        )
        if value is None:
            return None
        scores = walk.paths[one.id].scores.values()
        score = {"score": round(min(max(float(np.mean(list(scores))), 0.0), 1.0), 4)} if scores else {}
        name = one.standing.from_name if one.standing is not None and one.standing.from_name else self.control.name
        place = {"id": one.id, "from_name": name, "to_name": self.tag.name, "type": "videorectangle"}
        return {**place, "value": value, **score}

    def _note_doubts(self, subjects: Sequence[Subject], walk: BoxWalk) -> None:
        """The frames to look at first, for the task's ``meta``."""
        marked = []
        for one in subjects:
            for frame, score in walk.paths[one.id].scores.items():
                number = int(np.searchsorted(self.frames.shown, frame)) + 1
                if number not in one.fixed:
                    marked.append(Suspect(number, one.id, one.label, round(1 - score, 4), True))
        names = {one.id for one in subjects}
        self.services.look_lists.note(self.task.project, self.task.id, names, worst_first(marked), "frame")

    def _about(self, subjects: Sequence[Subject], walk: BoxWalk) -> str:
        """The sentence about a walk, in Label Studio's numbers of frames less one, as pages are counted."""
        told = []
        for one in subjects:
            path = walk.paths[one.id]
            unseen = [frame for frame, box in path.boxes.items() if box is None]
            numbers = np.isin(self.frames.shown, unseen).nonzero()[0]
            gone = [number for number in numbers.tolist() if number + 1 not in one.hidden]
            scores = [(score, int(np.searchsorted(self.frames.shown, at))) for at, score in path.scores.items()]
            told.append(Carriage(one.label, gone, [pair for pair in scores if pair[1] + 1 not in one.fixed]))
        about = video_replies.about_frames(told, walk.done, walk.total, walk.finished, walk.problem)
        return f"{about} {video_replies.ends_early(self.frames.video.missing)}".strip()

    def _told(self, sentence: str) -> Answer:
        return only_words(self.config, self.tag, sentence)


def _seen(one: Subject) -> list[int]:
    return Thing(one.id, one.known).seen


def _overlap(one: Box, other: Box) -> float:
    rows = [np.array([[x0, y0, x1 - x0, y1 - y0]]) for x0, y0, x1, y1 in (one, other)]
    return float(box_iou(*rows)[0])


def _thinned(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many, evenly chosen, both ends among them."""
    if len(numbers) <= most:
        return list(numbers)
    chosen = np.linspace(0, len(numbers) - 1, most).round().astype(int)
    return [numbers[i] for i in chosen.tolist()]

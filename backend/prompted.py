"""The answer to the prompts of a person who is waiting for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend import replies
from backend.answers import Answer, Services, frames_of, object_tag, only_words, reply_items, segment
from backend.carried import Carried, Known, Screen, fingerprint
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.history import History
from backend.label_config import ControlTag, Label, LabelConfig, ObjectTag
from backend.prompts import Ask, all_asks, region_asks, text_name
from backend.protocol import Context, DrawnRegion, Task, TypedText
from backend.remembered import PackedMask
from backend.results import Item, Place, region_items, task_score
from backend.standing import overlap
from backend.tracking import Reach, Track, command_of, session_opener
from backend.words import category_names, label_for, needs_label, text_asks
from x2sam.inference.scheduler import Turn
from x2sam.stages import stage
from x2sam.structures import Mask, Prompt

SAME = 0.7
"""Masks that overlap more than this show the same thing."""


@dataclass(frozen=True, eq=False)
class Found:
    """A mask with its name, its label, the tag that it goes to, and its page where that is not the question's."""

    object_id: str
    label: str
    control: ControlTag
    mask: Mask
    page: int | None = None


@dataclass(frozen=True, eq=False)
class Reply:
    """What came of one question: ``sentence`` tells it, ``others`` are masks that are only shown again, ``carried``
    those that were made on other pages."""

    ask: Ask
    sentence: str
    found: Sequence[Found] = ()
    others: Sequence[Found] = ()
    carried: Sequence[Found] = ()


def answer_context(services: Services, task: Task, config: LabelConfig, context: Context, work: Work) -> Answer:
    """The answer to clicks, boxes or text; ``work`` is what the person has on the screen."""
    texts = tuple(text for text in context.texts if config.is_text_prompt(text.from_name))
    prompts = context.regions or texts
    if not prompts:
        return Answer()
    turn = services.turns.take(task.id, prompts, work.person)
    tag = object_tag(config, prompts[-1].to_name)
    if tag.kind == "video":
        return only_words(config, tag, replies.VIDEO_TAG)
    frames, paged = frames_of(services, tag, task)
    history = History(task.id, work, services.remembered, frames.size_of)
    request = _Request(services, task, config, tag, frames, paged, work, history, turn)
    given = request.regions(context.regions) if context.regions else request.texts(texts)
    if not given:
        return only_words(config, tag, replies.ANSWERED_BEFORE, prompts[-1].page)
    if _teaches(services, task, context.regions, work):
        hints = replies.ALT_CLICK
        if request.can_track and any(config.is_text_prompt(name) for name in config.controls):
            hints += f" {replies.TRACK}"
        given = [replace(reply, sentence=f"{reply.sentence} {hints}") for reply in given]
    return request.answer(given)


def _teaches(services: Services, task: Task, regions: Sequence[DrawnRegion], work: Work) -> bool:
    """Whether it is time to tell about Alt + click: after the first click on a task, once."""
    first = len(regions) == 1 and not regions[0].box and regions[0].positive
    return first and not work.regions and services.remembered.first_time(("alt", task.id, work.person))


@dataclass(frozen=True, eq=False)
class _Request:
    """One request about the pictures of a task."""

    services: Services
    task: Task
    config: LabelConfig
    tag: ObjectTag
    frames: TaskFrames
    paged: bool
    work: Work
    history: History
    turn: Turn | None
    begun: float = field(default_factory=time.monotonic)

    @property
    def can_track(self) -> bool:
        return self.paged and len(self.frames) > 1

    def regions(self, regions: Sequence[DrawnRegion]) -> list[Reply]:
        """The replies to clicks or boxes. Tags that find one object and tags that find all may share a context: the
        one that was used last is meant."""
        used = self._finds_all(regions[-1])
        regions = [r for r in regions if r.to_name == self.tag.name and self._finds_all(r) == used]
        if used:
            asks = all_asks(self.task, regions, self.frames.size_of)
        else:
            if any(self._tracks(region) for region in regions):  # the same clicks, whichever tag they were made with
                regions = [replace(region, from_name=regions[-1].from_name) for region in regions]
            asks = region_asks(self.task, regions, self.frames.size_of, self.history)
        asks = self._on_pages(asks)
        given = []
        for ask, (_, masks) in zip(asks, self._segment(asks), strict=True):
            control = self.config.output(self.tag.name, ask.from_name, ask.label)
            label = control.label_value(ask.label)
            if used:
                given.append(self._all_reply(ask, label, control, masks))
                continue
            found = _numbered(ask, [(label, control, mask) for mask in masks])
            given.append(Reply(ask, replies.about_region(label, masks), found, self._siblings(ask)))
        if self._tracks(regions[-1]):
            return self._tracked(given)
        return given if used else self._with_other_pages(given)

    def texts(self, texts: Sequence[TypedText]) -> list[Reply]:
        """The replies to texts; a text whose label nobody knows is not asked."""
        texts = list({text.page: text for text in texts}.values())  # the newest of each page
        commands = {text: reach for text in texts if (reach := self._command(text)) is not None}
        command = self._meant(texts, commands)
        texts = [text for text in texts if text not in commands]
        if command is not None:
            return [self._tracked_on_command(command, commands[command], texts)]
        for text in texts:
            self.services.remembered.first_time(self._key(text))
        pairs = self.config.labels_on(self.tag.name)
        labels, controls = [label for label, _ in pairs], {label.value: control for label, control in pairs}
        asks = self._on_pages(text_asks(self.task, texts, self.config, labels, self.history))
        unclear = [ask for ask in asks if needs_label(ask) and not (ask.label or label_for(labels, ask.typed))]
        asked = [ask for ask in asks if ask not in unclear]
        given = [Reply(ask, replies.which_label([label.value for label in labels], ask.typed)) for ask in unclear]
        for ask, (words, masks) in zip(asked, self._segment(asked), strict=True):
            if ask.prompt.task == "vgdseg":
                control = controls.get(ask.label or "") or self.config.output(self.tag.name, None, ask.label)
                given.append(self._all_reply(ask, control.label_value(ask.label), control, masks))
            elif words is not None:
                given.append(Reply(ask, words))
            else:
                given.append(self._text_reply(ask, labels, controls, masks))
        return given

    def answer(self, given: Sequence[Reply]) -> Answer:
        """The result items, and a note of every mask for the next click."""
        items: list[Item] = []
        for reply in given:
            for found in reply.found:
                self.history.remember(reply.ask, found.object_id, found.label, found.mask)
            for found in reply.carried:
                mask = PackedMask.of(found.mask.mask)
                self.history.remember_track(found.object_id, found.label, found.page or 0, mask, found.mask.score)
            for found in (*reply.found, *reply.others, *reply.carried):
                items += self._items(reply.ask, found)
        masks = [found.mask for reply in given for found in (*reply.found, *reply.carried) if found.mask.mask.any()]
        told = reply_items(self.config, self.tag, [(reply.ask.page, reply.sentence) for reply in given])
        return Answer(items + told, task_score(masks), len(masks))

    def _finds_all(self, region: DrawnRegion) -> bool:
        control = self.config.controls.get(region.from_name)
        return control is not None and control.finds_all

    def _on_pages(self, asks: list[Ask]) -> list[Ask]:
        return [replace(ask, page=ask.frame) for ask in asks] if self.paged else asks

    def _segment(self, asks: Sequence[Ask]) -> list[tuple[str | None, list[Mask]]]:
        return segment(self.services, self.frames, asks, turn=self.turn) if asks else []

    def _text_reply(
        self, ask: Ask, labels: Sequence[Label], controls: dict[str, ControlTag], masks: Sequence[Mask]
    ) -> Reply:
        names = category_names(ask.prompt)
        if names:
            masks = [replace(mask, phrase=mask.phrase or names[mask.category]) for mask in masks]
        kept, strange = [], []
        for mask in masks:
            texts = (mask.phrase,) if names else (mask.phrase, ask.typed)
            label = ask.label or getattr(label_for(labels, *texts), "value", None)
            if label is None:
                strange.append(mask)
            else:
                kept.append((label, controls[label], mask))
        sentence = replies.about_text(ask.typed or "", [mask for *_, mask in kept] if kept or not strange else [])
        if strange:
            without = replies.no_label_for([mask.phrase or "" for mask in strange], [label.value for label in labels])
            sentence = f"{sentence} {without}" if kept else without
        return Reply(ask, sentence, _numbered(ask, kept))

    def _all_reply(self, ask: Ask, label: str, control: ControlTag, masks: Sequence[Mask]) -> Reply:
        """Every instance once, without those that a negative click says no to and those that are marked already."""
        new: list[Mask] = []
        for mask in sorted(masks, key=lambda mask: -mask.score):
            refused = any(_at(mask, point.x, point.y) for point in ask.unlike)
            if not refused and not any(overlap(mask.mask, other.mask) > SAME for other in new):
                new.append(mask)
        marked = self.history.standing_masks(label, ask.frame)
        fresh = [mask for mask in new if not any(overlap(mask.mask, known) > SAME for known in marked)]
        sentence = replies.about_all(label, fresh, len(new) - len(fresh))
        return Reply(ask, sentence, _numbered(ask, [(label, control, mask) for mask in fresh]))

    def _siblings(self, ask: Ask) -> list[Found]:
        found = []
        for name, step in self.history.siblings(ask):
            control = self.config.output(self.tag.name, ask.from_name, step.label)
            found.append(Found(name, step.label, control, Mask(step.mask.unpack(), step.score)))
        return found

    def _items(self, ask: Ask, found: Found) -> list[Item]:
        page = ask.page if found.page is None else found.page
        size = self.frames.shown_size_of(page or 0, ask.shown if page == ask.page else None)
        place = Place(found.object_id, self.tag.name, found.label, size, page)
        with stage("shape"):
            return region_items(found.control, place, found.mask, self.services.settings.polygon_tolerance)

    # over the pages

    def _tracks(self, region: DrawnRegion) -> bool:
        control = self.config.controls.get(region.from_name)
        return self.can_track and control is not None and control.tracks

    def _command(self, text: TypedText) -> Reach | None:
        return command_of(text.text, text.page) if self.can_track else None

    def _key(self, text: TypedText) -> tuple:
        return "text", self.task.id, text.id, text.page, text.text

    def _meant(self, texts: Sequence[TypedText], commands: Mapping[TypedText, Reach]) -> TypedText | None:
        """The command that was typed just now. Texts of all pages come together, and nothing tells which one is new
        but that it did not come before; where all of them did, it is a command, which may be given again."""
        fresh = [text for text in texts if not self.services.remembered.was_asked(self._key(text))]
        meant = [text for text in fresh if text in commands]
        if not meant and not fresh:
            meant = list(commands)
        return meant[-1] if meant else None

    def _tracked_on_command(self, text: TypedText, reach: Reach, others: Sequence[TypedText]) -> Reply:
        """Carries on what is on the screen, ``others`` being texts that may have found some of it."""
        self.services.remembered.first_time(self._key(text))
        ask = Ask(text_name(self.task.id, text), Prompt(), text.to_name, text.from_name, page=text.page)
        objects = self._screen().objects(others)
        return self._carry(ask, objects, reach) if objects else Reply(ask, replies.NOTHING_TO_TRACK)

    def _tracked(self, given: list[Reply]) -> list[Reply]:
        """The replies, the last one with the objects of all of them carried over all pages."""
        new: dict[str, dict[int, Known]] = {}
        for reply in given:
            for found in reply.found:
                known = Known(PackedMask.of(found.mask.mask), found.mask.score)
                new.setdefault(found.object_id, {})[reply.ask.frame] = known
        labels = {found.object_id: found.label for reply in given for found in reply.found}
        screen = self._screen()
        objects = [screen.object(name, labels[name], masks) for name, masks in new.items()]
        if not objects:
            return given
        last, done = given[-1], {(name, page) for name, masks in new.items() for page in masks}
        more = self._carry(last.ask, objects, Reach(), done)
        whole = replace(last, sentence=f"{last.sentence} {more.sentence}", carried=more.carried)
        return [*given[:-1], replace(whole, others=[*last.others, *more.others])]

    def _screen(self) -> Screen:
        return Screen.of(self.task.id, self.work, self.services.remembered, self.frames.size_of)

    def _carry(
        self, ask: Ask, objects: Sequence[Carried], reach: Reach, answered: set[tuple[str, int]] = frozenset()
    ) -> Reply:
        """Objects over the pages, as far as the time allows. What is known and waits to be accepted is shown again,
        unless it is ``answered`` by this request anyway."""
        key = (self.task.id, self.work.person, reach, fingerprint(objects))
        track = self.services.tracks.take(key)
        if track is None:
            engine = self.services.engines.wait(self.services.settings.load_wait)
            track = Track(session_opener(engine, self.frames, self.frames.key), len(self.frames), objects, reach)
        if all(track.wanted[one.object_id] <= one.kept for one in objects):
            return Reply(ask, replies.ALL_KEPT)
        left = self.services.settings.track_seconds - (time.monotonic() - self.begun)
        with stage("segment"):
            track.go_on(left, lambda: self.services.admission.stopping)
        if not track.finished:
            self.services.tracks.put(key, track)
        carried, others, told = [], [], []
        for one in objects:
            control = self._control_of(one)
            walked = {page: found[one.object_id] for page, found in track.found.items() if one.object_id in found}
            new = {page: mask for page, mask in walked.items() if page not in one.known and page not in one.kept}
            told.append(_carriage(one, walked, new))
            carried += [_on_page(one, control, page, mask) for page, mask in sorted(new.items())]
            shown = one.known.keys() - one.kept - {page for name, page in answered if name == one.object_id}
            others += [_on_page(one, control, page, one.known[page]) for page in sorted(shown)]
        sentence = replies.about_track(told, track.done, track.total, track.finished, track.problem)
        return Reply(ask, sentence, others=others, carried=carried)

    def _control_of(self, one: Carried) -> ControlTag:
        """The tag that its standing regions have, as far as their form tells."""
        for control in self.config.outputs(self.tag.name):
            if control.shape == one.shape and any(label.value == one.label for label in control.labels):
                return control
        return self.config.output(self.tag.name, None, one.label)

    def _with_other_pages(self, given: Sequence[Reply]) -> list[Reply]:
        """The replies, and what the same objects were carried to on other pages and waits there to be accepted."""
        pages: dict[str, set[int]] = {}
        prompts: dict[str, list[str]] = {}
        for reply in given:
            pages.setdefault(reply.ask.object_id, set()).add(reply.ask.frame)
            prompts.setdefault(reply.ask.object_id, []).extend(reply.ask.prompt_ids)
        whole = []
        for reply in given:
            name, here = reply.ask.object_id, pages.pop(reply.ask.object_id, None)
            steps = []
            if here is not None:
                steps = self.history.waiting_elsewhere(name, reply.ask.label or "", prompts[name], here)
            again = []
            for step in steps:
                control = self.config.output(self.tag.name, reply.ask.from_name, step.label)
                again.append(Found(name, step.label, control, Mask(step.mask.unpack(), step.score), step.page))
            whole.append(replace(reply, others=[*reply.others, *again]))
        return whole


def _numbered(ask: Ask, answers: Sequence[tuple[str, ControlTag, Mask]]) -> list[Found]:
    names = [ask.object_id, *(f"{ask.object_id}n{number + 2}" for number in range(len(answers) - 1))]
    return [Found(name, *answer) for name, answer in zip(names, answers, strict=bool(answers))]


def _on_page(one: Carried, control: ControlTag, page: int, known: Known) -> Found:
    return Found(one.object_id, one.label, control, Mask(known.mask.unpack(), known.score, one.object_id), page)


def _carriage(one: Carried, walked: Mapping[int, Known], new: Mapping[int, Known]) -> replies.Carriage:
    unseen = [page for page, known in walked.items() if known.mask.box is None]
    return replies.Carriage(one.label, unseen, [(known.score, page) for page, known in new.items() if known.mask.box])


def _at(mask: Mask, x: float, y: float) -> bool:
    height, width = mask.mask.shape
    return bool(mask.mask[min(int(y), height - 1), min(int(x), width - 1)])

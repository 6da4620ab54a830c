"""The answer to the prompts of a person who is waiting for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend import replies
from backend.answers import (
    Answer,
    Found,
    Reply,
    Services,
    frames_of,
    items_of,
    object_tag,
    only_words,
    reply_items,
    segment,
)
from backend.carrying import Carrier
from backend.clip_words import ClipWords, numbered
from backend.continued import note_seen
from backend.errors import EXPECTED, MediaTimeoutError
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.history import History
from backend.label_config import ControlTag, Label, LabelConfig, ObjectTag
from backend.prompts import Ask, all_asks, region_asks, text_name
from backend.protocol import Context, DrawnRegion, Task, TypedText
from backend.remembered import PackedMask
from backend.results import Item, task_score
from backend.standing import SAME, overlap
from backend.video_tag import answer_video
from backend.words import category_names, label_for, needs_label, text_asks, understood
from x2sam.data.tasks import task_of
from x2sam.inference.scheduler import Turn
from x2sam.structures import Mask

log = logging.getLogger(__name__)


def answer_context(services: Services, task: Task, config: LabelConfig, context: Context, work: Work) -> Answer:
    """The answer to clicks, boxes or text; ``work`` is what the person has on the screen."""
    texts = tuple(text for text in context.texts if config.is_text_prompt(text.from_name))
    prompts = context.regions or texts
    if not prompts:
        return Answer()
    turn = services.turns.take(task.id, prompts, work.person)
    tag = object_tag(config, prompts[-1].to_name)
    if tag.kind == "video":
        return answer_video(services, task, config, tag, texts, work, turn)
    work = work.on(tag.name)
    frames, paged = frames_of(services, tag, task)
    history = History(task.id, work, services.remembered, frames.size_of)
    carrier = Carrier(services, task, config, tag, frames, work, history, paged)
    request = _Request(services, task, config, tag, frames, paged, history, turn, carrier)
    given = request.regions(context.regions) if context.regions else request.texts(texts)
    if not given:
        return only_words(config, tag, replies.ANSWERED_BEFORE, prompts[-1].page)
    given = carrier.with_news(given)
    if any(map(carrier.asks_for_all, context.regions)) and not carrier.engine.remembers:
        told = f"{given[-1].sentence} {replies.pictures_only(carrier.engine.name)}"
        given = [*given[:-1], replace(given[-1], sentence=told)]
    if _teaches(services, task, context.regions, work):
        hints = replies.ALT_CLICK
        if carrier.can_track and any(config.is_text_prompt(name) for name in config.controls):
            tracked = any(map(carrier.tracks, context.regions))
            hints += f" {replies.MEND if tracked else replies.TRACK}"
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
    history: History
    turn: Turn | None
    carrier: Carrier

    @property
    def words(self) -> ClipWords:
        return ClipWords(self.services, self.frames, self.history, self.carrier, self.turn)

    def regions(self, regions: Sequence[DrawnRegion]) -> list[Reply]:
        """The replies to clicks or boxes. Tags that find one object and tags that find all may share a context: the
        one that was used last is meant."""
        used = self._finds_all(regions[-1])
        regions = [r for r in regions if r.to_name == self.tag.name and self._finds_all(r) == used]
        if used:
            asks = all_asks(self.task, regions, self.frames.size_of)
        else:
            if any(map(self.carrier.tracks, regions)):  # the same clicks, whichever tag they were made with
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
        if self.carrier.tracks(regions[-1]):
            return self.carrier.with_all_pages(given)
        return given if used else self.words.with_families(self.carrier.with_other_pages(given))

    def texts(self, texts: Sequence[TypedText]) -> list[Reply]:
        """The replies to texts; a text whose label nobody knows is not asked."""
        texts = list({text.page: text for text in texts}.values())  # the newest of each page
        command, texts = self.carrier.command_in(texts)
        if command is not None:
            return [self.carrier.obey(command, texts)]
        before = [text for text in texts if self.services.remembered.was_asked(self.carrier.key(text))]
        for text in texts:
            self.services.remembered.first_time(self.carrier.key(text))
        pairs = self.config.labels_on(self.tag.name)
        labels, controls = [label for label, _ in pairs], {label.value: control for label, control in pairs}
        asks = text_asks(self.task, texts, self.config, labels, self.history)
        unclear = [ask for ask in asks if needs_label(ask) and not (ask.label or label_for(labels, ask.typed))]
        which = [label.value for label in labels]
        given = [Reply(self._placed(ask), replies.which_label(which, ask.typed)) for ask in unclear]
        asked = [ask for ask in asks if ask not in unclear]
        over_clip = [ask for ask in asked if self.words.means_clip(ask)]
        alone = [] if over_clip else [ask for ask in asked if self._means_every_page(ask)]
        given += self._page_replies([ask for ask in asked if ask not in (*over_clip, *alone)], labels, controls)
        given += self._page_by_page(alone, texts, labels, controls)
        return given + self._clip_replies(over_clip, before, labels, controls)

    def answer(self, given: Sequence[Reply]) -> Answer:
        """The result items, and a note of every mask for the next click."""
        items: list[Item] = []
        given = [self._that_can_be_shown(reply) for reply in given]
        for reply in given:
            for found in reply.found:
                self.history.remember(reply.ask, found.object_id, found.label, found.mask)
            for found in reply.carried:
                mask = PackedMask.of(found.mask.mask)
                self.history.remember_track(found.object_id, found.label, found.page or 0, mask, found.mask.score)
            for found in (*reply.found, *reply.others, *reply.carried):
                items += items_of(self.services, self.tag, self.frames, reply.ask, found)
        shown = [found for reply in given for found in (*reply.found, *reply.others, *reply.carried)]
        labels = {found.object_id: found.label for found in shown}
        note_seen(self.services, self.task, self.frames, self.carrier.work, labels)
        masks = [found.mask for reply in given for found in (*reply.found, *reply.carried) if found.mask.mask.any()]
        told = reply_items(self.config, self.tag, [(reply.ask.page, reply.sentence) for reply in given])
        return Answer(items + told, task_score(masks), len(masks))

    def _that_can_be_shown(self, reply: Reply) -> Reply:
        """Without masks on other pages than the question's that can't be had now; it says so."""
        pages = {found.page for found in (*reply.others, *reply.carried)} - {None, reply.ask.page}
        gone = self._gone(sorted(pages))
        if not gone:
            return reply
        others = [found for found in reply.others if found.page not in gone]
        carried = [found for found in reply.carried if found.page not in gone]
        sentence = f"{reply.sentence} {replies.not_shown(gone)}"
        return replace(reply, sentence=sentence, others=others, carried=carried)

    def _gone(self, pages: Sequence[int]) -> list[int]:
        """The pages that can't be had; once one took too long, all that come after it."""
        gone = []
        for number, page in enumerate(pages):
            if page >= len(self.frames):  # the task had more once
                gone.append(page)
                continue
            try:
                self.frames.digest(page)  # it is fetched, if need be, and not decoded
            except MediaTimeoutError:
                return [*gone, *pages[number:]]
            except EXPECTED as error:
                log.warning("a page with a mask can not be had: %s", type(error).__name__)
                gone.append(page)
        return gone

    def _page_replies(
        self, asks: Sequence[Ask], labels: Sequence[Label], controls: dict[str, ControlTag]
    ) -> list[Reply]:
        """The replies to texts about one page each."""
        lost = [ask for ask in asks if ask.page is None and self.carrier.clip]
        given = [Reply(self.words.placed(ask), replies.WHICH_PAGE) for ask in lost]
        asks = self._on_pages([ask for ask in asks if ask not in lost])
        answers = self._in_time(asks)
        for ask, (words, masks) in zip(asks, answers, strict=False):  # those that there was time for
            if ask.prompt.task == "vgdseg":
                control = controls.get(ask.label or "") or self.config.output(self.tag.name, None, ask.label)
                given.append(self._all_reply(ask, control.label_value(ask.label), control, masks))
            elif words is not None and not task_of(ask.prompt, "image").segments:
                given.append(Reply(ask, words.strip() or replies.NO_ANSWER))
            else:
                reply = self._text_reply(ask, labels, controls, masks)
                told = " ".join(filter(None, ((words or "").strip(), reply.sentence)))
                given.append(replace(reply, sentence=told))
        if len(answers) < len(asks):
            given[-1] = replace(given[-1], sentence=f"{given[-1].sentence} {replies.LOOKED_AT_SOME}")
        return given

    def _in_time(self, asks: Sequence[Ask]) -> list[tuple[str | None, list[Mask]]]:
        """The answers to questions about one page each, as many as there is time for."""
        answers: list[tuple[str | None, list[Mask]]] = []
        for ask in asks:
            if answers and self.carrier.time_is_up:
                break
            answers += self._segment([ask])
        return answers

    def _means_every_page(self, ask: Ask) -> bool:
        """Whether a text is about the whole clip and the model has no memory, so that each page is asked by itself."""
        return ask.page is None and not ask.here and self.carrier.clip and not self.carrier.engine.remembers

    def _page_by_page(
        self, asks: Sequence[Ask], texts: Sequence[TypedText], labels: Sequence[Label], controls: dict[str, ControlTag]
    ) -> list[Reply]:
        """The replies to texts about every page: of the pages where something was found, or one."""
        known = {text_name(self.task.id, text): text for text in texts}
        pages = [replace(known[ask.object_id], page=page) for ask in asks for page in range(len(self.frames))]
        given = self._page_replies(text_asks(self.task, pages, self.config, labels, self.history), labels, controls)
        if not given:
            return []
        late = replies.LOOKED_AT_SOME if replies.LOOKED_AT_SOME in given[-1].sentence else ""
        kept = [reply for reply in given if reply.found] or given[:1]
        told = [kept[-1].sentence, replies.PAGE_BY_PAGE, late if late not in kept[-1].sentence else ""]
        return [*kept[:-1], replace(kept[-1], sentence=" ".join(filter(None, told)))]

    def _clip_replies(
        self, asks: Sequence[Ask], before: Sequence[TypedText], labels: Sequence[Label], controls: dict[str, ControlTag]
    ) -> list[Reply]:
        """The replies to texts about all pages. Texts of all pages come together: what those found that were asked
        ``before`` is shown again, unless there is no other."""
        known = {text_name(self.task.id, text): text for text in before}
        fresh = [ask for ask in asks if ask.object_id not in known]
        if not asks or not fresh:
            return self.words.replies(asks, labels, controls)
        given = self.words.replies(fresh, labels, controls)
        again = self.words.waiting([known[ask.object_id] for ask in asks if ask.object_id in known])
        return [*given[:-1], replace(given[-1], others=[*given[-1].others, *again])]

    def _finds_all(self, region: DrawnRegion) -> bool:
        control = self.config.controls.get(region.from_name)
        return control is not None and control.finds_all

    def _placed(self, ask: Ask) -> Ask:
        return self.words.placed(ask) if self.words.means_clip(ask) else self._on_pages([ask])[0]

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
        sentence = " ".join(filter(None, (sentence, understood(ask, self.carrier.engine.words))))
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


def _numbered(ask: Ask, answers: Sequence[tuple[str, ControlTag, Mask]]) -> list[Found]:
    return [Found(numbered(ask.object_id, number), *answer) for number, answer in enumerate(answers)]


def _at(mask: Mask, x: float, y: float) -> bool:
    height, width = mask.mask.shape
    return bool(mask.mask[min(int(y), height - 1), min(int(x), width - 1)])

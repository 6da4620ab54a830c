"""Words that mean a whole clip: looked for on its pages, joined to objects, and handed on to be carried over all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from backend import replies
from backend.answers import Found, Reply, Services
from backend.carried import Carried, Known
from backend.carrying import Carrier
from backend.engines import Session
from backend.errors import EXPECTED
from backend.frames import TaskFrames
from backend.history import History
from backend.label_config import ControlTag, Label, LabelConfig, ObjectTag
from backend.logs import note
from backend.prompts import Ask, text_name
from backend.protocol import TypedText
from backend.remembered import PackedMask
from backend.standing import SAME, overlap
from backend.tracking import Reach, session_opener
from backend.words import category_names, label_for, understood
from x2sam.data.tasks import task_of
from x2sam.errors import CancelledError
from x2sam.inference.clip_objects import ClipObject
from x2sam.inference.scheduler import Turn
from x2sam.stages import stage
from x2sam.structures import Mask, Prompt

SEARCH_SHARE = 0.5
"""Of the time for an answer, what looking for the words may take; the rest is for carrying."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of a search: objects, the pages that were looked at, words if the model said some, and how many things
    were found beyond what can be carried. ``finished`` is False where time ran out; ``problem`` says why it ended early
    otherwise."""

    objects: Sequence[ClipObject]
    looked: Sequence[int]
    text: str | None = None
    left_out: int = 0
    finished: bool = True
    problem: str | None = None

    @property
    def remark(self) -> str | None:
        """What to tell where not all was looked at."""
        return self.problem or (None if self.finished else replies.LOOKED_AT_SOME)


@dataclass(frozen=True, eq=False)
class Named:
    """An object that was found, with the name and the tag that its masks go to."""

    object_id: str
    label: str
    control: ControlTag
    thing: ClipObject

    def known(self, but: Iterable[int] = ()) -> dict[int, Known]:
        """Its masks by page, some pages left out."""
        pages = self.thing.findings.keys() - set(but)
        masks = {page: self.thing.mask(page) for page in sorted(pages)}
        return {page: Known(PackedMask.of(mask.mask), mask.score) for page, mask in masks.items()}


@contextmanager
def session_on(services: Services, frames: TaskFrames) -> Iterator[Session]:
    """The shared session on the pages of a task."""
    engine = services.engines.wait(services.settings.load_wait)
    key = frames.key
    note(session=key[:12])
    opener = session_opener(engine, frames, key)
    with services.sessions.use((engine.version, key), opener) as session, stage("segment"):
        yield session


def search_clip(
    services: Services, frames: TaskFrames, prompt: Prompt, first: int | None = None, seconds: float = 30.0,
    priority: int | None = None, turn: Turn | None = None,
) -> Seen:  # fmt: skip
    """Looks for words on the pages of a task until all is done or ``seconds`` are over, on one page at least.

    first: the page where the person is, or where the example is
    """
    end, problem = time.monotonic() + seconds, None
    urgency = {} if priority is None else {"priority": priority}
    with session_on(services, frames) as session:
        search = session.find_in_clip(prompt, first=first, replaces=turn, **urgency)
        try:
            for _ in search:
                late = time.monotonic() >= end or services.admission.stopping
                if late and search.looked:
                    break
        except CancelledError:
            raise
        except EXPECTED as error:  # a page that can't be had: what was found before it stays
            if not search.looked:
                raise
            problem = str(error)
        finally:
            search.close()
        return Seen(search.found(), tuple(search.looked), search.text, search.left_out, search.finished, problem)


@dataclass(frozen=True, eq=False)
class ClipWords:
    """Answers texts that mean all pages of a task; made for one request."""

    services: Services
    frames: TaskFrames
    history: History
    carrier: Carrier
    turn: Turn | None

    def means_clip(self, ask: Ask) -> bool:
        """Whether a text is about all pages: it is, unless it begins with ``here:`` or there is only one."""
        return self.carrier.can_track and not ask.here

    def replies(self, asks: Sequence[Ask], labels: Sequence[Label], controls: Mapping[str, ControlTag]) -> list[Reply]:
        """One reply for each text, the last one with all that was found carried over all pages."""
        given: list[Reply] = []
        objects: list[Named] = []
        for number, ask in enumerate(asks):
            if number and self._seconds() <= 0:
                given.append(Reply(self.placed(ask), replies.NO_TIME))
                continue
            sentence, found = self._answer(ask, labels, controls, self._seconds() / (len(asks) - number))
            given.append(Reply(self.placed(ask), sentence))
            objects += found
        if not objects:
            return given
        shown, more = carry_found(self.carrier, given[-1].ask, objects, self.carrier.carry_or_tell)
        sentence = f"{given[-1].sentence} {more.sentence}"
        carried = [*shown, *more.carried]
        return [*given[:-1], replace(given[-1], sentence=sentence, others=more.others, carried=carried)]

    def with_families(self, given: Sequence[Reply]) -> list[Reply]:
        """The replies to clicks; where one corrects what a text found in the clip, with the rest of that: it waits to
        be accepted, and the answer takes it off the screen."""
        if not self.carrier.can_track or not given:
            return list(given)
        roots = {reply.ask.object_id.split("n", 1)[0] for reply in given}
        texts = [text for text in self.carrier.work.texts if text_name(self.carrier.task.id, text) in roots]
        answered = {
            (found.object_id, reply.ask.frame if found.page is None else found.page)
            for reply in given
            for found in (*reply.found, *reply.others, *reply.carried)
        }
        return [*given[:-1], replace(given[-1], others=[*given[-1].others, *self.waiting(texts, answered)])]

    def waiting(self, texts: Iterable[TypedText], answered: Collection[tuple[str, int]] = ()) -> list[Found]:
        """What these texts found before and nobody has accepted: a new answer takes it off the screen, unless it has
        the object and page ``answered``."""
        remembered, task_id = self.services.remembered, self.carrier.task.id
        standing = {region.object_id for region in self.carrier.work.regions}
        found = []
        for text in texts:
            family = remembered.family(task_id, text_name(task_id, text))
            for name in family if not standing & set(family) else ():
                for page in remembered.pages(task_id, name):
                    step = remembered.steps(task_id, name, page)[-1]
                    if (name, page) not in answered:
                        control = self.carrier.config.output(self.carrier.tag.name, None, step.label)
                        mask = Mask(step.mask.unpack(), step.score, name)
                        found.append(Found(name, step.label, control, mask, page))
        return found

    def _seconds(self) -> float:
        """What is left for searching."""
        spent = time.monotonic() - self.carrier.begun
        return SEARCH_SHARE * self.services.settings.track_seconds - spent

    def _answer(
        self, ask: Ask, labels: Sequence[Label], controls: Mapping[str, ControlTag], seconds: float
    ) -> tuple[str, list[Named]]:
        """What is told about one text, and the objects that it found."""
        if ask.prompt.text is not None and task_of(ask.prompt, "video").name == "chat":
            with session_on(self.services, self.frames) as session:
                told = session.chat(ask.prompt.text, frame=ask.frame, replaces=self.turn)[0]
                return told.strip() or replies.NO_ANSWER, []
        seen = search_clip(self.services, self.frames, ask.prompt, ask.page, seconds, turn=self.turn)
        if ask.prompt.task == "vgdseg":
            return self._all_like_it(ask, controls, seen)
        return self._named(ask, labels, controls, seen)

    def _named(
        self, ask: Ask, labels: Sequence[Label], controls: Mapping[str, ControlTag], seen: Seen
    ) -> tuple[str, list[Named]]:
        names = category_names(ask.prompt)
        kept: list[Named] = []
        told: list[replies.Sight] = []
        strange: list[str] = []
        for number, thing in enumerate(seen.objects):
            phrase = thing.phrase or (names[thing.category] if names else "")
            texts = (phrase,) if names else (phrase, ask.typed)
            label = ask.label or getattr(label_for(labels, *texts), "value", None)
            if label is None:
                strange.append(phrase)
            else:
                told.append(replies.Sight(phrase, thing.score, thing.surest))
                kept.append(Named(numbered(ask.object_id, number), label, controls[label], thing))
        known = [label.value for label in labels]
        sentences = [seen.text] if seen.text else []
        if kept or not strange:
            sentences.append(replies.about_clip(ask.typed or "", told, seen.looked, len(self.frames), seen.left_out))
        if strange:
            sentences.append(replies.no_label_for(strange, known))
        if seen.remark:
            sentences.append(seen.remark)
        sentences.append(understood(ask, self.carrier.engine.words))
        return " ".join(filter(None, sentences)), kept

    def _all_like_it(self, ask: Ask, controls: Mapping[str, ControlTag], seen: Seen) -> tuple[str, list[Named]]:
        """Every object of the kind of an example, without those that are marked already on a page."""
        control = controls.get(ask.label or "") or self.carrier.config.output(self.carrier.tag.name, None, ask.label)
        label = control.label_value(ask.label)
        fresh = [thing for thing in seen.objects if not self._marked(thing, label)]
        kept = [Named(numbered(ask.object_id, number), label, control, thing) for number, thing in enumerate(fresh)]
        told = [Mask(thing.mask(thing.surest).mask, thing.score) for thing in fresh]
        sentence = replies.about_all(label, told, len(seen.objects) - len(fresh))
        return " ".join(filter(None, (sentence, seen.remark))), kept

    def _marked(self, thing: ClipObject, label: str) -> bool:
        return any(
            overlap(thing.mask(page).mask, known) > SAME
            for page in thing.findings
            for known in self.history.standing_masks(label, page)
        )

    def placed(self, ask: Ask) -> Ask:
        """With the page of its reply."""
        return ask if ask.page is not None else replace(ask, page=reply_page(self.carrier.config, self.carrier.tag))


def carry_found(
    carrier: Carrier, ask: Ask, objects: Sequence[Named], carry: Callable[..., Reply] | None = None
) -> tuple[list[Found], Reply]:
    """The masks that words found, and those that were made of them on the other pages. Pages where one of the objects
    stands as a person wants it keep what they have. ``carry`` is :meth:`Carrier.carry` or one like it."""
    screen = carrier.screen()
    carried: list[Carried] = []
    shown: list[Found] = []
    for named in objects:
        standing = screen.object(named.object_id, named.label)
        known = named.known(but=standing.kept)
        whole = screen.object(named.object_id, named.label, known)
        carried.append(replace(whole, shape=whole.shape or named.control.shape))
        for page, one in known.items():
            mask = Mask(one.mask.unpack(), one.score, named.object_id)
            shown.append(Found(named.object_id, named.label, named.control, mask, page))
    answered = {(found.object_id, found.page) for found in shown}
    return shown, (carry or carrier.carry)(ask, [one for one in carried if one.seen], Reach(), answered)


def reply_page(config: LabelConfig, tag: ObjectTag) -> int | None:
    """Where a sentence about the whole clip goes: to the first page where each page has a reply of its own."""
    reply = config.reply(tag.name)
    return 0 if reply is not None and reply.flag("perItem", default=False) else None


def numbered(name: str, number: int) -> str:
    """``obj``, ``objn2``, ``objn3`` ...: the objects of one answer."""
    return name if number == 0 else f"{name}n{number + 1}"

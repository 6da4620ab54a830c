"""Objects over the pages of a task, for one request: which command was typed, what comes along, and what is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend import replies
from backend.answers import Found, Reply, Services
from backend.carried import Carried, Known, Screen, fingerprint
from backend.continued import bring, joined
from backend.earlier_pages import EarlierPages
from backend.engines import Engine, Session
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.history import History
from backend.label_config import ControlTag, LabelConfig, ObjectTag
from backend.prompts import Ask, text_name
from backend.protocol import DrawnRegion, Task, TypedText
from backend.remembered import PackedMask
from backend.tracking import Reach, Track, command_of, session_opener
from x2sam.stages import stage
from x2sam.structures import Mask, Prompt


@dataclass(frozen=True, eq=False)
class Command:
    """A text that says what to do with what is on the screen."""

    text: TypedText
    reach: Reach


@dataclass(frozen=True, eq=False)
class Carrier:
    """Made for one request about the pages of a task; ``work`` is what the person who asks has on the screen,
    ``begun`` the time from which the limit of the answer counts, and ``earlier`` are pages that walks begin on."""

    services: Services
    task: Task
    config: LabelConfig
    tag: ObjectTag
    frames: TaskFrames
    work: Work
    history: History
    paged: bool = True
    begun: float = field(default_factory=time.monotonic)
    earlier: EarlierPages | None = None

    @property
    def can_track(self) -> bool:
        return self.paged and len(self.frames) > 1

    def tracks(self, region: DrawnRegion) -> bool:
        """Whether a region was drawn with a tag that asks for all pages."""
        control = self.config.controls.get(region.from_name)
        return self.can_track and control is not None and control.tracks

    def command_in(self, texts: Sequence[TypedText]) -> tuple[Command | None, list[TypedText]]:
        """The command that was typed just now, and the texts that are none.

        Texts of all pages come together, and nothing tells which one is new but that it did not come before; where all
        of them did, it is a command, which may be given again.
        """
        reaches = {text: reach for text in texts if (reach := self._command(text)) is not None}
        fresh = [text for text in texts if not self.services.remembered.was_asked(self.key(text))]
        meant = [text for text in fresh if text in reaches]
        if not meant and not fresh:
            meant = list(reaches)
        rest = [text for text in texts if text not in reaches]
        return (Command(meant[-1], reaches[meant[-1]]) if meant else None), rest

    def obey(self, command: Command, others: Sequence[TypedText]) -> Reply:
        """Carries on what is on the screen, ``others`` being texts that may have found some of it."""
        text = command.text
        self.services.remembered.first_time(self.key(text))
        ask = Ask(text_name(self.task.id, text), Prompt(), text.to_name, text.from_name, page=text.page)
        objects = self.screen().objects(others)
        if not command.reach.earlier and any(one.known.keys() - one.anew.keys() for one in objects):
            return self.carry(ask, objects, command.reach)
        # Nothing that is known here leads on: it may have come from the task before.
        brought = bring(self.services, self.task, self.tag, self.frames)
        if brought.objects:
            wanted = {one.object_id for one in objects if not command.reach.earlier}
            along = [one for one in brought.objects if one.object_id in wanted or not wanted]
            if along:
                whole = replace(self, earlier=brought.pages)
                return whole.carry(ask, joined(along, objects), command.reach)
        if command.reach.earlier:
            return Reply(ask, brought.problem)
        return self.carry(ask, objects, command.reach) if objects else Reply(ask, replies.NOTHING_TO_TRACK)

    def key(self, text: TypedText) -> tuple:
        """By this it is remembered that a text was asked."""
        return "text", self.task.id, text.id, text.page, text.text

    def with_all_pages(self, given: list[Reply]) -> list[Reply]:
        """The replies, the last one with the objects of all of them carried over all pages."""
        new: dict[str, dict[int, Known]] = {}
        for reply in given:
            for found in reply.found:
                known = Known(PackedMask.of(found.mask.mask), found.mask.score)
                new.setdefault(found.object_id, {})[reply.ask.frame] = known
        labels = {found.object_id: found.label for reply in given for found in reply.found}
        screen = self.screen()
        objects = [screen.object(name, labels[name], masks) for name, masks in new.items()]
        if not objects:
            return given
        last, done = given[-1], {(name, page) for name, masks in new.items() for page in masks}
        more = self.carry(last.ask, objects, Reach(), done)
        whole = replace(last, sentence=f"{last.sentence} {more.sentence}", carried=more.carried)
        return [*given[:-1], replace(whole, others=[*last.others, *more.others])]

    def with_other_pages(self, given: Sequence[Reply]) -> list[Reply]:
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

    def screen(self) -> Screen:
        """What the person has on the screen, as objects that can be carried."""
        return Screen.of(self.task.id, self.work, self.services.remembered, self.frames.size_of)

    def carry(
        self, ask: Ask, objects: Sequence[Carried], reach: Reach, answered: set[tuple[str, int]] = frozenset()
    ) -> Reply:
        """Objects over the pages, as far as the time allows. What is known and waits to be accepted is shown again,
        unless its object and page are ``answered`` by this request anyway."""
        key = (self.task.id, self.work.person, reach, fingerprint(objects))
        track = self.services.tracks.take(key)
        if track is None:
            engine = self.services.engines.wait(self.services.settings.load_wait)
            track = Track(self._opener(engine), len(self.frames), objects, reach)
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

    def _opener(self, engine: Engine) -> Callable[[], Session]:
        if self.earlier is not None:
            return self.earlier.opener(engine, self.frames)
        return session_opener(engine, self.frames, self.frames.key)

    def _command(self, text: TypedText) -> Reach | None:
        return command_of(text.text, text.page) if self.can_track else None

    def _control_of(self, one: Carried) -> ControlTag:
        """The tag that its standing regions have, as far as their form tells."""
        for control in self.config.outputs(self.tag.name):
            if control.shape == one.shape and any(label.value == one.label for label in control.labels):
                return control
        return self.config.output(self.tag.name, None, one.label)


def _on_page(one: Carried, control: ControlTag, page: int, known: Known) -> Found:
    return Found(one.object_id, one.label, control, Mask(known.mask.unpack(), known.score, one.object_id), page)


def _carriage(one: Carried, walked: Mapping[int, Known], new: Mapping[int, Known]) -> replies.Carriage:
    unseen = [page for page, known in walked.items() if known.mask.box is None]
    return replies.Carriage(one.label, unseen, [(known.score, page) for page, known in new.items() if known.mask.box])

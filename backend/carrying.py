"""Objects over the pages of a task, for one request: which command was typed, what comes along, and what is told.

Tracks go on in the background (:mod:`backend.background`); a request waits for its own as long as it may. What one of
them found since (:mod:`backend.own_tracks`) comes with the next prompt, but never on a page that is the person's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend import replies
from backend.answers import Found, Reply, Services
from backend.carried import Carried, Known, Screen
from backend.continued import bring, joined
from backend.earlier_pages import EarlierPages
from backend.engines import Engine
from backend.errors import OverloadedError
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.history import History
from backend.journal_tracks import RUNNING, STOPPED, TrackRecord
from backend.label_config import ControlTag, LabelConfig, ObjectTag
from backend.own_tracks import OwnTracks, with_drawn
from backend.page_commands import SAYINGS, waiting
from backend.prompts import Ask, text_name
from backend.protocol import DrawnRegion, Task, TypedText
from backend.remembered import PackedMask
from backend.track_job import Progress
from backend.track_replies import BEGUN_AGAIN, NOTHING_RUNS, Carriage, about_news, about_track
from backend.tracking import Order, Reach, order_of, pages_wanted
from x2sam.stages import stage
from x2sam.structures import Mask, Prompt


@dataclass(frozen=True, eq=False)
class Command:
    """A text that says what to do with what is on the screen."""

    text: TypedText
    order: Order


_STOP_SECONDS = 2.0


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
    def clip(self) -> bool:
        """Whether there are pages to carry something over."""
        return self.paged and len(self.frames) > 1

    @property
    def can_track(self) -> bool:
        return self.clip and self.engine.remembers

    @property
    def time_is_up(self) -> bool:
        """Whether what was asked has taken as long as tracks are waited for."""
        return time.monotonic() - self.begun > self.services.settings.track_seconds

    @property
    def engine(self) -> Engine:
        return self.services.engines.wait(self.services.settings.load_wait)

    @property
    def own(self) -> OwnTracks:
        """The tracks of the person who asks."""
        return OwnTracks(self.services, self.task, self.frames, self.work, self.earlier)

    def tracks(self, region: DrawnRegion) -> bool:
        """Whether a region was drawn with a tag that asks for all pages, and they can be had."""
        return self.asks_for_all(region) and self.engine.remembers

    def asks_for_all(self, region: DrawnRegion) -> bool:
        """Whether a region was drawn with a tag that asks for all pages."""
        control = self.config.controls.get(region.from_name)
        return self.clip and control is not None and control.tracks

    def command_in(self, texts: Sequence[TypedText]) -> tuple[Command | None, list[TypedText]]:
        """The command that was typed just now, and the texts that are none.

        Texts of all pages come together, and nothing tells which one is new but that it did not come before; where all
        of them did, it is a command, which may be given again.
        """
        orders = {text: order for text in texts if (order := self._order(text)) is not None}
        fresh = [text for text in texts if not self.services.remembered.was_asked(self.key(text))]
        meant = [text for text in fresh if text in orders]
        if not meant and not fresh:
            meant = list(orders)
        rest = [text for text in texts if text not in orders]
        return (Command(meant[-1], orders[meant[-1]]) if meant else None), rest

    def obey(self, command: Command, others: Sequence[TypedText]) -> Reply:
        """Does what was typed with what is on the screen, ``others`` being texts that may have found some of it."""
        text, order = command.text, command.order
        self.services.remembered.first_time(self.key(text))
        ask = Ask(text_name(self.task.id, text), Prompt(), text.to_name, text.from_name, page=text.page)
        if order.kind == "stop":
            return self._stop(ask)
        if order.kind in SAYINGS:
            screen = self.screen()
            sentence = SAYINGS[order.kind](screen, others, order.page)
            again = [_on_page(one, self._control_of(one), *known) for one, *known in waiting(screen, others)]
            return Reply(ask, sentence, others=again)
        return self._track(ask, order.reach, others)

    def _track(self, ask: Ask, reach: Reach, others: Sequence[TypedText]) -> Reply:
        if not self.engine.remembers:
            return Reply(ask, replies.pictures_only(self.engine.name))
        objects = self.screen().objects(others)
        if not reach.earlier and any(one.known.keys() - one.anew.keys() for one in objects):
            return self.carry(ask, objects, reach)
        # Nothing that is known here leads on: it may have come from the task before.
        brought = bring(self.services, self.task, self.tag, self.frames)
        if brought.objects:
            wanted = {one.object_id for one in objects if not reach.earlier}
            along = [one for one in brought.objects if one.object_id in wanted or not wanted]
            if along:
                whole = replace(self, earlier=brought.pages)
                return whole.carry(ask, joined(along, objects), reach)
        if reach.earlier:
            return Reply(ask, brought.problem)
        return self.carry(ask, objects, reach) if objects else Reply(ask, replies.NOTHING_TO_TRACK)

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
        if not new:
            return given
        screen = self.screen()
        shown = with_drawn(screen, new)
        objects = [shown.get(name) or screen.object(name, labels[name], masks) for name, masks in new.items()]
        last, done = given[-1], {(name, page) for name, masks in new.items() for page in masks}
        more = self.carry_or_tell(last.ask, objects, Reach(), done, self.own.apart(new))
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
        return self.own.screen()

    def carry(
        self, ask: Ask, objects: Sequence[Carried], reach: Reach, answered: set[tuple[str, int]] = frozenset(),
        apart: Sequence[TrackRecord] = (),
    ) -> Reply:  # fmt: skip
        """Objects over the pages, as far as the time allows; the rest goes on in the background. What is known and
        waits to be accepted is shown again, unless its object and page are ``answered`` by this request anyway. Tracks
        ``apart`` go on in the background only."""
        wanted = pages_wanted(objects, reach, len(self.frames))
        if not any(wanted.values()):
            return Reply(ask, replies.KNOWN_FURTHER_ON)
        if all(wanted[one.object_id] <= one.kept for one in objects):
            return Reply(ask, replies.ALL_KEPT)
        self.services.engines.wait(self.services.settings.load_wait)
        job = self.services.tracks.take_up(self.own.record(objects, reach), self.own.is_mine)
        for record in apart:
            self.services.tracks.take_up(record, self.own.is_mine)
        left = self.services.settings.track_seconds - (time.monotonic() - self.begun)
        with stage("segment"):
            progress = job.wait(left, lambda: self.services.admission.stopping)
        return self._reply(ask, objects, progress, answered)

    def carry_or_tell(
        self, ask: Ask, objects: Sequence[Carried], reach: Reach, answered: set[tuple[str, int]] = frozenset(),
        apart: Sequence[TrackRecord] = (),
    ) -> Reply:  # fmt: skip
        """As :meth:`carry`; where too many tracks wait, that is all it tells: what a prompt found is not lost by it."""
        try:
            return self.carry(ask, objects, reach, answered, apart)
        except OverloadedError as error:
            return Reply(ask, str(error))

    def carry_to_the_end(self, ask: Ask, objects: Sequence[Carried], reach: Reach) -> Reply | None:
        """As :meth:`carry`; None where it goes on in the background, for what is stored once and for all."""
        reply = self.carry(ask, objects, reach)
        runs = any(job.running for job in self.services.tracks.of_task(self.task.id))
        return None if runs else reply

    def with_news(self, given: Sequence[Reply]) -> list[Reply]:
        """The replies, the last one with what tracks in the background found since. A track whose objects were
        corrected meanwhile begins again with the corrections; what they do not touch stays."""
        if not self.clip or not given:
            return list(given)
        shown = {(found.object_id, self._page_of(reply, found)) for reply in given for found in _all_of(reply)}
        new: dict[str, dict[int, Known]] = {}
        for reply in given:
            for found in reply.found:
                known = Known(PackedMask.of(found.mask.mask), found.mask.score)
                new.setdefault(found.object_id, {})[self._page_of(reply, found)] = known
        whole = given[-1]
        for job, names in self.own.newest(new):
            if not (names & new.keys() or self.own.untold(job, names)):
                continue
            objects = self.own.now(job, new)
            if job.running and _corrected(job.record.objects, objects):
                try:
                    again = self.own.record(objects, job.record.reach, job)
                    job = self.services.tracks.take_up(again, self.own.is_mine)
                    told = BEGUN_AGAIN
                except OverloadedError as error:
                    told = str(error)
                whole = replace(whole, sentence=f"{whole.sentence} {told}")
            progress = job.progress()
            objects = [one for one in objects if one.object_id in names]
            news = [found for one in objects for found in self._news(one, progress) if _place(found) not in shown]
            if news:
                shown |= {_place(found) for found in news}
                told = about_news([one.label for one in objects], progress)
                whole = replace(whole, sentence=f"{whole.sentence} {told}", carried=[*whole.carried, *news])
        return [*given[:-1], whole]

    def predicted(self) -> Reply | None:
        """What tracks that ended have found, but for masks that a person made; None where that is nothing, where one
        still runs, or where it is several people's."""
        jobs = self.own.jobs()
        people = {job.person for job in jobs if job.person is not None}
        if any(job.running for job in jobs) or len(people) > 1:
            return None
        remembered, found = self.services.remembered, {}
        for job in jobs:  # the newest last
            masks = job.progress().found
            for one in job.record.objects:
                control = self._control_of(one)
                for page, here in masks.items():
                    known = here.get(one.object_id)
                    steps = remembered.steps(self.task.id, one.object_id, page)
                    ours = page not in one.known or any(known and step.mask == known.mask for step in steps)
                    if known is not None and ours:
                        found[one.object_id, page] = _on_page(one, control, page, known)
        ask = Ask("", Prompt(), self.tag.name)
        return Reply(ask, "", carried=[found[place] for place in sorted(found)]) if found else None

    def _stop(self, ask: Ask) -> Reply:
        """Ends the person's tracks; what they found is shown."""
        jobs = [job for job in self.own.jobs() if job.running and self.own.is_mine(job)]
        if not jobs:
            return Reply(ask, NOTHING_RUNS)
        given = []
        for job in jobs:
            self.services.tracks.stop(job)
            progress = job.wait(_STOP_SECONDS)
            if progress.state == RUNNING:  # it is in the middle of a page, and goes no further
                progress = replace(progress, state=STOPPED)
            given.append(self._reply(ask, self.own.now(job), progress))
        carried = [found for reply in given for found in reply.carried]
        others = [found for reply in given for found in reply.others]
        return Reply(ask, " ".join(reply.sentence for reply in given), others=others, carried=carried)

    def _reply(
        self, ask: Ask, objects: Sequence[Carried], progress: Progress, answered: set[tuple[str, int]] = frozenset()
    ) -> Reply:
        carried, others, told = [], [], []
        for one in objects:
            control = self._control_of(one)
            walked = {page: found[one.object_id] for page, found in progress.found.items() if one.object_id in found}
            new = {page: mask for page, mask in walked.items() if page not in one.known and page not in one.kept}
            told.append(_carriage(one, walked, new))
            carried += [_on_page(one, control, page, mask) for page, mask in sorted(new.items())]
            shown = one.known.keys() - one.kept - {page for name, page in answered if name == one.object_id}
            others += [_on_page(one, control, page, one.known[page]) for page in sorted(shown) if page >= 0]
        sentence = about_track(told, progress)
        return Reply(ask, sentence, others=others, carried=carried)

    def _news(self, one: Carried, progress: Progress) -> list[Found]:
        """What was found of an object and is not on the screen: all of it while none was accepted, since a new answer
        takes suggestions away; else what was not told yet."""
        found = {page: masks[one.object_id] for page, masks in progress.found.items() if one.object_id in masks}
        found = {page: known for page, known in found.items() if page not in one.known and page not in one.kept}
        fresh = [page for page, known in sorted(found.items()) if not self.own.was_told(one.object_id, page, known)]
        if fresh and not any(region.object_id == one.object_id for region in self.work.regions):
            fresh = sorted(found)
        control = self._control_of(one)
        return [_on_page(one, control, page, found[page]) for page in fresh]

    def _page_of(self, reply: Reply, found: Found) -> int:
        return reply.ask.frame if found.page is None else found.page

    def _order(self, text: TypedText) -> Order | None:
        return order_of(text.text, text.page) if self.clip else None

    def _control_of(self, one: Carried) -> ControlTag:
        """The tag that its standing regions have, as far as their form tells."""
        for control in self.config.outputs(self.tag.name):
            if control.shape == one.shape and any(label.value == one.label for label in control.labels):
                return control
        return self.config.output(self.tag.name, None, one.label)


def _on_page(one: Carried, control: ControlTag, page: int, known: Known) -> Found:
    mask = Mask(known.mask.unpack(), known.score, one.object_id, doubt=known.doubt)
    return Found(one.object_id, one.label, control, mask, page)


def _carriage(one: Carried, walked: Mapping[int, Known], new: Mapping[int, Known]) -> Carriage:
    unseen = [page for page, known in walked.items() if known.mask.box is None]
    sure = [(known.score if known.doubt is None else 1 - known.doubt, page) for page, known in new.items()]
    return Carriage(one.label, unseen, [(share, page) for share, page in sure if new[page].mask.box is not None])


def _all_of(reply: Reply) -> list[Found]:
    return [*reply.found, *reply.others, *reply.carried]


def _place(found: Found) -> tuple[str, int | None]:
    return found.object_id, found.page


def _corrected(before: Sequence[Carried], now: Sequence[Carried]) -> bool:
    """Whether masks are known now that were not, or that were others."""
    old = {one.object_id: one.known for one in before}
    return any(
        page not in old[one.object_id] or old[one.object_id][page].mask != known.mask
        for one in now
        for page, known in one.known.items()
    )

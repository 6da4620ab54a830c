"""Objects over the pages of a task, for one request: which command was typed, what comes along, and what is told.

Tracks go on in the background (:mod:`backend.background`); a request waits for its own as long as it may. What a track
found since belongs to who began it: the person whose draft came along then, or, where there was none, whoever has its
objects on the screen. It comes with their next prompt, but never on a page that is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2s

from backend import replies
from backend.answers import Found, Reply, Services
from backend.background import Progress, TrackJob
from backend.carried import Carried, Known, Screen, fingerprint
from backend.continued import bring, joined
from backend.earlier_pages import EarlierPages
from backend.engines import Engine
from backend.errors import OverloadedError
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.history import History
from backend.journal_tracks import RUNNING, STOPPED, TrackRecord
from backend.label_config import ControlTag, LabelConfig, ObjectTag
from backend.page_commands import SAYINGS, waiting
from backend.prompts import Ask, all_name, text_name
from backend.protocol import DrawnRegion, Task, TypedText
from backend.remembered import PackedMask
from backend.track_replies import BEGUN_AGAIN, NOTHING_RUNS, Carriage, about_news, about_track
from backend.tracking import Order, Reach, order_of, pages_wanted
from backend.video_addresses import same_pages
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
        with_drawn = _with_drawn(screen, new)
        objects = [with_drawn.get(name) or screen.object(name, labels[name], masks) for name, masks in new.items()]
        last, done = given[-1], {(name, page) for name, masks in new.items() for page in masks}
        more = self.carry_or_tell(last.ask, objects, Reach(), done, self._apart(new))
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
        job = self.services.tracks.take_up(self._record(objects, reach), self._is_mine)
        for record in apart:
            self.services.tracks.take_up(record, self._is_mine)
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
        for job, names in self._newest(new):
            if not (names & new.keys() or self._untold(job, names)):
                continue
            objects = self._now(job, new)
            if job.running and _corrected(job.record.objects, objects):
                try:
                    job = self.services.tracks.take_up(self._record(objects, job.record.reach, job), self._is_mine)
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
        jobs = self._jobs()
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
        jobs = [job for job in self._jobs() if job.running and self._is_mine(job)]
        if not jobs:
            return Reply(ask, NOTHING_RUNS)
        given = []
        for job in jobs:
            self.services.tracks.stop(job)
            progress = job.wait(_STOP_SECONDS)
            if progress.state == RUNNING:  # it is in the middle of a page, and goes no further
                progress = replace(progress, state=STOPPED)
            given.append(self._reply(ask, self._now(job), progress))
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

    def _jobs(self) -> list[TrackJob]:
        """The tracks on these pages, the oldest first; the task may have had others."""
        jobs = self.services.tracks.of_task(self.task.id)
        return [job for job in jobs if same_pages(job.record.pages, self.frames.addresses)]

    def _newest(self, new: Iterable[str]) -> Iterator[tuple[TrackJob, set[str]]]:
        """The person's tracks, the newest first, each with the objects that it is the newest of: what earlier ones
        found of them counts no more. ``new`` are objects that this request is about."""
        covered: set[str] = set()
        for job in reversed(self._jobs()):
            if self._is_mine(job, new):
                names = job.names - covered
                covered |= names
                if names and not job.cancelled:
                    yield job, names

    def _untold(self, job: TrackJob, names: Collection[str]) -> bool:
        """Whether a track found masks of these objects that no answer had yet."""
        known = {one.object_id: one.known.keys() for one in job.record.objects}
        return any(
            page not in known[name] and not self._was_told(name, page, mask)
            for page, masks in job.progress().found.items()
            for name, mask in masks.items()
            if name in names
        )

    def _was_told(self, name: str, page: int, known: Known) -> bool:
        return any(step.mask == known.mask for step in self.services.remembered.steps(self.task.id, name, page))

    def _news(self, one: Carried, progress: Progress) -> list[Found]:
        """What was found of an object and is not on the screen: all of it while none was accepted, since a new answer
        takes suggestions away; else what was not told yet."""
        found = {page: masks[one.object_id] for page, masks in progress.found.items() if one.object_id in masks}
        found = {page: known for page, known in found.items() if page not in one.known and page not in one.kept}
        fresh = [page for page, known in sorted(found.items()) if not self._was_told(one.object_id, page, known)]
        if fresh and not any(region.object_id == one.object_id for region in self.work.regions):
            fresh = sorted(found)
        control = self._control_of(one)
        return [_on_page(one, control, page, found[page]) for page in fresh]

    def _now(self, job: TrackJob, new: Mapping[str, Mapping[int, Known]] | None = None) -> list[Carried]:
        """The objects of a track as they are known now; ``new`` are masks that this request found."""
        new, screen = new or {}, self.screen()
        on_screen = _with_drawn(screen, new)
        objects = []
        for one in job.record.objects:
            now = on_screen.get(one.object_id) or screen.object(one.object_id, one.label, new.get(one.object_id))
            if not now.seen:
                now = replace(now, known={**one.known, **now.known})
            before = {page: known for page, known in one.known.items() if page < 0}
            objects.append(replace(now, known={**before, **now.known}, shape=now.shape or one.shape))
        return objects

    def _apart(self, names: Mapping[str, object]) -> list[TrackRecord]:
        """What is left of the person's running tracks without objects that are tracked anew by themselves."""
        records = []
        for job in self._jobs():
            runs = job.running and not job.cancelled and self._is_mine(job, names)
            if runs and names.keys() & job.names and job.names - names.keys():
                rest = [one for one in self._now(job) if one.object_id not in names]
                records.append(self._record(rest, job.record.reach, job))
        return records

    def _record(self, objects: Sequence[Carried], reach: Reach, job: TrackJob | None = None) -> TrackRecord:
        """What a track is about; equal for whoever asks the same."""
        pages = self.frames.addresses
        before = self.earlier.addresses if self.earlier is not None else ()
        earlier = job.record.earlier if job is not None else before
        version = self.services.model_version
        about = (self.task.id, version, pages, earlier, reach, fingerprint(objects))
        name = blake2s(repr(about).encode("utf-8", "replace"), digest_size=16).hexdigest()
        whole = (name, self.task.id, self._person, pages, tuple(objects), reach, earlier, version)
        return TrackRecord(*whole, project=self.task.project)

    @property
    def _person(self) -> str | None:
        """Stands for the person whose draft came with the request."""
        if self.work.person is None:
            return None
        return blake2s(self.work.person.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def _is_mine(self, job: TrackJob, names: Iterable[str] = ()) -> bool:
        if job.person is not None:
            return job.person == self._person
        return bool(job.names & {*names, *self._names()})

    def _names(self) -> set[str]:
        """Objects that are on the person's screen, or that prompts there found."""
        remembered, task_id = self.services.remembered, self.task.id
        names = {region.object_id for region in self.work.regions}
        roots = [text_name(task_id, text) for text in self.work.texts]
        for prompt in self.work.prompts:
            names.add(remembered.object_of(task_id, prompt.label or "", [prompt.id]) or "")
            roots.append(all_name(task_id, prompt.label, prompt.id))
        for root in roots:
            names.update(remembered.family(task_id, root))
        return names

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


def _with_drawn(screen: Screen, new: Mapping[str, Mapping[int, Known]]) -> dict[str, Carried]:
    """What is on a screen by name, with the masks drawn by hand that belong to it; empty where there are none."""
    return {one.object_id: one for one in screen.objects(new=new)} if screen.work.drawn else {}


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

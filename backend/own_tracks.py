"""Whose tracks these are: those on the pages of a task that belong to who asks, and what is known of their objects now.

A track belongs to who began it: the person whose draft came along then, or, where there was none, whoever has its
objects on the screen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2s

from backend.answers import Services
from backend.carried import Carried, Known, Screen, fingerprint
from backend.earlier_pages import EarlierPages
from backend.evidence import Work
from backend.frames import TaskFrames
from backend.journal_tracks import TrackRecord
from backend.prompts import all_name, text_name
from backend.protocol import Task
from backend.track_job import TrackJob
from backend.tracking import Reach
from backend.video_addresses import same_pages


@dataclass(frozen=True, eq=False)
class OwnTracks:
    """Made for one request about the pages of a task; ``work`` is what the person who asks has on the screen,
    ``earlier`` are pages that walks begin on."""

    services: Services
    task: Task
    frames: TaskFrames
    work: Work
    earlier: EarlierPages | None = None

    def screen(self) -> Screen:
        """What the person has on the screen, as objects that can be carried."""
        return Screen.of(self.task.id, self.work, self.services.remembered, self.frames.size_of)

    def jobs(self) -> list[TrackJob]:
        """The tracks on these pages, the oldest first; the task may have had others."""
        jobs = self.services.tracks.of_task(self.task.id)
        return [job for job in jobs if same_pages(job.record.pages, self.frames.addresses)]

    def newest(self, new: Iterable[str]) -> Iterator[tuple[TrackJob, set[str]]]:
        """The person's tracks, the newest first, each with the objects that it is the newest of: what earlier ones
        found of them counts no more. ``new`` are objects that this request is about."""
        covered: set[str] = set()
        for job in reversed(self.jobs()):
            if self.is_mine(job, new):
                names = job.names - covered
                covered |= names
                if names and not job.cancelled:
                    yield job, names

    def untold(self, job: TrackJob, names: Collection[str]) -> bool:
        """Whether a track found masks of these objects that no answer had yet."""
        known = {one.object_id: one.known.keys() for one in job.record.objects}
        return any(
            page not in known[name] and not self.was_told(name, page, mask)
            for page, masks in job.progress().found.items()
            for name, mask in masks.items()
            if name in names
        )

    def was_told(self, name: str, page: int, known: Known) -> bool:
        return any(step.mask == known.mask for step in self.services.remembered.steps(self.task.id, name, page))

    def now(self, job: TrackJob, new: Mapping[str, Mapping[int, Known]] | None = None) -> list[Carried]:
        """The objects of a track as they are known now; ``new`` are masks that this request found."""
        new, screen = new or {}, self.screen()
        on_screen = with_drawn(screen, new)
        objects = []
        for one in job.record.objects:
            now = on_screen.get(one.object_id) or screen.object(one.object_id, one.label, new.get(one.object_id))
            if not now.seen:
                now = replace(now, known={**one.known, **now.known})
            before = {page: known for page, known in one.known.items() if page < 0}
            objects.append(replace(now, known={**before, **now.known}, shape=now.shape or one.shape))
        return objects

    def apart(self, names: Mapping[str, object]) -> list[TrackRecord]:
        """What is left of the person's running tracks without objects that are tracked anew by themselves."""
        records = []
        for job in self.jobs():
            runs = job.running and not job.cancelled and self.is_mine(job, names)
            if runs and names.keys() & job.names and job.names - names.keys():
                rest = [one for one in self.now(job) if one.object_id not in names]
                records.append(self.record(rest, job.record.reach, job))
        return records

    def record(self, objects: Sequence[Carried], reach: Reach, job: TrackJob | None = None) -> TrackRecord:
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

    def is_mine(self, job: TrackJob, names: Iterable[str] = ()) -> bool:
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


def with_drawn(screen: Screen, new: Mapping[str, Mapping[int, Known]]) -> dict[str, Carried]:
    """What is on a screen by name, with the masks drawn by hand that belong to it; empty where there are none."""
    return {one.object_id: one for one in screen.objects(new=new)} if screen.work.drawn else {}

"""Tracks that go on while nobody waits: a few at once, each in a thread that hands frames to the device one by one.

What a track is about is in the journal before its first step, and each page's masks as soon as they are there. So a
process that was killed goes on from the last page that was written, and one that was told to stop leaves its tracks to
the next start. A track is known by what it is about: asked again, it is the same one.

Nothing is stored in Label Studio when a track ends. A labeling screen that is open never picks up a new prediction, and
the draft of whoever asked, which every prompt makes, goes before it when the task is opened again; but others would
begin with it. The masks come with the next prompt, with ``track``, and as the prediction of a task that has none.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from backend.carried import Known
from backend.earlier_pages import EarlierPages
from backend.engines import Engine, EngineLoader
from backend.errors import EXPECTED, ModelUnavailableError, OverloadedError
from backend.frames import TaskFrames
from backend.journal import Journal
from backend.journal_tracks import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    TrackRecord,
    mask_rows,
    masks_of,
    record_rows,
    state_rows,
    tracked_tasks,
    tracks_of,
    unfinished,
)
from backend.logs import loggable, where
from backend.look_list import LookLists
from backend.track_job import LOOK_UP, Found, Progress, TrackJob
from backend.tracking import Track, session_opener, untouched
from backend.video_addresses import same_pages
from x2sam.errors import CancelledError

log = logging.getLogger(__name__)

_WAITING = 32
_ENDED = 16
_LOOKED = 1024
_TRIES = 8

FramesOf = Callable[[Sequence[str]], TaskFrames]


class Tracks:
    """The tracks of the server, ``at_once`` of which run; others wait, and some that ended are kept at hand."""

    def __init__(
        self, engines: EngineLoader, journal: Journal, frames_of: FramesOf, at_once: int, look_lists: LookLists
    ):
        self._engines, self._journal, self._frames_of = engines, journal, frames_of
        self._at_once, self._look_lists = at_once, look_lists
        self._lock, self._taking = threading.Lock(), threading.Lock()
        self._jobs: OrderedDict[str, TrackJob] = OrderedDict()
        self._queue: list[TrackJob] = []
        self._threads: set[threading.Thread] = set()
        self._looked: OrderedDict[str, None] = OrderedDict()
        self._stopping = False
        self.pages_done = 0

    @property
    def running(self) -> int:
        """Tracks that run or wait for others."""
        with self._lock:
            return sum(job.running for job in self._jobs.values())

    def runs(self, task_id: str) -> bool:
        """Whether a track of a task runs or waits."""
        with self._lock:
            return any(job.running and job.record.task_id == task_id for job in self._jobs.values())

    def tasks(self) -> frozenset[str]:
        """The tasks of which tracks are known, those that the journal has included."""
        return frozenset(tracked_tasks(self._journal))

    def resume(self) -> None:
        """Goes on with the tracks that ran when the process ended."""
        for record in unfinished(self._journal):
            if record.tries >= _TRIES:
                problem = f"It was begun {record.tries} times without getting a page further; type track to try again."
                self._journal.note(state_rows(record.id, FAILED, problem))
                log.error("track given up", extra={"fields": _fields(record) | {"tries": record.tries}})
                continue
            self._journal.note(state_rows(record.id, RUNNING, tries=record.tries + 1))
            job = TrackJob(replace(record, tries=record.tries + 1), masks_of(self._journal, record.id))
            progress = job.progress()
            log.info("track resumed", extra={"fields": _fields(record) | _counts(progress)})
            with self._lock:
                self._jobs[record.id] = job
                self._queue.append(job)
        self._journal.flush()
        self._start()

    def of_task(self, task_id: str) -> list[TrackJob]:
        """The tracks of a task that are at hand, the oldest first; those of the journal are looked up once."""
        with self._lock:
            known = task_id in self._looked
            self._looked[task_id] = None
            self._looked.move_to_end(task_id)
            if len(self._looked) > _LOOKED:
                self._looked.popitem(last=False)
        if not known:
            for record in reversed(tracks_of(self._journal, task_id)[: _ENDED // 4]):
                self._recover(record)
        with self._lock:
            jobs = [job for job in self._jobs.values() if job.record.task_id == task_id]
        return sorted(jobs, key=lambda job: job.record.made)

    def take_up(self, record: TrackRecord, mine: Callable[[TrackJob], bool]) -> TrackJob:
        """The track that is about this: the one that runs or ended, else a new one.

        A new one takes the place of running ones of the same objects and begins with what earlier ones found and what
        is known now does not change; only those count that are ``mine``, on the same pages and with the same model.

        :raises OverloadedError: too many wait already.
        """
        with self._taking:
            record = self._own(record)
            before = [job for job in self.of_task(record.task_id) if mine(job)]
            same = [job for job in before if _alike(job.record, record)]
            job = self._again(record)
            if job is not None:
                return job
            job = self._begin(record, _reused(record, same))
            for earlier in before:
                if earlier.running and earlier.names & job.names:
                    self.stop(earlier)
            return job

    def stop(self, job: TrackJob) -> None:
        """Ends a track; what it found stays."""
        job.cancelled = True
        with self._lock:
            waited = job in self._queue
            if waited:
                self._queue.remove(job)
        if waited:
            self._ended(job, STOPPED)

    def close(self, seconds: float) -> None:
        """Lets running tracks finish their frame and leaves them to the next start."""
        with self._lock:
            self._stopping = True
            self._queue.clear()
            threads = list(self._threads)
        end = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    # inside

    def _own(self, record: TrackRecord) -> TrackRecord:
        """Of two people who begin with the same masks each has a track: what one does to it is not the other's."""
        held = self._held(record)
        others = held is not None and None not in (held.person, record.person) and held.person != record.person
        return replace(record, id=f"{record.id}-{record.person}") if others else record

    def _held(self, record: TrackRecord) -> TrackJob | None:
        """The track with this id, if it is known."""
        with self._lock:
            job = self._jobs.get(record.id)
        if job is None:
            stored = next((one for one in tracks_of(self._journal, record.task_id) if one.id == record.id), None)
            job = self._recover(stored) if stored is not None else None
        return job

    def _again(self, record: TrackRecord) -> TrackJob | None:
        """The track with this id, gone on with if it was stopped or failed."""
        job = self._held(record)
        if job is None or (job.running and not job.cancelled):
            return job
        progress = job.progress()
        whole = progress.state == FINISHED and progress.done == progress.total
        return job if whole else self._begin(record, progress.found)

    def _recover(self, record: TrackRecord) -> TrackJob:
        job = TrackJob(record, masks_of(self._journal, record.id))
        if record.state == RUNNING:  # it waits for nobody: the journal could not be read when the server started
            job.end(STOPPED)
        with self._lock:
            job = self._jobs.setdefault(record.id, job)
            self._forget()
        return job

    def _begin(self, record: TrackRecord, found: Found) -> TrackJob:
        record = replace(record, state=RUNNING, problem=None, tries=0, made=time.time())
        job = TrackJob(record, found)
        with self._lock:
            if len(self._queue) >= _WAITING:
                raise OverloadedError("Too many tracks wait already; try again when some of them are done.")
            self._jobs[record.id] = job
            self._jobs.move_to_end(record.id)
            self._queue.append(job)
            self._forget()
        rows = record_rows(record)
        for page, masks in found.items():
            rows += mask_rows(record.id, page, masks)
        self._journal.note(rows)
        self._journal.flush()  # what a person made is there before anything is made of it
        self._start()
        return job

    def _forget(self) -> None:
        ended = [name for name, job in self._jobs.items() if not job.running]
        for name in ended[: max(0, len(ended) - _ENDED)]:
            del self._jobs[name]

    def _start(self) -> None:
        with self._lock:
            while self._queue and len(self._threads) < self._at_once and not self._stopping:
                job = self._queue.pop(0)
                job.taken()
                thread = threading.Thread(target=self._live, args=(job,), name="track", daemon=True)
                self._threads.add(thread)
                thread.start()

    def _live(self, job: TrackJob) -> None:
        """The thread of one track."""
        later = False
        try:
            state, problem = self._walked(job)
        except (ModelUnavailableError, CancelledError) as error:  # no model, or it was closed
            state, problem, later = FAILED, str(error), True
        except EXPECTED as error:
            state, problem = FAILED, str(error)
        except Exception as error:
            reference = uuid.uuid4().hex[:8]
            fields = {"error": type(error).__name__, "reference": reference, "at": where(error)}
            log.error("unexpected error", extra={"fields": fields})
            state = FAILED
            problem = f"Something went wrong in the ML backend; its log says more (reference {reference})."
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
        if later:  # left to the next start
            job.end(state, problem)
        elif not self._stopping or job.cancelled or state == FINISHED:
            self._ended(job, state, problem)
        self._start()

    def _walked(self, job: TrackJob) -> tuple[str, str | None]:
        record = job.record
        engine = self._engine(job)
        frames = self._frames_of(record.pages)
        if record.earlier:
            earlier = EarlierPages(self._frames_of(record.earlier), tuple(range(len(record.earlier))))
            opener = earlier.opener(engine, frames)
        else:
            opener = session_opener(engine, frames, frames.key)
        track = Track(opener, len(frames), record.objects, record.reach, job.progress().found)
        job.began()
        tries = record.tries
        for stride in track.walk():
            if stride is not None:
                self._journal.note(mask_rows(record.id, stride.page, stride.masks))
                if tries:
                    self._journal.note(state_rows(record.id, RUNNING))
                    tries = 0
                self._journal.flush()
                job.add(stride.page, stride.masks)
                with self._lock:
                    self.pages_done += 1
            if job.cancelled or self._stopping:
                return STOPPED, None
        return FINISHED, None

    def _engine(self, job: TrackJob) -> Engine:
        """The engine: nobody waits for this, so loading it may take its time."""
        while True:
            try:
                return self._engines.wait(LOOK_UP)
            except ModelUnavailableError:
                if self._engines.state != "loading" or self._stopping or job.cancelled:
                    raise

    def _ended(self, job: TrackJob, state: str, problem: str | None = None) -> None:
        with self._lock:
            replaced = self._jobs.get(job.record.id) is not job  # it was begun again before it had ended
        if not replaced:
            self._journal.note(state_rows(job.record.id, state, problem))
            self._journal.flush()
            self._look_lists.note_track(job.record, job.progress().found, state == FINISHED)
        job.end(state, problem)
        with self._lock:
            self._forget()
        log.info("track ended", extra={"fields": _fields(job.record) | _counts(job.progress()) | {"state": state}})


def _alike(before: TrackRecord, now: TrackRecord) -> bool:
    """Whether what one found can be what the other looks for: the same pages and model."""
    return before.version == now.version and same_pages(before.pages, now.pages)


def _reused(record: TrackRecord, before: Sequence[TrackJob]) -> dict[int, dict[str, Known]]:
    """What earlier tracks, the newest last, found and what is known now does not change."""
    found: dict[int, dict[str, Known]] = {}
    for earlier in reversed(before):
        progress = earlier.progress()
        old = {one.object_id: one for one in earlier.record.objects}
        for now in record.objects:
            if now.object_id in old:
                for page, known in untouched(now, old[now.object_id], progress.found).items():
                    found.setdefault(page, {}).setdefault(now.object_id, known)
    return found


def _fields(record: TrackRecord) -> dict[str, object]:
    return {"task": loggable(record.task_id), "track": record.id[:12]}


def _counts(progress: Progress) -> dict[str, object]:
    return {"pages": progress.done, "of": progress.total}

"""Which pages to look at first, written into a task's ``meta`` in Label Studio when a track over its pages has ended.

``meta["x2sam"]["look_at"]`` is a list of ``{"page", "object", "label", "doubt", "seen"}``, the most doubtful first: the
page (on a Video tag ``frame``) as the editor counts, from 1; how probable it is that the object's mask there is wrong;
whether there is one at all. Whoever checks work finds it in exports, in the API and behind *Show task source*; the
annotator has the same in the reply. Other entries of ``meta`` stay as they are.

One thread writes, since Label Studio may be slow or away and a track must not wait for it. What it can't write in a few
tries is given up: the list can be made again by tracking again, and no mask is in it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from backend.carried import Carried, Known
from backend.errors import BackendError
from backend.journal_tracks import TrackRecord
from backend.label_studio_api import NotThereError
from backend.logs import loggable, where
from backend.results import DOUBTFUL

log = logging.getLogger(__name__)

KEY, LIST = "x2sam", "look_at"
SHARE = 0.1  # of the pages, that are named whatever their doubt
MOST = 50  # entries of a task
_WAITING = 256
_PAUSES = (0.0, 5.0, 30.0, 120.0)  # seconds before each try


class MetaApi(Protocol):
    """The part of Label Studio's API that is needed."""

    def task_meta(self, project: int, task: int) -> dict[str, Any]: ...

    def change_meta(self, task: int, meta: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Suspect:
    """An object on a page; fields as in the list. ``page`` counts from 1."""

    page: int
    object: str
    label: str
    doubt: float
    seen: bool


def suspects(objects: Sequence[Carried], found: Mapping[int, Mapping[str, Known]]) -> list[Suspect]:
    """What a track made, the most doubtful first: a tenth of it, and all that is rather wrong than right.

    found: masks by page, counted from 0, and object; those that are known are nobody's doubt
    """
    made = [
        Suspect(page + 1, one.object_id, one.label, round(_doubt(masks[one.object_id]), 4), _seen(masks[one.object_id]))
        for one in objects
        for page, masks in found.items()
        if one.object_id in masks and page not in one.known and page not in one.kept and _rated(masks[one.object_id])
    ]
    return worst_first(made)


def worst_first(made: Sequence[Suspect]) -> list[Suspect]:
    """The tenth of these with the most doubt, and all that are rather wrong than right."""
    ordered = sorted(made, key=lambda one: (-one.doubt, one.page, one.object))
    sure = [one for one in ordered if one.doubt < DOUBTFUL]
    doubtful = ordered[: len(ordered) - len(sure)]
    least = math.ceil(SHARE * len(ordered))
    return (doubtful + sure[: max(0, least - len(doubtful))])[:MOST]


def merged(meta: Mapping[str, Any] | None, names: Collection[str], entries: Sequence[Mapping[str, Any]]) -> dict:
    """A task's ``meta`` with new entries in place of those about the objects ``names``."""
    meta = dict(meta or {})
    own = dict(meta[KEY]) if isinstance(meta.get(KEY), dict) else {}
    before = own.get(LIST) if isinstance(own.get(LIST), list) else []
    others = [entry for entry in before if isinstance(entry, dict) and entry.get("object") not in names]
    whole = sorted([*others, *entries], key=lambda entry: -_number(entry.get("doubt")))
    return meta | {KEY: own | {LIST: [dict(entry) for entry in whole[:MOST]]}}


@dataclass(frozen=True)
class _Note:
    """What is to be written about some objects of a task."""

    project: int
    task: int
    names: frozenset[str]
    entries: tuple[Mapping[str, Any], ...]

    def with_newer(self, newer: _Note) -> _Note:
        others = tuple(entry for entry in self.entries if entry["object"] not in newer.names)
        return _Note(newer.project, newer.task, self.names | newer.names, others + newer.entries)


class LookLists:
    """Writes the lists. ``api`` None, where Label Studio can't be asked, writes none."""

    def __init__(self, api: Callable[[], MetaApi] | None = None, pauses: Sequence[float] = _PAUSES):
        self._api, self._pauses = api, pauses
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, _Note] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._stop = threading.Event()

    def note(
        self, project: str, task_id: str, names: Collection[str], found: Sequence[Suspect], unit: str = "page"
    ) -> None:
        """The list of a task, as far as it is about the objects ``names``, is this from now on. Returns at once."""
        if self._api is None or not (project.isdigit() and task_id.isdigit()):
            return
        entries = tuple({unit: one.page} | {k: v for k, v in asdict(one).items() if k != "page"} for one in found)
        note = _Note(int(project), int(task_id), frozenset(names), entries)
        with self._changed:
            before = self._waiting.pop(note.task, None)
            self._waiting[note.task] = before.with_newer(note) if before is not None else note
            while len(self._waiting) > _WAITING:
                self._waiting.popitem(last=False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="look-lists", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def note_track(self, record: TrackRecord, found: Mapping[int, Mapping[str, Known]], whole: bool) -> None:
        """The same for what a track found; where it ended early and made nothing, what was noted before stays."""
        marked = suspects(record.objects, found)
        if marked or whole:
            self.note(record.project, record.task_id, {one.object_id for one in record.objects}, marked)

    def settle(self, seconds: float) -> bool:
        """Waits until all is written or given up, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._busy), seconds)

    def close(self, seconds: float = 0.0) -> None:
        """Ends the thread, after what waits was written where that takes no longer than ``seconds``."""
        if self._thread is not None and seconds:
            self.settle(seconds)
        self._stop.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
                if self._stop.is_set():
                    return
                _, note = self._waiting.popitem(last=False)
                self._busy = True
            self._try(note)

    def _try(self, note: _Note) -> None:
        told = ""
        for pause in self._pauses:
            if self._stop.wait(pause):
                return
            with self._changed:
                newer = self._waiting.pop(note.task, None)
            note = note.with_newer(newer) if newer is not None else note
            try:
                self._write(note)
                return
            except NotThereError:  # the task was deleted
                return
            except BackendError as error:
                told = str(error)
            except Exception as error:  # of a library that asks the network; the thread must live on
                told = f"{type(error).__name__} at {where(error)}"
        fields = {"task": loggable(str(note.task))}
        log.warning("the pages to look at can't be written into a task: %s", told, extra={"fields": fields})

    def _write(self, note: _Note) -> None:
        api = self._api()
        before = api.task_meta(note.project, note.task)
        after = merged(before, note.names, note.entries)
        if after != before and (note.entries or KEY in before):
            api.change_meta(note.task, after)


def _rated(known: Known) -> bool:
    """Whether anything tells how good it is: without a radar that is the network's score for what it sees."""
    return known.doubt is not None or _seen(known)


def _doubt(known: Known) -> float:
    doubt = 1 - known.score if known.doubt is None else known.doubt
    return min(max(float(doubt), 0.0), 1.0) if math.isfinite(doubt) else 1.0


def _seen(known: Known) -> bool:
    return known.mask.box is not None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0

"""What Label Studio tells by webhook, kept in the journal: in order, until it was worked on, and longer to be counted.

Label Studio runs a webhook inside the annotator's request and never sends it again. So an event is written down in one
short transaction before it is answered, and everything else is done later, by others, also after a kill. Of an
annotation its regions, times and ids are kept; of a task only its id; nothing of a project but its id.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.bodies import as_json_text
from backend.journal import Journal, Row
from backend.protocol import Json, objects_in, whole_text

log = logging.getLogger(__name__)

CREATED, UPDATED, DELETED, TRAIN = (
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "START_TRAINING",
)
SUBMITTED = (CREATED, UPDATED)
ACTIONS = frozenset({*SUBMITTED, DELETED, TRAIN, "TASKS_CREATED", "TASKS_DELETED", "PROJECT_UPDATED"})

MOST_BYTES = 4 << 20  # of one event, compressed; one that is larger is kept without its regions
LARGEST = 1 << 28  # of one that is read, unpacked: no bomb
_UNKEPT = 256
_KEPT_OF_ANNOTATION = (
    "id", "task", "project", "lead_time", "completed_by", "created_at", "updated_at", "parent_prediction",
    "parent_annotation", "was_cancelled", "ground_truth", "result",
)  # fmt: skip
_MASKED = frozenset({"brushlabels", "brush", "bitmasklabels", "bitmask", "polygonlabels", "polygon", "ellipselabels"})
_COLUMNS = "id, project, action, task, annotation, masks, about, made, done"

Read = Callable[[str, tuple[Any, ...]], Sequence[Any]]
"""A query with its values to its rows: :meth:`backend.journal.Journal.read`, or that of another process's file."""


@dataclass(frozen=True)
class Event:
    """One event.

    id:         grows; the order in which events came
    task, annotation: ids as texts; empty where the event is about several or none
    masks:      regions of the annotation that are masks or outlines and were made or changed by a person
    made:       seconds since 1970 when it came
    done:       whether it was worked on
    annotation_data: what is kept of the annotation: its ``result``, ``lead_time``, ``parent_prediction``,
                ``completed_by`` (an id) and so on as Label Studio sent them; ``{}`` for other events and where
                it was too large (``cut`` is true then)
    """

    id: int
    project: str
    action: str
    task: str = ""
    annotation: str = ""
    masks: int = 0
    made: float = 0.0
    done: bool = False
    annotation_data: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False


class EventLog:
    """Events of one server. Threads share one. Where no journal is kept the last few are known until the end only."""

    def __init__(self, journal: Journal, clock: Callable[[], float] | None = None):
        self._journal, self._clock = journal, clock or journal.clock
        self._unkept: deque[Event] = deque(maxlen=_UNKEPT)
        self._numbers = 0

    def note(self, project: str, action: str, data: Json) -> bool:
        """Writes an event down; False where it is only in memory yet, since the disk does not take it."""
        event, packed = _event(project, action if action in ACTIONS else "other", data, self._clock())
        if not self._journal.keeps:
            self._numbers += 1
            self._unkept.append(Event(self._numbers, event.project, event.action, event.task, event.annotation,
                                      event.masks, event.made))  # fmt: skip
            return False
        values = (project, event.action, event.task, event.annotation, event.masks, packed, event.made)
        self._journal.note([Row(_INSERT, values)])
        return self._journal.flush()

    def waiting(self, most: int = 64) -> list[Event]:
        """Events that nobody has worked on, oldest first, without what is kept of annotations."""
        if not self._journal.keeps:
            return list(self._unkept)[:most]
        query = f"SELECT {_COLUMNS.replace('about', 'NULL AS about')} FROM event WHERE NOT done ORDER BY id LIMIT ?"
        return [_read(row) for row in self._journal.read(query, (most,))]

    def done(self, events: Iterable[Event]) -> None:
        """These were worked on."""
        ids = {event.id for event in events}
        if not self._journal.keeps:
            self._unkept = deque((one for one in self._unkept if one.id not in ids), _UNKEPT)
            return
        self._journal.note([Row("UPDATE event SET done = 1 WHERE id = ?", (one,)) for one in sorted(ids)])
        self._journal.flush()


def read_events(
    read: Read, after: int = 0, project: str | None = None, actions: Sequence[str] = SUBMITTED, most: int = 256
) -> list[Event]:
    """Events with an id above ``after``, oldest first, with what is kept of their annotations."""
    marks = ", ".join("?" * len(actions))
    where, values = f"id > ? AND action IN ({marks})", (after, *actions)
    if project is not None:
        where, values = f"{where} AND project = ?", (*values, project)
    query = f"SELECT {_COLUMNS} FROM event WHERE {where} ORDER BY id LIMIT ?"
    return [_read(row) for row in read(query, (*values, most))]


_INSERT = "INSERT INTO event (project, action, task, annotation, masks, about, made) VALUES (?, ?, ?, ?, ?, ?, ?)"


def _event(project: str, action: str, data: Json, made: float) -> tuple[Event, bytes]:
    annotation = data.get("annotation")
    annotation = annotation if isinstance(annotation, dict) else {}
    task = annotation.get("task") or (data.get("task") or {} if isinstance(data.get("task"), dict) else {}).get("id")
    kept = {name: annotation[name] for name in _KEPT_OF_ANNOTATION if name in annotation}
    who = kept.get("completed_by")
    if isinstance(who, dict):  # with a name and an address in it
        kept["completed_by"] = who.get("id")
    packed = _packed(kept)
    if packed is None:
        packed = _packed({name: value for name, value in kept.items() if name != "result"} | {"cut": True})
    event = Event(0, project, action, _id(task), _id(annotation.get("id")), changed_masks(annotation), made)
    return event, packed or b""


def _packed(kept: Json) -> bytes | None:
    """None where it is too much, or nested deeper than anything that Label Studio makes."""
    try:
        packed = zlib.compress(as_json_text(kept), 1)
    except RecursionError:
        return None
    return packed if len(packed) <= MOST_BYTES else None


def changed_masks(annotation: Json) -> int:
    """How many masks and outlines of an annotation a person made or changed; none of one that was skipped."""
    if annotation.get("was_cancelled"):
        return 0
    regions = objects_in(annotation.get("result"))
    return len({_id(one.get("id")) for one in regions if _id(one.get("type")) in _MASKED and _touched(one)})


def _touched(region: Json) -> bool:
    return region.get("origin") in ("manual", "prediction-changed")


def _id(value: Any) -> str:
    return whole_text(str(value)[:64]) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _read(row: Any) -> Event:
    kept: dict[str, Any] = {}
    if row.about:
        try:
            kept = json.loads(zlib.decompressobj().decompress(row.about, LARGEST))
        except (zlib.error, ValueError):
            log.warning("an event of the journal can't be read; it counts without its regions")
    cut = bool(kept.pop("cut", False)) or row.about == b""
    return Event(
        row.id, row.project, row.action, row.task, row.annotation, row.masks, row.made, bool(row.done), kept, cut
    )

"""Tracks in the journal: what they are about, how far they came, and the masks of each page, once each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from backend.carried import Carried, Known
from backend.journal import NOW, Journal, Row
from backend.journal_codec import BROKEN, name_of, pack, parts_of, unpack
from backend.tracking import Reach

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
"""States of a track. ``running`` is what the next start goes on with; the journal's own ``emptied``, which counts as
stopped, has lost its masks to newer entries."""

_MOST = 32


@dataclass(frozen=True, eq=False)
class TrackRecord:
    """What is needed to go on with a track without the request that began it.

    person: stands for whoever asked, None where nobody did; for comparing only
    pages:  the addresses of the task's pages; earlier: of those before them, which have numbers below 0
    version: of the model that was asked
    tries:  starts since the last new page
    project: of the task in Label Studio
    """

    id: str
    task_id: str
    person: str | None
    pages: tuple[str, ...]
    objects: tuple[Carried, ...]
    reach: Reach
    earlier: tuple[str, ...] = ()
    version: str = ""
    state: str = RUNNING
    problem: str | None = None
    tries: int = 0
    made: float = 0.0
    project: str = ""


def record_rows(record: TrackRecord) -> list[Row]:
    """A track that begins, or begins again; its masks stay."""
    masks, objects = [], []
    for one in record.objects:
        known = []
        for page, each in sorted(one.known.items()):
            known.append([page, each.score, len(masks)])
            masks.append(each.mask)
        named = {"id": one.object_id, "label": one.label, "shape": one.shape}
        objects.append({**named, "kept": sorted(one.kept), "known": known})
    reach = [record.reach.direction, record.reach.pages, record.reach.page, record.reach.earlier]
    pages = {"pages": record.pages, "earlier": record.earlier}
    about = {"person": record.person, "version": record.version, "project": record.project}
    words = {**about, **pages, "reach": reach, "objects": objects}
    values = (
        record.id,
        name_of(record.task_id),
        record.state,
        record.problem,
        record.tries,
        pack(words, masks),
        record.made,
        NOW,
    )
    return [Row("INSERT OR REPLACE INTO track VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)]


def state_rows(track_id: str, state: str, problem: str | None = None, tries: int = 0) -> list[Row]:
    """How a track stands."""
    statement = "UPDATE track SET state = ?, problem = ?, tries = ?, changed = ? WHERE id = ?"
    return [Row(statement, (state, problem, tries, NOW, track_id))]


def mask_rows(track_id: str, page: int, masks: Mapping[str, Known]) -> list[Row]:
    """The masks of a page, by object; one that is there already stays as it is."""
    rows = []
    for name, one in masks.items():
        values = (track_id, page, name, pack({"score": one.score, "doubt": one.doubt}, [one.mask]))
        rows.append(Row("INSERT OR IGNORE INTO mask VALUES (?, ?, ?, ?)", values, proposed=True))
    return rows


def tracks_of(journal: Journal, task_id: str) -> list[TrackRecord]:
    """The tracks of a task, the newest first."""
    query = "SELECT * FROM track WHERE task = ? ORDER BY made DESC, rowid DESC LIMIT ?"
    return list(_records(journal.read(query, (name_of(task_id), _MOST))))


def tracked_tasks(journal: Journal) -> Iterator[str]:
    """The tasks that there are tracks of."""
    for row in journal.read("SELECT DISTINCT task FROM track"):
        yield from parts_of(row.task)


def unfinished(journal: Journal) -> list[TrackRecord]:
    """The tracks that ran when the process ended, the oldest first."""
    return list(_records(journal.read("SELECT * FROM track WHERE state = ? ORDER BY made, rowid", (RUNNING,))))


def masks_of(journal: Journal, track_id: str) -> dict[int, dict[str, Known]]:
    """The masks of a track by page and object."""
    found: dict[int, dict[str, Known]] = {}
    for row in journal.read("SELECT page, object, about FROM mask WHERE track = ? ORDER BY page", (track_id,)):
        try:
            words, (mask,) = unpack(row.about)
            found.setdefault(row.page, {})[row.object] = Known(mask, words["score"], words["doubt"])
        except BROKEN:
            continue  # it is walked again
    return found


def _records(rows: Iterable) -> Iterable[TrackRecord]:
    for row in rows:
        try:
            words, masks = unpack(row.about)
            objects = tuple(
                Carried(
                    one["id"],
                    one["label"],
                    {page: Known(masks[number], score) for page, score, number in one["known"]},
                    frozenset(one["kept"]),
                    one["shape"],
                )
                for one in words["objects"]
            )
            (task_id,) = parts_of(row.task)
            pages, earlier = tuple(words["pages"]), tuple(words["earlier"])
            reach = Reach(*words["reach"])
            record = TrackRecord(row.id, task_id, words["person"], pages, objects, reach, earlier, words["version"])
        except BROKEN:
            continue
        stands = {"state": row.state, "problem": row.problem, "tries": row.tries, "made": row.made}
        yield replace(record, project=str(words.get("project", "")), **stands)  # older journals tell no project

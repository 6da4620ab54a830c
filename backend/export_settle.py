"""What was taken from all tasks -> a data set: one size a video, one task a frame, overlaps decided, numbers given.

Numbers stay when more is exported later: those of the manifest before are kept, and what is new gets the next free
ones; without one, categories are numbered by name and objects by when they are first seen. An annotation's number in
COCO files is a digest of what it is about, and a picture's is made from its task and page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2s

from backend.export_layout import name_at_rate
from backend.export_masks import Drawn, Runs, majority
from backend.export_staging import Staging

OVERLAPS = ("keep", "top", "small", "void")
"""Who gets pixels of several objects: all of them, the one on top as the editor shows it, the smallest one, nobody."""
VOID = ""
"""The object that holds the pixels which nobody gets."""
_NUMBER_BITS = 48


def settle(staging: Staging, overlap: str, labels: Iterable[str], one_size: bool) -> None:
    """Brings what was taken into its final form. ``labels`` are categories that are there even if nothing has them;
    ``one_size``: masks of a video all get the size of its first known frame."""
    for statement in _AS_TAKEN:
        staging.database.execute(statement)
    _one_task_a_frame(staging)
    _items(staging)
    items = [(item, paged) for item, paged in staging.rows(_ITEMS)]
    for item, paged in items:
        if paged and one_size:
            _one_size(staging, item)
        if overlap != "keep":
            _decide_overlaps(staging, item, overlap)
        _number_objects(staging, item)
    for item, _ in items:
        _number_masks(staging, item)
    _number_categories(staging, labels)


# A run that was stopped may have settled what is there.
_AS_TAKEN = (
    "DELETE FROM item",
    "DELETE FROM object",
    "DELETE FROM mask WHERE object = ''",
    "UPDATE mask SET number = NULL, hidden = 0, final_height = NULL, final_width = NULL, final_counts = NULL",
    "UPDATE frame SET hidden = 0",
)
_ITEMS = "SELECT item, MAX(paged) FROM task GROUP BY item ORDER BY MIN(task)"
_SHADOWED = """
    SELECT item, frame, task FROM (
        SELECT f.item, f.frame, f.task, ROW_NUMBER() OVER (
            PARTITION BY f.item, f.frame ORDER BY f.known DESC, t.updated DESC, f.task DESC) AS rank
        FROM frame AS f JOIN task AS t ON t.task = f.task)
    WHERE rank > 1"""


def _one_task_a_frame(staging: Staging) -> None:
    """Of several tasks that show a frame, the one with the newest annotation counts."""
    # only items of several tasks can have such frames
    several = staging.database.execute("SELECT 1 FROM task GROUP BY item HAVING COUNT(*) > 1 LIMIT 1").fetchone()
    if not several:
        return
    shadowed = staging.database.execute(_SHADOWED).fetchall()
    for place in shadowed:
        staging.database.execute("UPDATE frame SET hidden = 1 WHERE item = ? AND frame = ? AND task = ?", place)
        staging.database.execute("UPDATE mask SET hidden = 1 WHERE item = ? AND frame = ? AND task = ?", place)


def _items(staging: Staging) -> None:
    names: set[str] = set()
    query = """
        SELECT t.item, t.name, (SELECT MAX(frame) + 1 FROM frame AS f WHERE f.item = t.item), MIN(t.task)
        FROM task AS t GROUP BY t.item ORDER BY MIN(t.task)"""
    for place, (item, name, length, _) in enumerate(staging.database.execute(query).fetchall()):
        if name in names:
            name = name_at_rate(name, item)
        names.add(name)
        row = (item, place, name, *_size_of(staging, item), length or 1)
        staging.database.execute("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?)", row)


def _size_of(staging: Staging, item: str) -> tuple[int | None, int | None]:
    query = (
        "SELECT height, width FROM frame WHERE item = ? AND height IS NOT NULL AND NOT hidden "
        "ORDER BY known DESC, frame LIMIT 1"
    )
    return staging.database.execute(query, (item,)).fetchone() or (None, None)


def _one_size(staging: Staging, item: str) -> None:
    """All masks of a video get the size of its first known frame."""
    size = _size_of(staging, item)
    if size[0] is None:
        return
    others = "SELECT id, height, width, counts FROM mask WHERE item = ? AND (height <> ? OR width <> ?)"
    for number, height, width, counts in staging.database.execute(others, (item, *size)).fetchall():
        _rewrite(staging, number, Runs((height, width), counts).resized(size))


def _rewrite(staging: Staging, number: int, runs: Runs) -> None:
    values = (*runs.size, runs.counts, number)
    staging.database.execute("UPDATE mask SET final_height = ?, final_width = ?, final_counts = ? WHERE id = ?", values)


def _decide_overlaps(staging: Staging, item: str, overlap: str) -> None:
    query = "SELECT frame FROM mask WHERE item = ? AND NOT hidden GROUP BY frame HAVING COUNT(*) > 1"
    for (frame,) in staging.database.execute(query, (item,)).fetchall():
        rows = "SELECT id FROM mask WHERE item = ? AND frame = ? AND NOT hidden ORDER BY annotation, place, object"
        ids = [number for (number,) in staging.database.execute(rows, (item, frame))]
        drawn = list(staging.masks(item, frame=frame))
        decided, void = without_overlaps([one.runs for one in drawn], overlap)
        for number, before, after in zip(ids, drawn, decided, strict=True):
            if after.counts != before.runs.counts:
                _rewrite(staging, number, after)
        if void is not None and void.area:
            _add_void(staging, item, drawn[0], void)


def _add_void(staging: Staging, item: str, beside: Drawn, void: Runs) -> None:
    values = (item, beside.frame, VOID, -1, "", *void.size, void.counts, "", "", 0, item, beside.frame)
    staging.database.execute(
        "INSERT INTO mask (item, frame, object, place, label, height, width, counts, origin, shape, annotation, task) "
        "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, task FROM frame "
        "WHERE item = ? AND frame = ? AND NOT hidden",
        values,
    )


def without_overlaps(masks: list[Runs], overlap: str) -> tuple[list[Runs], Runs | None]:
    """Masks of one frame, later ones on top, so that no pixel is in two; and the pixels that nobody got."""
    if overlap == "void":
        void = majority(masks, 2)
        taken = void.mask()
        return [Runs.of(one.mask() & ~taken) for one in masks], void
    taken = None
    decided = list(masks)
    for place in painted_last_first(masks, overlap):
        mask = masks[place].mask()
        taken = taken if taken is not None else mask & False
        decided[place] = Runs.of(mask & ~taken)
        taken |= mask
    return decided, None


def painted_last_first(masks: list[Runs], overlap: str) -> list[int]:
    """Places of masks, the one on top first."""
    last_first = range(len(masks) - 1, -1, -1)
    return sorted(last_first, key=lambda place: masks[place].area) if overlap == "small" else list(last_first)


def _number_objects(staging: Staging, item: str) -> None:
    """Numbers and labels of an item's objects: a track has the label that it has on most frames."""
    labels: dict[str, Counter[str]] = {}
    query = (
        "SELECT object, label FROM mask WHERE item = ? AND object <> ? AND NOT hidden "
        "ORDER BY frame, annotation, place, object"
    )
    for name, label in staging.rows(query, (item, VOID)):
        labels.setdefault(name, Counter())[label] += 1
    earlier = dict(staging.rows("SELECT name, number FROM earlier_object WHERE item = ?", (item,)))
    new = _free(set(earlier.values()))
    staging.database.executemany(
        "INSERT INTO object VALUES (?, ?, ?, ?)",
        (
            (item, name, earlier[name] if name in earlier else next(new), _usual(counted))
            for name, counted in labels.items()
        ),
    )


def _usual(labels: Counter[str]) -> str:
    return max(sorted(labels), key=lambda label: labels[label])


def _free(taken: set[int]) -> Iterator[int]:
    """Numbers behind all that are taken: one that was given up is not given to something else."""
    number = max(taken, default=0)
    while True:
        number += 1
        yield number


def _number_masks(staging: Staging, item: str) -> None:
    rows = "SELECT id, frame, object FROM mask WHERE item = ? AND object <> ? AND NOT hidden ORDER BY frame, object"
    for mask, frame, name in staging.database.execute(rows, (item, VOID)).fetchall():
        number = _digest(f"{item}\x1f{frame}\x1f{name}")
        while staging.database.execute("SELECT 1 FROM mask WHERE number = ?", (number,)).fetchone():
            number += 1
        staging.database.execute("UPDATE mask SET number = ? WHERE id = ?", (number, mask))


def number_of(*parts: object) -> int:
    """A number above 0 for something with these parts, the same in every export; exact as a 64-bit float."""
    return _digest("\x1f".join(map(str, parts)))


def _digest(text: str) -> int:
    digest = blake2s(text.encode("utf-8", "replace"), digest_size=_NUMBER_BITS // 8).digest()
    return int.from_bytes(digest, "big") or 1


def _number_categories(staging: Staging, labels: Iterable[str]) -> None:
    found = {label for (label,) in staging.rows("SELECT DISTINCT label FROM object")} | set(labels)
    known = dict(staging.rows("SELECT name, number FROM category"))
    new = _free(set(known.values()))
    staging.database.executemany(
        "INSERT INTO category VALUES (?, ?)", [(name, next(new)) for name in sorted(found - known.keys())]
    )

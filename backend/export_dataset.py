"""A settled export as writers see it: items in order, their frames with masks, categories, splits; and what writers can
be asked for. Nothing is held."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Any

from backend.errors import SettingsError
from backend.export_masks import Drawn
from backend.export_settle import OVERLAPS, VOID
from backend.export_staging import Staging
from backend.geometry import Size

VALUES = ("category", "object")
_STEPS = 1 << 32
FIRST_TASKS = 6
"""So many tasks are named where something of them is not in an export."""


@dataclass(frozen=True)
class Choices:
    """``overlap``: who gets pixels of several objects, as :data:`~backend.export_settle.OVERLAPS`; ``values`` of PNG
    label maps are those of the ``category`` or of the ``object``; ``complete``: everything of the categories is
    outlined."""

    overlap: str = "keep"
    values: str = "category"
    complete: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("overlap", OVERLAPS), ("values", VALUES)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"--{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Category:
    """A label with its number; ``thing`` is False of labels that the labeling configuration calls stuff."""

    number: int
    name: str
    thing: bool = True


@dataclass(frozen=True)
class TrackedObject:
    """An object of an item: its number and label on all frames."""

    number: int
    name: str
    label: str


@dataclass(frozen=True)
class Frame:
    """A frame of an item that a task shows; ``size`` is (H, W). ``known``: what it shows was submitted."""

    number: int
    task: int
    page: int
    media: str
    size: Size | None
    known: bool


@dataclass(frozen=True)
class Item:
    """A picture or a video. ``film`` is the file of a video on a Video tag, None elsewhere; ``size`` (H, W) is None
    where nothing tells it."""

    key: str
    name: str
    paged: bool
    film: str | None
    size: Size | None
    length: int
    split: str
    tasks: tuple[Mapping[str, Any], ...]
    objects: Mapping[str, TrackedObject] = field(repr=False)

    @property
    def submitted(self) -> bool:
        return any(task["sources"] for task in self.tasks)


class Splits:
    """``train=0.8,val=0.2``: each item is in one by a digest of what it shows, so it stays there in every export.

    :raises SettingsError: it is written otherwise, or is not 1 in sum.
    """

    def __init__(self, written: str = ""):
        self.shares: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in written.split(","))):
            name, _, share = part.partition("=")
            try:
                number = float(share)
            except ValueError:
                number = -1.0
            if not (name.isascii() and name.replace("_", "").isalnum()) or not 0 < number <= 1:
                raise SettingsError(f"--splits is {written!r}; write it like train=0.8,val=0.2.")
            self.shares[name] = number
        if self.shares and not math.isclose(sum(self.shares.values()), 1.0, abs_tol=1e-6):
            raise SettingsError(f"The shares of --splits are {sum(self.shares.values()):g} together; make that 1.")

    def of(self, key: str) -> str:
        """The split of an item; empty where there are none."""
        place = int.from_bytes(blake2s(key.encode("utf-8", "replace"), digest_size=4).digest(), "big") / _STEPS
        end = 0.0
        for name, share in self.shares.items():
            end += share
            if place < end:
                return name
        return next(reversed(self.shares), "")


class DataSet:
    """What is exported. ``stuff`` are the labels of regions that are not countable; ``one_size``: all frames of a video
    have the size of the item, else each has its own where it is known."""

    def __init__(self, staging: Staging, splits: Splits, stuff: frozenset[str], one_size: bool):
        self._staging, self.splits, self._stuff, self._one_size = staging, splits, stuff, one_size

    def categories(self) -> list[Category]:
        """All of them, by number."""
        rows = self._staging.rows("SELECT number, name FROM category ORDER BY number")
        return [Category(number, name, name not in self._stuff) for number, name in rows]

    def count(self) -> int:
        """How many items there are."""
        return next(self._staging.rows("SELECT COUNT(*) FROM item"))[0]

    def items(self, split: str | None = None) -> Iterator[Item]:
        """The submitted items, in order of their first tasks; ``split`` takes those of one only."""
        query = "SELECT item, name, height, width, length FROM item ORDER BY place"
        for key, name, height, width, length in self._staging.rows(query):
            item = self._item(key, name, (height, width) if height else None, length)
            if item.submitted and split in (None, item.split):
                yield item

    def _item(self, key: str, name: str, size: Size | None, length: int) -> Item:
        query = (
            "SELECT task, paged, film, start, pages, split_key, sources FROM task WHERE item = ? ORDER BY start, task"
        )
        rows = list(self._staging.rows(query, (key,)))
        tasks = tuple(
            {"task": task, "first_frame": start, "pages": pages, "sources": json.loads(sources)}
            for task, _, _, start, pages, _, sources in rows
        )
        objects = self._staging.rows("SELECT number, name, label FROM object WHERE item = ? ORDER BY number", (key,))
        _, paged, film, _, _, split_key, _ = min(rows)
        known = {name: TrackedObject(number, name, label) for number, name, label in objects}
        return Item(key, name, bool(paged), film, size, length, self.splits.of(split_key), tasks, known)

    def frames(self, item: Item) -> Iterator[Frame]:
        """The frames that tasks show, in order."""
        query = (
            "SELECT frame, task, page, media, height, width, known FROM frame "
            "WHERE item = ? AND NOT hidden ORDER BY frame"
        )
        for number, task, page, media, height, width, known in self._staging.rows(query, (item.key,)):
            size = (height, width) if height and not (self._one_size and item.paged) else item.size
            yield Frame(number, task, page, media, size, bool(known))

    def known_frames(self, item: Item) -> Iterator[tuple[Frame, list[Drawn]]]:
        """The frames whose masks are known and whose size is, each with its masks, later ones on top."""
        masks = self._staging.masks(item.key)
        waiting = next(masks, None)
        for frame in self.frames(item):
            here: list[Drawn] = []
            while waiting is not None and waiting.frame <= frame.number:
                if waiting.frame == frame.number:
                    here.append(waiting)
                waiting = next(masks, None)
            if frame.known and frame.size is not None:
                yield frame, here

    def on(self, item: Item, frame: int) -> list[Drawn]:
        """The masks of one frame."""
        return list(self._staging.masks(item.key, frame=frame))

    def track(self, item: Item, name: str) -> Iterator[Drawn]:
        """The masks of one object, in order of time."""
        return self._staging.masks(item.key, "frame, annotation, place", object=name)

    def number(self, item: Item, drawn: Drawn) -> int:
        """The number of a mask in COCO files."""
        query = "SELECT number FROM mask WHERE item = ? AND frame = ? AND object = ? AND NOT hidden"
        return next(self._staging.rows(query, (item.key, drawn.frame, drawn.object)))[0]

    def skipped(self) -> dict[str, dict[str, Any]]:
        """What is not in the export, by reason: how often, and the first tasks concerned."""
        counts: Counter[str] = Counter()
        tasks: dict[str, list[int]] = {}
        for task, kinds in self._staging.rows("SELECT task, skipped FROM task WHERE skipped <> '{}' ORDER BY task"):
            self._add(json.loads(kinds), task, counts, tasks)
        hidden = "SELECT task, COUNT(*) FROM frame WHERE hidden AND known GROUP BY task ORDER BY task"
        for task, count in self._staging.rows(hidden):
            self._add({"shadowed": count}, task, counts, tasks)
        unsized = (
            "SELECT task, COUNT(*) FROM frame JOIN item USING (item) WHERE frame.known AND NOT frame.hidden "
            "AND frame.height IS NULL AND item.height IS NULL GROUP BY task ORDER BY task"
        )
        for task, count in self._staging.rows(unsized):
            self._add({"sizeless": count}, task, counts, tasks)
        return {kind: {"count": counts[kind], "first_tasks": tasks[kind]} for kind in sorted(counts)}

    @staticmethod
    def _add(kinds: Mapping[str, int], task: int, counts: Counter[str], tasks: dict[str, list[int]]) -> None:
        for kind, count in kinds.items():
            counts[kind] += count
            named = tasks.setdefault(kind, [])
            if len(named) < FIRST_TASKS:
                named.append(task)


def objects_only(drawn: list[Drawn]) -> list[Drawn]:
    """Masks of objects with a pixel left, without what nobody gets."""
    return [one for one in drawn if one.object != VOID and one.runs.area]


def file_name(item: Item, frame: Frame) -> str:
    """What a frame is called: as its task calls it, else by its number."""
    return frame.media or (f"{item.name}/{frame.number:05d}.jpg" if item.paged else item.name)


def frame_names(data: DataSet, item: Item) -> list[str]:
    """What all frames of an item are called, those too that no task shows."""
    names = [f"{item.name}/{frame:05d}.jpg" if item.paged else item.name for frame in range(item.length)]
    for frame in data.frames(item):
        names[frame.number] = file_name(item, frame)
    return names


def item_size(data: DataSet, item: Item) -> Size:
    """(H, W) of an item that has a known frame."""
    return item.size or next(frame.size for frame, _ in data.known_frames(item))


def sized_items(data: DataSet, split: str | None = None) -> Iterator[Item]:
    """The items with a frame that is known and has a size."""
    for item in data.items(split):
        frame = next(data.known_frames(item), None)
        if frame is not None:
            yield item

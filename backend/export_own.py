"""This project's own training layout: pictures and videos with the masks of their objects, and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from backend.export_dataset import Choices, DataSet, Frame, Item, frame_names, item_size, sized_items
from backend.export_files import Output
from backend.export_manifest import item_entry
from backend.export_masks import Runs
from backend.export_settle import VOID
from x2sam.data.readers.own_format import OwnItem, OwnObject, OwnWriter


def write_own(data: DataSet, out: Output, choices: Choices, about: Mapping[str, Any]) -> None:
    """``manifest.json`` and ``masks/``, as :mod:`x2sam.data.readers.own_format` describes them."""
    categories = {one.name: one for one in data.categories()}
    numbers = {one.name: one.number for one in categories.values()}
    things = {one.name: one.thing for one in categories.values()}
    writer = OwnWriter(out.directory, {"made_by": str(about["made_by"])}, numbers, things)
    with writer:
        for place, item in enumerate(sized_items(data)):
            frames = {frame.number: frame for frame, _ in data.known_frames(item)}
            objects = tuple(OwnObject(o.number, o.label, categories[o.label].thing) for o in item.objects.values())
            names = frame_names(data, item) if item.film is None else [item.film or item.name]
            writer.add(
                OwnItem(
                    item.name,
                    item_size(data, item),
                    objects,
                    _Masks(data, item, frames),
                    media=names[0] if not item.paged or item.film is not None else "",
                    frames=tuple(names) if item.paged and item.film is None else (),
                    length=item.length,
                    video=item.paged,
                    ignore=_Ignored(data, item, frames),
                    split=item.split,
                    complete=choices.complete,
                    provenance={"tasks": ",".join(str(task["task"]) for task in item.tasks)},
                ),
                {"export": item_entry(data, item)},
            )
            out.wrote(f"masks/{place:06d}.json")
        facts = {key: value for key, value in about.items() if key not in ("format", "version")}
        writer.finish({**facts, "skipped": data.skipped(), "files": list(out.files())})


class _Masks(Mapping[int, Mapping[int, np.ndarray]]):
    """The masks by frame, read when they are asked for: those of a long video need not fit into memory."""

    def __init__(self, data: DataSet, item: Item, frames: Mapping[int, Frame]):
        self._data, self._item, self._frames = data, item, frames

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int) -> Mapping[int, np.ndarray]:
        if frame not in self._frames:
            raise KeyError(frame)
        drawn = (one for one in self._data.on(self._item, frame) if one.object != VOID)
        return _Unpacked({self._item.objects[one.object].number: one.runs for one in drawn})


class _Ignored(Mapping[int, np.ndarray]):
    """What nobody gets, by frame."""

    def __init__(self, data: DataSet, item: Item, frames: Mapping[int, Frame]):
        self._data, self._item = data, item
        self._frames = [one.frame for one in data.track(item, VOID) if one.frame in frames]

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int) -> np.ndarray:
        if frame not in self._frames:
            raise KeyError(frame)
        return next(one.runs.mask() for one in self._data.on(self._item, frame) if one.object == VOID)


class _Unpacked(Mapping[int, np.ndarray]):
    def __init__(self, runs: Mapping[int, Runs]):
        self._runs = runs

    def __iter__(self) -> Iterator[int]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, number: int) -> np.ndarray:
        return self._runs[number].mask()

"""Label maps as PNG files: folders of frames as DAVIS has them, and one file for each picture or page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from hashlib import blake2s
from typing import Any

import numpy as np
from PIL import Image

from backend.export_dataset import Choices, DataSet, Frame, Item, objects_only, sized_items
from backend.export_files import Output
from backend.export_masks import Drawn, Runs
from backend.export_settle import VOID, painted_last_first
from backend.export_staging import ExportError
from backend.geometry import Size

_MOST = 254  # of 8 bits; 255 are pixels to be ignored
_NOBODY = -1


def write_davis(data: DataSet, out: Output, choices: Choices, about: Mapping[str, Any]) -> None:
    """``Annotations/<item>/<frame>.png`` with the numbers of objects, and ``ImageSets/<split>.txt``."""
    for item in data.items():
        for frame, drawn in data.known_frames(item):
            _write(out, davis_path(item, frame), frame.size, _painted(item, drawn, choices, None), 8)
    for split in data.splits.shares:
        _listing(out, f"ImageSets/{split}.txt", [item.name for item in sized_items(data, split)])


def write_maps(data: DataSet, out: Output, choices: Choices, about: Mapping[str, Any]) -> None:
    """``<task>.png``, or ``<task>-<frame>.png`` of pages, with the numbers of categories or objects; ``<split>.txt``.

    More than 254 numbers make 16 bits a pixel, in all files alike for categories.
    """
    categories = {one.name: one.number for one in data.categories()} if choices.values == "category" else None
    bits = 8 if categories is None or max(categories.values(), default=0) <= _MOST else 16
    for item in data.items():
        most = max((one.number for one in item.objects.values()), default=0)
        item_bits = bits if categories is not None or most <= _MOST else 16
        for frame, drawn in data.known_frames(item):
            _write(out, map_path(item, frame), frame.size, _painted(item, drawn, choices, categories), item_bits)
    for split in data.splits.shares:
        paths = [map_path(item, frame) for item in data.items(split) for frame, _ in data.known_frames(item)]
        _listing(out, f"{split}.txt", paths)


def davis_path(item: Item, frame: Frame) -> str:
    return f"Annotations/{item.name}/{frame.number:05d}.png"


def map_path(item: Item, frame: Frame) -> str:
    return f"{frame.task}-{frame.number:05d}.png" if item.paged else f"{frame.task}.png"


def _painted(
    item: Item, drawn: Sequence[Drawn], choices: Choices, categories: Mapping[str, int] | None
) -> list[tuple[int, Runs]]:
    """Numbers and masks in the order in which they are painted, each over those before."""
    masks = objects_only(list(drawn))
    last_first = painted_last_first([one.runs for one in masks], choices.overlap)
    painted = []
    for one in (masks[place] for place in reversed(last_first)):
        known = item.objects[one.object]
        painted.append((known.number if categories is None else categories[known.label], one.runs))
    return painted + [(_NOBODY, one.runs) for one in drawn if one.object == VOID]


def _write(out: Output, path: str, size: Size, painted: Sequence[tuple[int, Runs]], bits: int) -> None:
    ignored = (1 << bits) - 1
    if any(number >= ignored for number, _ in painted):
        raise ExportError(f"{path} needs a number above {ignored - 1}, which this format can't hold; export as coco.")
    painted = [(ignored if number == _NOBODY else number, runs) for number, runs in painted]
    digest = blake2s(f"{size} {bits}".encode())
    for number, runs in painted:
        digest.update(f" {number} {runs.counts}".encode())
    out.picture(path, digest.hexdigest(), lambda: _png(size, painted, bits))


def _png(size: Size, painted: Sequence[tuple[int, Runs]], bits: int) -> bytes:
    labels = np.zeros(size, np.uint8 if bits == 8 else np.uint16)
    for number, runs in painted:
        labels[runs.mask()] = number
    if bits == 8:
        picture = Image.fromarray(labels, "P")
        picture.putpalette(palette())
    else:
        picture = Image.fromarray(labels)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6)
    return file.getvalue()


def palette() -> bytes:
    """The 256 colours of DAVIS and PASCAL VOC: the bits of a number, three by three, from the top of each colour."""
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((np.arange(256) >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()


def _listing(out: Output, path: str, names: Sequence[str]) -> None:
    with out.text(path) as file:
        file.writelines(f"{name}\n" for name in names)

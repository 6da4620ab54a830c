"""The formats of an export, one row each: a function that writes all files but the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.export_dataset import (
    Choices,
    DataSet,
    Frame,
    Item,
    file_name,
    frame_names,
    item_size,
    objects_only,
    sized_items,
)
from backend.export_files import Output, write_list
from backend.export_maps import write_davis, write_maps
from backend.export_masks import Drawn, Runs
from backend.export_own import write_own
from backend.export_settle import number_of
from backend.export_tasks import PAGES_OF_A_TASK


@dataclass(frozen=True)
class Format:
    """``write(dataset, output, choices, about)``, ``about`` being the head of the manifest; ``places``: patterns of
    what it writes into the directory; ``own_manifest``: the manifest is part of what it writes; ``one_size``: all
    frames of a video must have the size of the first."""

    write: Callable[[DataSet, Output, Choices, Mapping[str, Any]], None]
    places: tuple[str, ...]
    own_manifest: bool = False
    one_size: bool = False


def write_coco(data: DataSet, out: Output, choices: Choices, about: Mapping[str, Any]) -> None:
    """``annotations.json`` with every known picture and page, and ``annotations_<split>.json`` for each split."""
    _each_split(data, out, about, _pictures, _coco_annotations)


def write_ytvis(data: DataSet, out: Output, choices: Choices, about: Mapping[str, Any]) -> None:
    """The same files, with an entry for each object over its whole video."""
    _each_split(data, out, about, _videos, _tracks)


def _each_split(
    data: DataSet,
    out: Output,
    about: Mapping[str, Any],
    media: Callable[[DataSet, str | None], tuple[str, Iterator[dict]]],
    annotations: Callable[[DataSet, str | None], Iterator[dict]],
) -> None:
    for split in (None, *data.splits.shares):
        with out.text(f"annotations_{split}.json" if split else "annotations.json") as file:
            file.write('{"info": {"description": "made by python -m backend export"},\n')
            write_list(file, *media(data, split))
            write_list(file, "annotations", annotations(data, split))
            write_list(file, "categories", _categories(data), last=True)
            file.write("}\n")


def _categories(data: DataSet) -> Iterator[dict]:
    for one in data.categories():
        yield {"id": one.number, "name": one.name, "supercategory": "", "isthing": int(one.thing)}


def _pictures(data: DataSet, split: str | None) -> tuple[str, Iterator[dict]]:
    return "images", (_picture(item, frame) for item in data.items(split) for frame, _ in data.known_frames(item))


def picture_number(frame: Frame) -> int:
    """The number of a page in COCO files; of a long film's frames, which a task's share does not hold, a digest."""
    if frame.page >= PAGES_OF_A_TASK:
        return number_of("picture", frame.task, frame.page)
    return frame.task * PAGES_OF_A_TASK + frame.page


def _picture(item: Item, frame: Frame) -> dict:
    height, width = frame.size
    entry = {"id": picture_number(frame), "file_name": file_name(item, frame), "width": width, "height": height}
    video = {"video": item.name, "frame": frame.number} if item.paged else {}
    return {**entry, "task": frame.task, **video, **({"split": item.split} if item.split else {})}


def _coco_annotations(data: DataSet, split: str | None) -> Iterator[dict]:
    categories = {one.name: one.number for one in data.categories()}
    for item in data.items(split):
        for frame, drawn in data.known_frames(item):
            for one in objects_only(drawn):
                yield {
                    "id": data.number(item, one),
                    "image_id": picture_number(frame),
                    "category_id": categories[item.objects[one.object].label],
                    **_shape(one.runs),
                    "iscrowd": 0,
                    **_point(one),
                    "attributes": _attributes(item, one),
                }


def _shape(runs: Runs) -> dict:
    return {"segmentation": runs.as_json(), "area": runs.area, "bbox": runs.box}


def _point(one: Drawn) -> dict:
    return {"keypoints": [*one.point, 2], "num_keypoints": 1} if one.point is not None else {}


def _attributes(item: Item, one: Drawn) -> dict:
    found = {"object": item.objects[one.object].number, "origin": one.origin, "shape": one.shape, "score": one.score}
    found |= {"annotation": one.annotation or None, "annotator": one.annotator}
    return {**found, "agreement": agreement_entry(one)}


def agreement_entry(one: Drawn) -> dict | None:
    """How much the annotators agree on an object; None where there was no vote."""
    if one.agreement is None:
        return None
    annotators, drew, overlap = one.agreement
    return {"annotators": annotators, "drew": drew, "overlap": overlap}


def video_number(item: Item) -> int:
    """The number of a video in YouTube-VIS files."""
    return number_of("video", item.key)


def _videos(data: DataSet, split: str | None) -> tuple[str, Iterator[dict]]:
    return "videos", (_video(data, item) for item in sized_items(data, split))


def _video(data: DataSet, item: Item) -> dict:
    height, width = item_size(data, item)
    entry = {"id": video_number(item), "name": item.name, "width": width, "height": height, "length": item.length}
    split = {"split": item.split} if item.split else {}
    return {**entry, "file_names": frame_names(data, item), "tasks": [task["task"] for task in item.tasks], **split}


def _tracks(data: DataSet, split: str | None) -> Iterator[dict]:
    categories = {one.name: one.number for one in data.categories()}
    for item in sized_items(data, split):
        height, width = item_size(data, item)
        for name, known in item.objects.items():
            shapes: list[Runs | None] = [None] * item.length
            for one in objects_only(list(data.track(item, name))):
                shapes[one.frame] = one.runs
            if any(shapes):
                yield {
                    "id": number_of("track", item.key, name),
                    "video_id": video_number(item),
                    "category_id": categories[known.label],
                    "segmentations": [runs.as_json() if runs else None for runs in shapes],
                    "bboxes": [runs.box if runs else None for runs in shapes],
                    "areas": [runs.area if runs else None for runs in shapes],
                    "iscrowd": 0,
                    "width": width,
                    "height": height,
                    "length": item.length,
                    "object": known.number,
                }


FORMATS: Mapping[str, Format] = {
    "coco": Format(write_coco, ("annotations*.json",)),
    "ytvis": Format(write_ytvis, ("annotations*.json",), one_size=True),
    "davis": Format(write_davis, ("Annotations", "ImageSets"), one_size=True),
    "png": Format(write_maps, ("*.png", "*.txt")),
    "x2sam": Format(write_own, ("masks",), own_manifest=True, one_size=True),
}

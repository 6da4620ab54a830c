"""Pictures with outlined objects in COCO's two layouts.

``coco``: ``images`` [{id, file_name, width, height}], ``annotations`` [{id, image_id, category_id, segmentation,
iscrowd}], ``categories`` [{id, name}]. Outlines are polygons or run lengths; crowds are ignored.

``coco-panoptic``: ``annotations`` [{image_id, file_name, segments_info [{id, category_id, iscrowd}]}] and a PNG per
picture whose RGB values are segment ids; ``categories`` have ``isthing``. Pixels with 0 were not labelled.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from x2sam.data.readers.files import Node, inside, read_json, read_map, read_picture, size_of
from x2sam.data.readers.listed import Instances, ListedDataset, Vocabulary, empty_masks, instances_sample
from x2sam.data.readers.shapes import decode_shape
from x2sam.data.readers.spec import DatasetSpec
from x2sam.data.task_sample import TaskSample
from x2sam.errors import FramesError


@dataclass(frozen=True)
class Picture:
    """A line of ``images``: id, file, size (H, W), and where it stands."""

    id: str
    path: Path
    name: str
    size: tuple[int, int]
    where: str


def read_pictures(content: Node, root: Path) -> dict[str, Picture]:
    """``images`` by id. ``file_name`` may be missing where a ``coco_url`` ends in it."""
    pictures: dict[str, Picture] = {}
    for entry in content.get("images").items():
        named = entry.get("file_name") if entry.has("file_name") else entry.get("coco_url")
        name = named.text() if entry.has("file_name") else named.text().rsplit("/", 1)[-1]
        identity = entry.get("id").identity()
        if identity in pictures:
            raise FramesError(f"{entry.where}: the id {identity} is there twice; number the pictures anew")
        pictures[identity] = Picture(identity, inside(root, name, entry.where), name, size_of(entry), entry.where)
    return pictures


@dataclass(frozen=True)
class Outline:
    """A line of ``annotations``. ``shape`` is decoded when the picture is read."""

    id: int
    category: int
    crowd: bool
    shape: Node


class CocoDataset(ListedDataset[tuple[Picture, tuple[Outline, ...]]]):
    """Layout ``coco``. Pictures without objects stay for category tasks and are left out where an object is needed."""

    def __init__(self, spec: DatasetSpec):
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        self._mode = spec.mode or "instance"
        self._file = spec.path("annotations").name
        pictures = read_pictures(content, spec.path("images"))
        vocabulary = Vocabulary.read(content)
        outlines: dict[str, list[Outline]] = defaultdict(list)
        for entry in content.get("annotations").items():
            picture = entry.get("image_id").identity()
            if picture not in pictures:
                raise FramesError(f"{entry.where} is for the picture {picture}, which is not listed; correct image_id")
            category = vocabulary.index(entry.get("category_id"))
            crowd = entry.optional("iscrowd").flag()
            outlines[picture].append(Outline(entry.get("id").whole(), category, crowd, entry.get("segmentation")))
        needed = spec.task not in ("genseg", "ovseg")
        records = [
            (picture, tuple(outlines[key]))
            for key, picture in pictures.items()
            if not needed or any(not o.crowd and vocabulary.things[o.category] for o in outlines[key])
        ]
        super().__init__(spec, "image", records, vocabulary=vocabulary)

    def _sample(self, record: tuple[Picture, tuple[Outline, ...]]) -> TaskSample:
        picture, outlines = record
        masks = empty_masks(1, len(outlines), picture.size, picture.where)
        for n, outline in enumerate(outlines):
            masks[0, n] = decode_shape(outline.shape, picture.size)
        truth = Instances(
            read_picture(picture.path, picture.size)[None],
            masks,
            np.array([o.category for o in outlines], np.int64),
            np.array([o.crowd for o in outlines], bool),
            tuple(o.id for o in outlines),
        )
        return instances_sample(self.task, self._mode, truth, self.vocabulary, key=f"{self._file}:{picture.name}")


@dataclass(frozen=True)
class Segment:
    """A line of ``segments_info``."""

    id: int
    category: int
    crowd: bool


def read_segments(entry: Node, vocabulary: Vocabulary) -> tuple[Segment, ...]:
    """``segments_info`` of one picture or frame. Raises :class:`FramesError` for an id that is there twice."""
    segments = tuple(
        Segment(
            line.get("id").whole(1, 2**24 - 1),
            vocabulary.index(line.get("category_id")),
            line.optional("iscrowd").flag(),
        )
        for line in entry.get("segments_info").items()
    )
    if len({s.id for s in segments}) < len(segments):
        raise FramesError(f"{entry.where} has two segments of one id; correct segments_info")
    return segments


def check_segments(labels: np.ndarray, segments: tuple[Segment, ...], path: Path) -> None:
    """Raises :class:`FramesError` where the PNG has ids that the list does not name."""
    stray = sorted(set(np.unique(labels).tolist()) - {0} - {s.id for s in segments})
    if stray:
        raise FramesError(f"{path} has the ids {stray[:5]} that its segments_info does not name; restore the files")


class CocoPanopticDataset(ListedDataset[tuple[Picture, Path, tuple[Segment, ...]]]):
    """Layout ``coco-panoptic``."""

    def __init__(self, spec: DatasetSpec):
        content = read_json(spec.path("annotations"), spec.largest_json_mb)
        self._mode = spec.mode
        self._file = spec.path("annotations").name
        pictures = read_pictures(content, spec.path("images"))
        vocabulary = Vocabulary.read(content)
        records = []
        for entry in content.get("annotations").items():
            picture = pictures.get(entry.get("image_id").identity())
            if picture is None:
                raise FramesError(f"{entry.where} is for a picture that is not listed; correct image_id")
            labels = inside(spec.path("masks"), entry.get("file_name").text(), entry.where)
            segments = read_segments(entry, vocabulary)
            things = any(vocabulary.things[s.category] and not s.crowd for s in segments)
            if things or spec.task in ("genseg", "ovseg"):
                records.append((picture, labels, segments))
        super().__init__(spec, "image", records, vocabulary=vocabulary)

    def _sample(self, record: tuple[Picture, Path, tuple[Segment, ...]]) -> TaskSample:
        picture, path, segments = record
        labels = read_map(path, picture.size)
        check_segments(labels, segments, path)
        masks = empty_masks(1, len(segments), picture.size, picture.where)
        for n, segment in enumerate(segments):
            masks[0, n] = labels == segment.id
        truth = Instances(
            read_picture(picture.path, picture.size)[None],
            masks,
            np.array([s.category for s in segments], np.int64),
            np.array([s.crowd for s in segments], bool),
            tuple(s.id for s in segments),
            (labels == 0)[None],
        )
        return instances_sample(self.task, self._mode, truth, self.vocabulary, key=f"{self._file}:{picture.name}")
